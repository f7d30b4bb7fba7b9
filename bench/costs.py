"""What an upload costs: measured on the running service, fitted to a line, and carried on to large numbers.

Run it as `python -m bench.costs`; `python -m bench.costs plan` prints what many uploads a minute would need.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import requests
from flask import Flask
from sqlalchemy import create_engine, text

from core import database
from core.database import db, utcnow
from models import File
from tests.kit.stack import PostgresServer, RedisServer, S3Server, Service, Web, Worker, wait_for

RESULTS = Path(__file__).parent / "results" / "costs.json"
KB, MB = 1_000, 1_000_000
COUNTS = {10 * KB: 200, 100 * KB: 200, 500 * KB: 100, 1 * MB: 100, 5 * MB: 30, 10 * MB: 20, 50 * MB: 6}
"""How many uploads of each size; enough for the clock that counts processor time in 10 ms."""
ROUNDS = 3
COSTS = ("accept", "deliver in a thread", "deliver by the worker")
ROWS = 3000
IDLE_SECONDS = 4
BUSY_SHARE = 0.6  # a core that is busier than this lets requests wait
S3_PUTS, S3_READS = 3500, 5500  # a second and prefix, says AWS
MULTIPART = 16 * 1024 * 1024
PART = 8 * 1024 * 1024
RATES = (100, 10_000, 1_000_000)
SIZES = (100 * KB, 1 * MB, 10 * MB)
COLUMNS = (
    *("uploads/min", "size", "web cores", "+ cores, async", "or cores, celery", "in and out, Gbit/s"),
    *("Redis, 60 s queued", "commits/s", "PostgreSQL cores", "rows, GB/day"),
    *("S3 writes/s", "prefixes", "spool, 60 s"),
)
BOUNDARY = "ferryman-costs"

Point = tuple[float, float]


class Line(NamedTuple):
    """A cost in milliseconds: so much for every upload, and so much for every MB of it."""

    per_upload: float
    per_mb: float

    def at(self, size: float) -> float:
        """The cost of one upload of a size in bytes."""
        return self.per_upload + self.per_mb * size / MB


def fit(points: list[Point]) -> Line:
    """Least squares over (bytes, milliseconds), of relative errors, so that small files count as much as large."""
    weighed = [(size / MB, cost, 1 / cost**2) for size, cost in points]
    total = sum(weight for *_, weight in weighed)
    mean_size = sum(size * weight for size, _, weight in weighed) / total
    mean_cost = sum(cost * weight for _, cost, weight in weighed) / total
    slope = sum((size - mean_size) * (cost - mean_cost) * weight for size, cost, weight in weighed)
    slope /= sum((size - mean_size) ** 2 * weight for size, _, weight in weighed)
    return Line(round(mean_cost - slope * mean_size, 3), round(slope, 3))


def cpu_seconds(service: Service) -> float:
    """Processor seconds of a service's processes so far, its ended ones not counted."""
    top = psutil.Process(service.pid)
    times = [process.cpu_times() for process in [top, *top.children(recursive=True)]]
    return sum(spent.user + spent.system for spent in times)


class Meter:
    """Processor time of a service, less what it takes when idle."""

    def __init__(self, service: Service) -> None:
        self._service = service
        before = cpu_seconds(service)
        time.sleep(IDLE_SECONDS)
        self._idle = (cpu_seconds(service) - before) / IDLE_SECONDS

    def milliseconds(self, work: Callable[[], None]) -> float:
        """What a piece of work takes."""
        before, started = cpu_seconds(self._service), time.monotonic()
        work()
        took = time.monotonic() - started
        return (cpu_seconds(self._service) - before - self._idle * took) * 1000


@contextmanager
def running(*services: S3Server | RedisServer | PostgresServer | Web | Worker) -> Iterator[None]:
    """Servers that are stopped at the end, the last one first."""
    with ExitStack() as stack:
        for service in services:
            service.start()
            stack.callback(service.stop)
            service.wait()
        yield


def form(size: int) -> bytes:
    """A form with one file of random bytes."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="costs.bin"\r\n\r\n'
    return head.encode() + os.urandom(size) + f"\r\n--{BOUNDARY}--\r\n".encode()


def measure_uploads(folder: Path) -> dict[str, Any]:
    """Accept and delivery on the whole service, with one web process and two worker processes."""
    s3, broker = S3Server(folder), RedisServer(folder)
    database = folder / "files.db"
    env = {
        **s3.settings,
        **broker.settings,
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{database}",
        "SPOOL_DIR": str(folder / "spool"),
        "LEASE_SECONDS": "300",  # the sweep leaves alone what is queued
    }
    web, worker = Web(folder, env), Worker(folder, env)
    points: dict[str, list[Point]] = {name: [] for name in COSTS}
    rounds: dict[int, list[tuple[float, float, float]]] = {size: [] for size in COUNTS}
    redis_bytes: dict[int, int] = {}
    spool_bytes: dict[int, int] = {}
    with running(s3, broker, web, worker), requests.Session() as session:
        engine = create_engine(env["SQLALCHEMY_DATABASE_URI"])

        def post(mode: str, body: bytes, count: int) -> None:
            for _ in range(count):
                headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
                answer = session.post(f"{web.url}/{mode}_upload", body, headers=headers, timeout=60)
                answer.raise_for_status()

        def complete() -> None:
            def all_are() -> bool:
                with engine.connect() as connection:
                    left = text("SELECT count(*) FROM files WHERE upload_status <> 'COMPLETE'")
                    return bool(connection.scalar(left) == 0)

            wait_for(all_are, 120, "end of deliveries")

        def deliver_async(body: bytes, count: int) -> None:
            post("async", body, count)
            complete()

        for mode in ("async", "celery"):  # warms everything up
            post(mode, form(10 * KB), 20)
            post(mode, form(20 * MB), 1)
        complete()
        web_meter, worker_meter = Meter(web), Meter(worker)
        for size, count in [item for _ in range(ROUNDS) for item in COUNTS.items()]:
            body = form(size)
            pause(worker, True)
            accept = web_meter.milliseconds(partial(post, "celery", body, count)) / count
            redis_bytes[size] = round(queued_bytes(broker) / count)
            spooled = sum(entry.stat().st_blocks * 512 for entry in (folder / "spool").iterdir())
            spool_bytes[size] = round(spooled / count)
            pause(worker, False)
            by_worker = worker_meter.milliseconds(complete) / count
            both = web_meter.milliseconds(partial(deliver_async, body, count)) / count
            say(f"{size:>10} bytes x {count:<3}  {accept=:.2f} {by_worker=:.2f} {both=:.2f} ms")
            rounds[size].append((accept, by_worker, both))
        engine.dispose()
    for size, found in rounds.items():
        # What disturbs a measurement only ever adds to it.
        accept, by_worker, both = (min(costs) for costs in zip(*found, strict=True))
        for name, cost in zip(COSTS, (accept, both - accept, by_worker), strict=True):
            points[name].append((size, round(cost, 3)))
    return {"points": points, "redis_bytes": redis_bytes, "spool_bytes": spool_bytes}


def queued_bytes(broker: RedisServer) -> int:
    """Memory of the queues in Redis, every message counted."""
    with broker.client as client:
        return sum(client.memory_usage(key, samples=0) or 0 for key in client.keys(b"ferryman*"))


def pause(worker: Worker, stop: bool) -> None:
    """Stop or continue a worker and its children, which are in one group."""
    worker.signal(signal.SIGSTOP if stop else signal.SIGCONT)


def measure_rows(folder: Path) -> dict[str, Any]:
    """What a row costs through its whole life, on both databases."""
    postgres = PostgresServer(folder)
    found: dict[str, Any] = {}
    with running(postgres):
        for name, uri in (("sqlite", f"sqlite:///{folder / 'rows.db'}"), ("postgresql", postgres.uri())):
            app = Flask(name)
            database.init_app(app, uri, survive_power_loss=False)
            with app.app_context():
                db.create_all()
                server_before = cpu_seconds(postgres)
                before = time.process_time()
                for _ in range(ROWS):
                    live_a_life()
                client = (time.process_time() - before) / ROWS * 1000
                server = (cpu_seconds(postgres) - server_before) / ROWS * 1000
                found[name] = {"client_ms": round(client, 2), **row_bytes(name)}
                if name == "postgresql":
                    found[name]["server_ms"] = round(server, 2)
                db.session.remove()
                db.engine.dispose()
    return found


def live_a_life() -> None:
    """Insert a row, claim it and complete it: three commits that write."""
    now = utcnow()
    row = File(
        id=database.new_id(),
        owner="anonymous",
        name="report.pdf",
        key=f"20261125023251--report-{database.new_id()[:16]}.pdf",
        mode="async",
        size=1 * MB,
        content_type="application/pdf",
        crc64nvme="AAAAAAAAAAA=",
        spool_id=database.new_id()[:16],
        due_at=now + timedelta(seconds=30),
        retry_until=now + timedelta(days=1),
    )
    db.session.add(row)
    db.session.commit()
    owner = database.new_id()
    File.claim(row.id, owner, 30)
    url = f"https://my-bucket.s3.ap-southeast-1.amazonaws.com/{row.key}"
    File.complete(row.id, owner, url, database.new_id() * 2)
    db.session.expunge_all()


def row_bytes(name: str) -> dict[str, int]:
    """Bytes per row with its indexes, after its life and when all that is dead is cleared away."""
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if name == "sqlite":
            connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
            used = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        else:
            used = "SELECT pg_total_relation_size('files')"
        lived = connection.scalar(text(used))
        connection.execute(text("VACUUM" if name == "sqlite" else "VACUUM FULL files"))
        packed = connection.scalar(text(used))
    return {"bytes": round(lived / ROWS), "packed_bytes": round(packed / ROWS)}


def report(found: dict[str, Any]) -> None:
    """Print the lines and how far the points are from them."""
    say(f"\n{found['at']}, {found['cores']} cores, load average {found['load_average']} at the start\n")
    for name, points in found["points"].items():
        line = Line(*found["lines"][name])
        say(f"{name}: {line.per_upload} ms + {line.per_mb} ms/MB")
        for size, cost in points:
            fitted = line.at(size)
            say(f"  {size:>10} bytes  {cost:8.2f} ms  fitted {fitted:8.2f}  {cost / fitted - 1:+6.0%}")
    for name, row in found["rows"].items():
        say(f"{name}: {row}")
    say(f"Redis bytes per queued upload, by size: {found['redis_bytes']}")
    say(f"spool bytes per queued upload, by size: {found['spool_bytes']}")


def plan(found: dict[str, Any]) -> None:
    """Print what many uploads a minute need, were every cost to grow as measured."""
    accept, thread = Line(*found["lines"]["accept"]), Line(*found["lines"]["deliver in a thread"])
    worker, row = Line(*found["lines"]["deliver by the worker"]), found["rows"]["postgresql"]
    say(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for rate in RATES:
        for size in SIZES:
            second = rate / 60
            parts = math.ceil(size / PART) + 2 if size > MULTIPART else 1
            queued = found["redis_bytes"][str(size)]
            cells = [
                f"{rate:,}",
                f"{size / MB:g} MB",
                cores(second * accept.at(size)),
                cores(second * thread.at(size)),
                cores(second * worker.at(size)),
                f"{second * size * 8 / 1e9:.2g}",
                amount(second * 60 * queued),
                f"{second * 3:,.0f}",
                cores(second * row["server_ms"]),
                f"{second * 86400 * row['packed_bytes'] / 1e9:,.2g}",
                f"{second * parts:,.0f}",
                str(max(math.ceil(second * parts / S3_PUTS), math.ceil(second / S3_READS))),
                amount(second * 60 * size),
            ]
            say("| " + " | ".join(cells) + " |")


def cores(milliseconds_a_second: float) -> str:
    """Cores that are not busier than they should be."""
    needed = milliseconds_a_second / 1000 / BUSY_SHARE
    return f"{needed:.2f}" if needed < 1 else f"{math.ceil(needed):,}"


def amount(size: float) -> str:
    """Bytes in a unit that fits."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Measure, fit, report and write down; or only plan from what was written down."""
    if sys.argv[1:] == ["plan"]:
        plan(json.loads(RESULTS.read_text()))
        return
    load_average = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory(prefix="ferryman-costs-") as folder:
        found = measure_uploads(Path(folder))
        found["rows"] = measure_rows(Path(folder))
    found["lines"] = {name: fit(points) for name, points in found["points"].items()}
    found |= {"cores": os.cpu_count(), "load_average": load_average}
    found["at"] = datetime.now(UTC).isoformat(timespec="seconds")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    report(found)


if __name__ == "__main__":
    main()
