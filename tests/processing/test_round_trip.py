"""Any table of any text, written as any CSV dialect that we claim, becomes Parquet that gives the text back."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from processing.lanes.outcome import Unprocessable
from processing.lanes.tables import engine, lane
from tests.kit import lanes

READ = "SELECT CAST(COLUMNS(*) AS VARCHAR) FROM read_parquet('part-0.parquet')"
LIMITS = {"unpacked": 2**30, "cells": 10**6, "rejected_percent": 0}
NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**6), max_value=10**6).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(0, 10**7).map(lambda number: f"{number:,}"),
    st.integers(0, 99999).map(lambda number: f"{number:05}"),
    st.sampled_from(["1,5", "1.234", "1,234", "+1", "-0", "1e5", "1E-7", " 1", "1_000", "0x10", "1.0", "007"]),
)
MOMENTS = st.one_of(
    st.dates().map(str),
    st.dates().map(lambda day: f"{day.day}.{day.month}.{day.year}"),
    st.dates().map(lambda day: f"{day.month:02}/{day.day:02}/{day.year:04}"),
    st.datetimes().map(lambda moment: str(moment)[:19]),
    st.datetimes().map(lambda moment: f"{moment.isoformat()[:19]}Z"),
    st.times().map(lambda moment: moment.isoformat()[:8]),
    st.times().map(lambda moment: moment.isoformat()[:5]),
)
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.text("a\",;\t|\r\n\\ \0\x1a\ufeff=+-@'", max_size=8),
    st.sampled_from(["", "", "true", "false", "NA", "NULL", "inf", "nan", "epoch", "\x1a0", "\x1a1", "\r", "\n"]),
)
CELLS = st.one_of(TEXTS, NUMBERS, MOMENTS)
COLUMNS = st.sampled_from([TEXTS, NUMBERS, MOMENTS, CELLS, st.dates().map(str), st.integers(0, 99).map(str)])


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    """Columns of one kind of cells or of many, with a header that says nothing."""
    kinds = draw(st.lists(COLUMNS, min_size=1, max_size=4))
    count = draw(st.integers(1, 8))
    columns = [draw(st.lists(kind, min_size=count, max_size=count)) for kind in kinds]
    return [list(row) for row in zip(*columns, strict=True)]


def written(rows: list[list[str]], delimiter: str, newline: str, encoding: str, mark: bool) -> bytes:
    """Quotes what RFC 4180 wants quoted; Python's own writer leaves a CR bare where LF ends the rows."""
    header = [f"name {number} x" for number in range(len(rows[0]))]
    lines = [delimiter.join(_quoted(cell, delimiter, len(row)) for cell in row) for row in [header, *rows]]
    content = "".join(line + newline for line in lines).encode(encoding)
    return "\ufeff".encode(encoding) + content if mark else content


def _quoted(cell: str, delimiter: str, width: int) -> str:
    is_odd = any(char in cell for char in (delimiter, '"', "\r", "\n")) or (width == 1 and not cell)
    return '"' + cell.replace('"', '""') + '"' if is_odd else cell


def read_back(content: bytes, values: dict[str, Any], folder: Path) -> list[list[str]]:
    """Run the lane in this process, and read its file."""
    source = folder / "source.csv"
    source.write_bytes(content)
    with chdir(folder), source.open("rb") as file:
        try:
            made = lane.run(file.fileno(), [lanes.preset("table", values)], LIMITS)
        finally:
            engine.database().execute("DROP TABLE IF EXISTS t")
        assert not made.error, made.error
        rows = engine.database().execute(READ).fetchall()
    return [["" if cell is None else cell for cell in row] for row in rows]


@pytest.fixture(scope="module")
def folder() -> Any:
    engine.database()
    path = Path(tempfile.mkdtemp())
    yield path
    shutil.rmtree(path)


DIALECTS = st.tuples(
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([("utf-8", False), ("utf-8", True), ("utf-16-le", True), ("utf-16-be", True)]),
)


def without_blank(rows: list[list[str]]) -> list[list[str]]:
    """Rows without any cell are counted as blank, and are in no table."""
    return [row for row in rows if any(row)]


@settings(
    max_examples=int(os.environ.get("ROUND_TRIPS", "150")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=tables(), dialect=DIALECTS)
@example(rows=[["a\r\nb"], ["\x1a0\r"]], dialect=(",", "\r\n", ("utf-8", False)))
@example(rows=[["\ufeff"], ["\0"]], dialect=(";", "\n", ("utf-8", True)))
def test_as_text_the_same_cells_come_back(folder: Path, rows: list[list[str]], dialect: Any) -> None:
    delimiter, newline, (encoding, mark) = dialect
    content = written(rows, delimiter, newline, encoding, mark)
    hints = {"delimiter": delimiter, "header": 1, "typing": "text"}
    if encoding == "utf-8" and not mark:
        hints["encoding"] = "utf-8"
    wanted = without_blank(rows)
    assert read_back(content, hints, folder) == wanted


@settings(
    max_examples=int(os.environ.get("ROUND_TRIPS", "150")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=tables(), dialect=DIALECTS, typing=st.sampled_from(["exact", "exact", "value"]))
def test_typed_the_proof_holds_or_nothing_is_made(
    folder: Path, rows: list[list[str]], dialect: Any, typing: str
) -> None:
    """The lane writes the typed file, reads it, renders it and compares; here only that it never fails to."""
    delimiter, newline, (encoding, mark) = dialect
    content = written(rows, delimiter, newline, encoding, mark)
    try:
        found = read_back(content, {"delimiter": delimiter, "header": 1, "typing": typing}, folder)
    except Unprocessable:  # so many NULs that it looks like UTF-16
        return
    assert len(found) == len(without_blank(rows))


@settings(
    max_examples=int(os.environ.get("ROUND_TRIPS", "150")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(content=st.one_of(st.binary(max_size=200), st.text('a",;\n\r1.\\', max_size=60).map(str.encode)))
def test_any_bytes_are_a_table_or_are_refused(folder: Path, content: bytes) -> None:
    source = folder / "source.csv"
    source.write_bytes(content)
    for name in ("part-0.parquet", "rejected.csv"):
        (folder / name).unlink(missing_ok=True)
    with chdir(folder), source.open("rb") as file:
        try:
            made = lane.run(file.fileno(), [lanes.preset("table", {})], LIMITS)
        except Unprocessable:
            return
        finally:
            engine.database().execute("DROP TABLE IF EXISTS t")
    assert made.error or (folder / "part-0.parquet").exists()
