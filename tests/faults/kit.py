"""The fault kit: a whole service behind proxies, uploads under a fault, and the count afterwards."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import psutil
import requests
from sqlalchemy import create_engine, text

from config import Config
from storage.s3 import probe as s3_probe
from storage.store import Store
from tests.kit.bucket import keys_of
from tests.kit.proxy import Link, Proxy
from tests.kit.stack import BUCKET, ROOT, PostgresServer, RedisServer, S3Server, Service, Web, Worker, wait_for

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

NO_ANSWER = (requests.ConnectionError, requests.ReadTimeout, requests.exceptions.ChunkedEncodingError)
"""What a client meets whose server dies; the last one in the middle of the answer."""

MODES = ["normal", "async", "celery"]
LEASE_SECONDS = 2
SMALL = 200_000
LARGE = 20 * 1024 * 1024
NAME = "same name.bin"


class Row(NamedTuple):
    """A File as the database has it."""

    id: str
    key: str
    status: str
    attempts: int


class Result(NamedTuple):
    """What became of the uploads under one fault."""

    fault: str
    mode: str
    accepted: int
    delivered: int
    lost: int
    duplicated: int
    seconds_to_heal: float


class Strike:
    """Calls something once, the n-th time it is told to."""

    def __init__(self, action: Callable[[], object], nth: int = 1) -> None:
        self._action = action
        self._lock = threading.Lock()
        self._left = nth
        self.done = threading.Event()

    def __call__(self) -> bool:
        """Whether this call was the one."""
        with self._lock:
            self._left -= 1
            if self._left != 0:
                return False
            self._action()
            self.done.set()
            return True


class Kit:
    """A service of its own on the session's servers: database, key prefix, spool, web server and worker."""

    def __init__(
        self,
        folder: Path,
        s3: S3Server,
        redis: RedisServer,
        postgres: PostgresServer | None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.spool = folder / "spool"
        self.prefix = f"kit-{uuid4().hex}/"
        self.redis = redis
        self.s3_proxy = Proxy(s3.port)
        self.redis_proxy = Proxy(redis.port)
        self.db_proxy: Proxy | None = None
        self._database = f"sqlite:///{folder / 'files.db'}"
        database = self._database
        if postgres:
            self.db_proxy = Proxy(postgres.port)
            self._database = postgres.new_database(uuid4().hex)
            database = self._database.replace(f":{postgres.port}/", f":{self.db_proxy.port}/")
        self._engine = create_engine(self._database)
        self.env = {
            **s3.settings,
            "S3_ENDPOINT_URL": f"http://127.0.0.1:{self.s3_proxy.port}",
            "S3_KEY_PREFIX": self.prefix,
            "CELERY_BROKER_URL": f"redis://127.0.0.1:{self.redis_proxy.port}/0",
            "SQLALCHEMY_DATABASE_URI": database,
            "SPOOL_DIR": str(self.spool),
            "LEASE_SECONDS": str(LEASE_SECONDS),
            **(more or {}),
        }
        self.s3_client: S3Client = Store(Config.from_mapping(s3.settings)).client
        self.web = Web(folder, self.env)
        self.worker = Worker(folder, self.env)

    def start(self) -> None:
        """Start web server and worker on an empty broker."""
        self.redis.client.flushall()
        self.web.start()
        self.worker.start()
        self.web.wait()
        self.worker.wait()

    def stop(self) -> None:
        """Stop everything."""
        for service in (self.web, self.worker):
            service.stop()
        self._engine.dispose()
        for proxy in (self.s3_proxy, self.redis_proxy, self.db_proxy):
            if proxy:
                proxy.close()

    def restart(self, service: Service) -> None:
        """Kill what is left of a service, and start it again."""
        service.kill()
        service.start()

    def upload_all(self, mode: str, count: int = 6) -> dict[str, bytes]:
        """Post files at once, every third a large one; the answer is what was accepted, by id."""
        contents = [random.randbytes(LARGE if number % 3 == 0 else SMALL) for number in range(count)]

        def post(content: bytes) -> str | None:
            with suppress(*NO_ANSWER):
                answer = self.web.upload(mode, NAME, content)
                return answer.json()["id"] if answer.ok else None
            return None

        with ThreadPoolExecutor(count) as clients:
            ids = list(clients.map(post, contents))
        return {file_id: content for file_id, content in zip(ids, contents, strict=True) if file_id}

    def rows(self) -> list[Row]:
        """All rows, straight from the database."""
        with self._engine.connect() as connection:
            found = connection.execute(text("SELECT id, key, upload_status, attempts FROM files"))
            return [Row(*row) for row in found]

    def settle(self, accepted: dict[str, bytes], seconds: float = 60) -> None:
        """Wait until every accepted file is COMPLETE and no row is under way."""

        def settled() -> bool:
            rows = self.rows()
            complete = {row.id for row in rows if row.status == "COMPLETE"}
            return accepted.keys() <= complete and all(row.status in ("COMPLETE", "ERROR") for row in rows)

        wait_for(settled, seconds, "settled rows")

    def count(self, fault: str, mode: str, accepted: dict[str, bytes], since: float) -> Result:
        """Compare what was accepted with what S3 holds, and see that nothing else is left."""
        healed = time.monotonic() - since
        rows = {row.id: row for row in self.rows()}
        keys = [entry["Key"] for entry in self._listed()]
        delivered = sum(
            rows[file_id].status == "COMPLETE" and self._object(rows[file_id].key) == content
            for file_id, content in accepted.items()
        )
        # What was refused may be in S3 all the same, if S3 fell silent; its row then knows the object.
        owned = {row.key for row in rows.values() if row.status == "COMPLETE" or row.id not in accepted}
        # Nothing is overwritten, so a file delivered twice would be an object more than there are rows.
        duplicated = len(keys) - len(set(keys) & owned)
        return Result(fault, mode, len(accepted), delivered, len(accepted) - delivered, duplicated, healed)

    def assert_nothing_is_left(self) -> None:
        """No unfinished multipart, and nothing in the spool but the bytes of files in ERROR."""
        reconcile = [sys.executable, "-m", "flask", "--app", "app", "reconcile", "--apply", "--grace", "0"]
        report = subprocess.run(reconcile, env=self.web.env, cwd=ROOT, capture_output=True, text=True, check=True)
        assert "look at it" not in report.stdout, report.stdout
        failed = {row.id for row in self.rows() if row.status == "ERROR"}
        wait_for(lambda: self._spooled() <= failed, 30, "clean spool")
        uploads = self.s3_client.list_multipart_uploads(Bucket=BUCKET, Prefix=self.prefix)
        assert not uploads.get("Uploads")

    def _spooled(self) -> set[str]:
        return set(os.listdir(self.spool)) - {"spool-id", "work"}

    def _listed(self) -> list[dict[str, str]]:
        return [{"Key": key} for key in keys_of(self.s3_client, BUCKET, self.prefix)]

    def _object(self, key: str) -> bytes:
        return self.s3_client.get_object(Bucket=BUCKET, Key=key)["Body"].read()


def arm_at_commit(kit: Kit, strike: Strike, is_statement: Callable[[bytes], bool]) -> None:
    """Let the fault strike when the transaction of a statement is committed, and nobody knows it yet."""

    def note(link: Link, data: bytes) -> bool:
        if is_statement(data):
            link.marks.add("statement")
        return False

    assert kit.db_proxy
    kit.db_proxy.on_request = note
    kit.db_proxy.on_response = lambda link, data: "statement" in link.marks and b"COMMIT\0" in data and strike()


def starts_upload(link: Link) -> bool:
    """Whether the connection's latest request carries bytes to S3."""
    return link.request.startswith(b"PUT ") and not is_probe(link)


def finishes_object(link: Link) -> bool:
    """Whether the connection's latest request makes an object appear."""
    whole = link.request.startswith(b"PUT ") and b"partNumber=" not in link.request
    completes = link.request.startswith(b"POST ") and b"uploadId=" in link.request
    return (whole or completes) and not is_probe(link)


def is_probe(link: Link) -> bool:
    """Whether the connection's latest request is about an object that only tries the store."""
    return s3_probe.NAME.encode() in link.request


def kill_worker_child(kit: Kit) -> None:
    for child in psutil.Process(kit.worker.pid).children():
        child.kill()
