"""What processing costs: make bench-processing prints CPU seconds, memory and ratios.

Each thing runs in a process of its own, ours behind its walls, the others bare: Pillow's thumbnails, DuckDB's and
polars' own CSV readers, openpyxl's read-only mode. Beside the readers stands what they have silently changed.
"""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import requests

from bench.servers import Sink, our_settings, running, s3_settings
from config import MIB, Config
from core.database import utcnow
from models import File
from processing.budgets import limits_of
from processing.sandbox import parent as sandbox
from tests.kit.lanes import preset
from tests.kit.made import made
from tests.kit.stack import RedisServer, Web

ROWS, QUICK_ROWS = 812_152, 81_215
SHEET_ROWS, QUICK_SHEET_ROWS = 1_000_000, 100_000
SIDES = (2048, 1024, 320)
BUSY_SECONDS = 8.0
SMALL = 100_000

PILLOW = """
import sys
from PIL import Image
image = Image.open(sys.argv[1]); image.draft("RGB", (2048, 2048)); image = image.convert("RGB")
for side in (2048, 1024, 320):
    image.thumbnail((side, side)); image.save(f"{side}.%s", quality=80)
"""
DUCKDB = """
import sys, duckdb
duckdb.sql(f"COPY (SELECT * FROM read_csv('{sys.argv[1]}', sample_size=-1)) TO 'd.parquet' (FORMAT parquet)")
print("price:", duckdb.sql("SELECT typeof(price) FROM 'd.parquet' LIMIT 1").fetchall()[0][0])
"""
POLARS = """
import sys, polars
frame = polars.read_csv(sys.argv[1]); frame.write_parquet("p.parquet")
print("zip:", frame["zip"].dtype, frame["zip"][0])
"""
OPENPYXL = """
import sys, openpyxl
book = openpyxl.load_workbook(sys.argv[1], read_only=True, data_only=True)
for row in book.active.iter_rows(values_only=True): pass
"""


class Cost(NamedTuple):
    """What a process has used, and what is to be said of its result."""

    name: str
    cpu_seconds: float
    wall_seconds: float
    megabytes: float
    note: str = ""

    def line(self, base: Cost) -> str:
        """Return a line of the table, with the ratio to the first."""
        ratio = self.cpu_seconds / base.cpu_seconds
        return (
            f"  {self.name:34} {self.cpu_seconds:7.2f} s CPU {self.wall_seconds:7.2f} s {self.megabytes:6.0f} MB"
            f" {ratio:6.2f} x  {self.note}"
        )


def ours(name: str, lane: str, source: Path, recipes: list[dict[str, object]]) -> Cost:
    """Run one of our lanes, as a slot does."""
    kind = "image" if lane == "images" else "table"
    config = Config.from_mapping({"S3_BUCKET_NAME": "any"})
    limits = limits_of(kind, File.draft("a", size=source.stat().st_size, created_at=utcnow()), config)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, source.open("rb") as file:
        answer = sandbox.run(lane, recipes, limits, file, Path(scratch), lambda: None, 60)
    return Cost(name, answer.cpu_seconds, time.monotonic() - began, answer.memory_bytes / MIB)


def theirs(name: str, script: str, source: Path) -> Cost:
    """Run a few lines of another library."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        # By a fork of a small process: else the peak of this one would be taken for that of the child.
        command = ["sh", "-c", 'exec "$0" "$@"', sys.executable, "-c", script, str(source)]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        said = process.stdout.read() if process.stdout else ""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        return Cost(name, float("nan"), 0, 0, "is not installed, or failed")
    seconds = used.ru_utime + used.ru_stime
    return Cost(name, seconds, time.monotonic() - began, used.ru_maxrss / 1024, said.strip())


def sizes(image_format: str) -> list[dict[str, object]]:
    """Return the recipes of three sizes."""
    found = [preset("image", {"width": side, "height": side, "format": image_format}) for side in SIDES]
    return [{**recipe, "digest": str(number)} for number, recipe in enumerate(found)]


def photo(path: Path, width: int, height: int) -> Path:
    """Write a picture with as much detail as a photo."""
    script = (
        "import sys, pyvips; w, h = int(sys.argv[2]), int(sys.argv[3]);"
        "noise = pyvips.Image.gaussnoise(w // 8, h // 8, mean=128, sigma=40).resize(8);"
        "tint = pyvips.Image.xyz(w, h); bands = [noise, tint[0] * 255 / w, tint[1] * 255 / h];"
        "image = bands[0].bandjoin(bands[1:]).cast('uchar').copy(interpretation='srgb');"
        "image.jpegsave(sys.argv[1], Q=85)"
    )
    subprocess.run([sys.executable, "-c", script, str(path), str(width), str(height)], check=True)
    return path


def table(path: Path, rows: int) -> Path:
    """Write a CSV file with what trips readers: zeros in front, long numbers, quotes, lines in cells."""
    chance = random.Random(1)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "zip", "account", "price", "score", "day", "at", "flag", "name", "note"])
        for number in range(rows):
            writer.writerow(
                [
                    number,
                    f"{chance.randrange(100_000):05}",
                    10**18 + number,
                    f"{chance.randrange(100_000) / 100:.2f}",
                    repr(chance.random()),
                    f"2026-{chance.randrange(1, 13):02}-{chance.randrange(1, 29):02}",
                    f"2026-01-{chance.randrange(1, 29):02} 10:{chance.randrange(60):02}:00",
                    chance.choice(["true", "false"]),
                    "Müller, A" if number % 7 == 0 else "Smith",
                    "" if number % 3 else 'a "quoted"\nline' if number % 30 == 0 else "plain note",
                ]
            )
    return path


def sheet_rows(rows: int) -> Iterator[bytes]:
    """Yield the XML of so many rows of ten cells."""
    chance = random.Random(1)
    yield b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
    for row in range(1, rows + 2):
        cells = "".join(
            f'<c r="{letter}{row}" t="inlineStr"><is><t>text {row % 1000}</t></is></c>'
            if row == 1 or column > 7
            else f'<c r="{letter}{row}"><v>{row * column if column < 4 else chance.random()!r}</v></c>'
            for column, letter in enumerate("ABCDEFGHIJ")
        )
        yield f'<row r="{row}">{cells}</row>'.encode()
    yield b"</sheetData></worksheet>"


def workbook(path: Path, rows: int) -> Path:
    """Write a workbook of so many rows of ten cells."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    documents = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    related = '<Relationship Id="rId1" Type="{}/{}" Target="{}"/>'
    relation = f'<Relationships xmlns="{package}/relationships">{related}</Relationships>'
    members = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        f'<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kind}.worksheet+xml"/></Types>',
        "_rels/.rels": relation.format(documents, "officeDocument", "xl/workbook.xml"),
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{documents}"><sheets>'
        '<sheet name="Data" sheetId="1" r:id="rId1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": relation.format(documents, "worksheet", "worksheets/sheet1.xml"),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
        with archive.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as file:
            for part in sheet_rows(rows):
                file.write(part)
    return path


def show(title: str, costs: list[Cost]) -> None:
    """Print what is compared, ours first."""
    sys.stdout.write(f"{title}\n" + "\n".join(cost.line(costs[0]) for cost in costs) + "\n")
    sys.stdout.flush()


def compare(folder: Path, is_quick: bool) -> None:
    """Compare the lanes with what others would take."""
    large, usual = photo(folder / "48.jpg", 8000, 6000), photo(folder / "12.jpg", 4000, 3000)
    for name, source, kind in (("48 MP to three JPEG", large, "jpeg"), ("12 MP to three WebP", usual, "webp")):
        pillow = theirs("Pillow, with draft", PILLOW % kind, source)
        show(
            f"{name} ({source.stat().st_size / MIB:.1f} MiB)",
            [ours("ours", "images", source, sizes(kind)), pillow],
        )
    source = table(folder / "a.csv", QUICK_ROWS if is_quick else ROWS)
    recipe = [preset("table", {})]
    show(
        f"CSV, {source.stat().st_size / MIB:.0f} MiB",
        [
            ours("ours, typed and proven", "tables.lane", source, recipe),
            ours("ours, as text and proven", "tables.lane", source, [preset("table", {"typing": "text"})]),
            theirs("DuckDB's own reader", DUCKDB, source),
            theirs("polars' own reader", POLARS, source),
        ],
    )
    book = workbook(folder / "a.xlsx", QUICK_SHEET_ROWS if is_quick else SHEET_ROWS)
    show(
        f"xlsx, {book.stat().st_size / MIB:.0f} MiB",
        [
            ours("ours, read, typed and proven", "tables.lane", book, recipe),
            theirs("openpyxl, read-only, reading alone", OPENPYXL, book),
        ],
    )


PRESETS = """
[a]
kind = "image"
width = 2048
[b]
kind = "image"
width = 1024
[c]
kind = "image"
width = 320
[t]
kind = "table"
table = "t"
"""


def serve(folder: Path) -> None:
    """Measure a whole service: how soon three sizes are COMPLETE, and what uploads cost beside busy lanes."""
    presets = folder / "presets.toml"
    presets.write_text(PRESETS)
    with ExitStack() as stack:
        sink, redis = Sink(folder), RedisServer(folder)
        stack.enter_context(running(sink))
        stack.enter_context(running(redis))
        env = our_settings(folder, s3_settings(sink.port), redis) | {"AUTH": "open", "PRESETS_FILE": str(presets)}
        web = Web(folder, env, workers=2)
        web.start()
        stack.callback(web.kill)
        web.wait()
        source = folder / "12.jpg"
        seconds = []
        for _ in range(5):
            began = time.monotonic()
            made(web, _post(web, source, "a,b,c"))
            seconds.append(time.monotonic() - began)
        sys.stdout.write(f"12 MP photo to three sizes COMPLETE, async, idle: {sorted(seconds)[2]:.2f} s\n")
        alone = _per_second(web)
        ids = [_post(web, folder / "a.csv", "t") for _ in range(8)]
        for file_id in ids:  # what is measured is the making, not the delivery of the originals
            web.settled(file_id, 60)
        busy = _per_second(web)
        assert web.file(ids[-1])["derivatives_status"] != "COMPLETE", "the lanes were not busy all the time"
        sys.stdout.write(
            f"uploads of 100 kB per second: {alone:.0f} alone, {busy:.0f} beside busy lanes ({busy / alone:.0%})\n"
        )


def _post(web: Web, source: Path, process: str) -> str:
    with source.open("rb") as file:
        answer = requests.post(
            f"{web.url}/async_upload", data={"process": process}, files={"file": file}, timeout=60
        )
    return str(answer.json()["id"])


def _per_second(web: Web) -> float:
    session, count, ends = requests.Session(), 0, time.monotonic() + BUSY_SECONDS
    while time.monotonic() < ends:
        files = {"file": ("a.bin", bytes(SMALL))}
        session.post(
            f"{web.url}/async_upload", data={"process": "none"}, files=files, timeout=60
        ).raise_for_status()
        count += 1
    return count / BUSY_SECONDS


def main() -> None:
    """Run it all."""
    is_quick = "--quick" in sys.argv
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), is_quick)
        serve(Path(folder))


if __name__ == "__main__":
    main()
