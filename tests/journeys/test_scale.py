"""A million rows: every query has its index. Thirty-two writers: every one of them gets through."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from flask import Flask
from flask_migrate import Migrate, upgrade
from sqlalchemy import event, text

from app import create_app
from core import database, metadata
from core.database import db, transaction, utcnow
from delivery import lifetime
from intake.idempotency import Claim, claim, forget_old
from models import File, UploadStatus
from storage import file_queries
from tests.kit.stack import ROOT, PostgresServer

pytestmark = [pytest.mark.scale, pytest.mark.timeout(600)]

ROWS = 1_000_000
KEYS = 200_000
WRITERS = 32
FILES_PER_WRITER = 10
MIGRATIONS = str(ROOT / "migrations")

# Of the newest 20,000 a quarter is undelivered, and a fifth of that due; of all, one in a thousand has failed, one
# in ten belongs to a user, every second is of the same album, and one in four has expired.
FILES = """
INSERT INTO files (id, owner, name, name_search, key, mode, size, content_type, crc64nvme, attempts, spool_id,
                   upload_status, due_at, retry_until, created_at, updated_at, subject, user_metadata, expires_at)
SELECT {digest}, CASE WHEN i % 1000 = 500 THEN 'rare' ELSE 'busy' END,
       'Report.pdf', 'report.pdf', '20261125023251--report-' || i || '.pdf', 'async', 500000, 'application/pdf',
       'AAAAAAAAAAA=', 1, 'spool-' || (i / 100) % 5,
       CASE WHEN i <= 20000 AND i % 8 = 0 THEN 'PENDING' WHEN i <= 20000 AND i % 8 = 4 THEN 'PROCESSING'
            WHEN i % 1000 = 1 THEN 'ERROR' ELSE 'COMPLETE' END,
       CASE WHEN i <= 20000 AND i % 5 <> 0 THEN {in_time} ELSE {ago} END, {ago}, {ago}, {ago},
       CASE WHEN i % 10 = 3 THEN 'user-' || (i / 100) % 1000 END,
       CASE WHEN i % 2 = 0 THEN '{{"album":"7"}}' END, CASE WHEN i % 4 = 2 THEN {ago} END
FROM {numbers}
"""
ENTRIES = """
INSERT INTO file_metadata (owner, digest, created_at, file_id)
SELECT 'busy', '{word}', {ago}, {digest} FROM {numbers} WHERE i % {every} = 0
"""
IDEMPOTENCY_KEYS = """
INSERT INTO idempotency_keys (key, owner, due_at, fingerprint, file_id)
SELECT 'key-' || i, 'owner', CASE WHEN i % 1000 = 0 THEN {ago} ELSE {in_time} END, 'f', {digest}
FROM {numbers}
"""
DIALECTS = {
    "sqlite": {
        "digest": "md5(i)",
        "ago": "strftime('%Y-%m-%d %H:%M:%f000', 'now', '-' || i || ' seconds')",
        "in_time": "strftime('%Y-%m-%d %H:%M:%f000', 'now', (300 + i % 200) || ' seconds')",
        "numbers": """(WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
                      SELECT i FROM n)""",
    },
    "postgresql": {
        "digest": "md5(i::text)",
        "ago": "now() - i * interval '1 second'",
        "in_time": "now() + (300 + i % 200) * interval '1 second'",
        "numbers": "generate_series(1, {rows}) AS n(i)",
    },
}


def file_id(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


@contextmanager
def made_app(uri: str) -> Iterator[Flask]:
    """An app with nothing but the database, made by the migrations."""
    app = Flask(__name__)
    database.init_app(app, uri, survive_power_loss=False)
    Migrate(app, db, directory=MIGRATIONS)
    with app.app_context():
        upgrade()
        yield app
        db.session.remove()
        db.engine.dispose()


def fill() -> None:
    """Insert all rows; PostgreSQL gathers its statistics by itself, but later, and SQLite never does."""
    dialect = db.engine.dialect.name
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if dialect == "sqlite":
            driver: Any = connection.connection.driver_connection
            driver.create_function("md5", 1, file_id, deterministic=True)
            connection.execute(text("PRAGMA cache_size=-500000"))
        statements: list[tuple[str, int, dict[str, Any]]] = [(FILES, ROWS, {}), (IDEMPOTENCY_KEYS, KEYS, {})]
        for every, pair in ((2, ("album", "7")), (1000, ("order", "17"))):
            statements.append((ENTRIES, ROWS, {"every": every, "word": metadata.digest(*pair)}))
        for statement, rows, more in statements:
            parts = DIALECTS[dialect]
            numbers = parts["numbers"].format(rows=rows)
            connection.execute(
                text(statement.format_map({**parts, **more, "numbers": numbers}).replace(":", r"\:"))
            )
        if dialect == "postgresql":
            connection.execute(text("VACUUM ANALYZE"))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def million(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """An app on a database with a million files."""
    if request.param == "sqlite":
        uri = f"sqlite:///{tmp_path_factory.mktemp('scale') / 'files.db'}"
    else:
        uri = request.getfixturevalue("postgres").new_database("scale")
    with made_app(uri) as app:
        fill()
        yield app


Statement = tuple[str, Any]


@contextmanager
def watched() -> Iterator[list[Statement]]:
    """What is sent to the database meanwhile."""
    sent: list[Statement] = []

    def note(_c: object, _u: object, statement: str, parameters: Any, _x: object, _m: object) -> None:
        sent.append((statement, parameters))

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(db.engine, "before_cursor_execute", note)


def plan(statement: Statement) -> str:
    """How the database would execute a statement."""
    explain = "EXPLAIN QUERY PLAN " if db.engine.dialect.name == "sqlite" else "EXPLAIN "
    with db.engine.connect() as connection:
        rows = connection.exec_driver_sql(explain + statement[0], statement[1]).all()
    return "\n".join(str(row[-1]) for row in rows)


def listed(owner: str, after: int | None = None, **narrowed: Any) -> Callable[[], object]:
    """A listing, newest first, from a row on."""

    def read() -> object:
        row = File.find(file_id(after)) if after else None
        return file_queries.page(owner, 50, (row.created_at, row.id) if row else None, **narrowed)

    return read


def in_flight() -> None:
    with db.engine.connect() as connection:
        assert file_queries.count_in_flight(connection, [{"owner": "busy"}])


def in_flight_of_user() -> None:
    with db.engine.connect() as connection:
        file_queries.count_in_flight(connection, [{"owner": "busy", "subject": "user-7"}])


def take_key() -> None:
    with claim("a new key", ("anonymous",), 30) as held, db.engine.begin() as connection:
        held.finish(connection, "fingerprint", file_id(1))


def remember_key() -> None:
    held = Claim("key-7", 30)
    held.begin()
    assert held.earlier


QUERIES: dict[str, Callable[[], object]] = {
    "status by id": lambda: File.find(file_id(123_456)),
    "due": lambda: file_queries.due("spool-1", 4),
    "due, many": lambda: file_queries.due("spool-2", 32),
    "due, nothing is": lambda: file_queries.due("no such spool", 4),
    "claim": lambda: File.claim(file_id(16), "owner", 30, "spool-0"),
    "complete": lambda: File.complete(file_id(16), "owner", "url", "sha256"),
    "oldest undelivered": file_queries.oldest_undelivered,
    "own status by id": lambda: File.find_own(file_id(123_456), "busy"),
    "in flight": in_flight,
    "erased": lambda: file_queries.erased(["spool-1"]),
    "listing": listed("busy"),
    "listing, far back": listed("busy", 900_000),
    "listing of the rare": listed("rare"),
    "listing of COMPLETE, far back": listed("busy", 900_000, status=UploadStatus.COMPLETE),
    "listing of ERROR": listed("busy", status=UploadStatus.ERROR),
    "listing of a mode": listed("busy", mode="async"),
    "listing of a name": listed("busy", name="REPORT"),
    "listing of a user": listed("busy", subject="user-7"),
    "listing of a user, far back": listed("busy", 900_000, subject="user-7"),
    "listing of metadata": listed("busy", words={"album": "7"}),
    "listing of metadata, far back": listed("busy", 900_000, words={"album": "7"}),
    "listing of rare metadata": listed("busy", words={"order": "17"}),
    "listing of two": listed("busy", words={"order": "17", "album": "7"}),
    "own status of a user": lambda: File.find_own(file_id(123_453), "busy", "user-234"),
    "in flight of a user": in_flight_of_user,
    "expired": file_queries.over,
    "ended": lambda: file_queries.ended(["spool-1"], UploadStatus.COMPLETE, utcnow()),
    "ended in ERROR": lambda: file_queries.ended(["spool-1"], UploadStatus.ERROR, utcnow()),
    "rows of a batch of ids": lambda: list(file_queries.among(file_id(number) for number in range(1, 500))),
    "new idempotency key": take_key,
    "known idempotency key": remember_key,
    "forget old keys": forget_old,
}


# Where SQLite has a choice of indexes, and a wrong one would read every row of the owner.
INDEXES = {"in flight": ["ix_files_owner"], "in flight of a user": ["ix_files_subject"]}


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_needs_no_scan_and_no_sort(million: Flask, name: str) -> None:
    with million.app_context():
        with watched() as sent:
            started = time.perf_counter()
            QUERIES[name]()
            milliseconds = (time.perf_counter() - started) * 1000
        db.session.rollback()
        sent = [statement for statement in sent if not statement[0].startswith(("INSERT", "PRAGMA"))]
        plans = "\n".join(plan(statement) for statement in sent)
    for index in INDEXES.get(name, ()):
        assert f"{index} " in plans, plans
    sys.stdout.write(f"\n{million.config['SQLALCHEMY_DATABASE_URI'][:8]} {name}: {milliseconds:.1f} ms\n{plans}\n")
    for line in plans.splitlines():
        is_tiny = line.strip().startswith(("SCAN spools", "->  Seq Scan on spools"))
        assert "Seq Scan" not in line or is_tiny, plans
        assert "SCAN" not in line or "USING" in line or is_tiny, plans
    for line in plans.splitlines():
        assert "Sort" not in line, plans
        assert "TEMP B-TREE" not in line, plans


@pytest.mark.parametrize("chore", [lifetime.expire_files, lifetime.forget_rows], ids=lambda chore: chore.__name__)
def test_what_expires_and_what_is_forgotten_holds_up_no_upload(
    million: Flask, tmp_path: Path, chore: Callable[[], None]
) -> None:
    """Uploads are written while a chore works on a million rows; the slowest waits for one batch."""
    env = {"S3_BUCKET_NAME": "none", "SPOOL_DIR": str(tmp_path / "spool"), "ROW_RETENTION_SECONDS": "1"}
    app = create_app({**env, "SQLALCHEMY_DATABASE_URI": million.config["SQLALCHEMY_DATABASE_URI"]})
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(
            text("UPDATE files SET spool_id = :here"), {"here": app.extensions["ferryman"].spool.id}
        )
    before, alone = rows_left(app), seconds_of_writes(app, lambda: False)
    job = threading.Thread(target=in_app, args=(app, chore))
    job.start()
    beside = seconds_of_writes(app, job.is_alive)
    job.join()
    done = before - rows_left(app)
    where = million.config["SQLALCHEMY_DATABASE_URI"][:8]
    sys.stdout.write(
        f"\n{where} {chore.__name__}: {done} rows in a turn; a write takes {1000 * median(alone):.1f} ms,"
        f" beside it {1000 * median(beside):.1f} ms, at most {1000 * max(beside):.0f} ms of {len(beside)}\n"
    )
    assert done > 1000
    assert len(beside) > 100
    assert max(beside) < 1
    with app.app_context():
        db.engine.dispose()


def in_app(app: Flask, chore: Callable[[], None]) -> None:
    with app.app_context():
        chore()


def rows_left(app: Flask) -> int:
    with app.app_context(), db.engine.connect() as connection:
        return connection.scalar(text("SELECT count(*) FROM files WHERE erased_at IS NULL")) or 0


def seconds_of_writes(app: Flask, goes_on: Callable[[], bool]) -> list[float]:
    """Write the rows of uploads, a hundred at least. Returns how long each takes."""
    taken: list[float] = []
    with app.app_context():
        while goes_on() or len(taken) < 100:
            now, began = utcnow(), time.perf_counter()
            same = {"due_at": now, "retry_until": now, "created_at": now, "updated_at": now, "attempts": 0}
            facts = {"mode": "async", "size": 1, "content_type": "text/plain", "detected_type": "text/plain"}
            named = {"id": database.new_id(), "key": database.new_id(), "owner": "busy", "spool_id": "elsewhere"}
            named["crc64nvme"] = "AAAAAAAAAAA="
            draft = File.draft("a.txt", **same, **facts, **named, upload_status=UploadStatus.PENDING, bytes_sent=0)
            with transaction() as connection:
                File.insert(connection, draft)
            taken.append(time.perf_counter() - began)
            time.sleep(0.005)
    return taken


def write_files(app: Flask, first: threading.Barrier | None = None) -> int:
    """Bring a few rows through their whole life, as a request and a delivery do."""
    if first:
        first.wait()
    done = 0
    with app.app_context():
        for _ in range(FILES_PER_WRITER):
            now = utcnow()
            row = File(
                id=database.new_id(),
                owner="busy",
                name="a.txt",
                key=database.new_id(),
                mode="async",
                size=1,
                content_type="text/plain",
                crc64nvme="AAAAAAAAAAA=",
                spool_id="here",
                due_at=now + timedelta(seconds=30),
                retry_until=now + timedelta(hours=1),
            )
            db.session.add(row)
            db.session.commit()
            assert File.claim(row.id, "owner", 30, "here")
            assert File.renew(row.id, "owner", 30)
            done += File.complete(row.id, "owner", "url", "sha256")
    return done


def write_files_in_a_process(uri: str) -> int:
    app = Flask(__name__)
    database.init_app(app, uri, survive_power_loss=False)
    return write_files(app)


def total(pool: Executor, work: Callable[..., int], *arguments: object) -> int:
    """Do the same work in all writers at once; what one raises is raised."""
    with pool:
        return sum(job.result() for job in [pool.submit(work, *arguments) for _ in range(WRITERS)])


def test_32_threads_write_to_one_database(database_uri: str) -> None:
    with made_app(database_uri) as app:
        barrier = threading.Barrier(WRITERS)
        assert total(ThreadPoolExecutor(WRITERS), write_files, app, barrier) == WRITERS * FILES_PER_WRITER


def test_32_processes_write_to_one_database(database_uri: str) -> None:
    with made_app(database_uri):
        context = get_context("forkserver")
        context.set_forkserver_preload([__name__])
        pool = ProcessPoolExecutor(WRITERS, context)
        assert total(pool, write_files_in_a_process, database_uri) == WRITERS * FILES_PER_WRITER


def test_every_thread_finds_a_connection(postgres: PostgresServer, tmp_path: Path) -> None:
    """All requests, all deliveries and the sweep hold one at the same moment, and none waits."""
    env = {
        "S3_BUCKET_NAME": "none",
        "SPOOL_DIR": str(tmp_path / "spool"),
        "SQLALCHEMY_DATABASE_URI": postgres.uri(),
        "WEB_THREADS": "24",
        "UPLOAD_THREADS": "12",
    }
    threads = 24 + 12 + 1
    everybody = threading.Barrier(threads)
    app = create_app(env)

    def hold() -> int:
        with app.app_context(), db.engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            everybody.wait(20)
            return 1

    try:
        with ThreadPoolExecutor(threads) as pool:
            assert sum(job.result() for job in [pool.submit(hold) for _ in range(threads)]) == threads
    finally:
        with app.app_context():
            db.engine.dispose()
