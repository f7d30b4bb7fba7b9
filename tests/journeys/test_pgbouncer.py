"""PostgreSQL behind a real PgBouncer in transaction mode, as docs/scaling.md recommends it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.kit.ports import free_port
from tests.kit.stack import ROOT, PostgresServer, RedisServer, S3Server, Service, Web, wait_for

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
MISSING = "THERE IS NO PGBOUNCER: apt-get install pgbouncer"
UPLOADS = 100
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason=MISSING)


class PgBouncer(Service):
    """PgBouncer in front of a PostgreSQL, with fewer connections than the service opens. It never runs as root."""

    def __init__(self, postgres: PostgresServer) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ferryman-pgbouncer-"))
        self.folder.chmod(0o755)
        self.port = free_port()
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": 5,
            "max_client_conn": 200,
        }
        config = self.folder / "pgbouncer.ini"
        lines = [f"{name} = {value}" for name, value in settings.items()]
        target = f"* = host=127.0.0.1 port={postgres.port} user=ferryman"
        config.write_text("\n".join(["[databases]", target, "[pgbouncer]", *lines, ""]))
        user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        super().__init__("pgbouncer", [*user, str(PGBOUNCER), str(config)], {}, self.folder / "log")

    def stop(self, seconds: float = 20) -> int:
        """Stop it, and remove its files."""
        self.kill()
        shutil.rmtree(self.folder)
        return 0

    def uri(self, database: str) -> str:
        """SQLAlchemy's address of a database behind it."""
        return f"postgresql+psycopg://ferryman@127.0.0.1:{self.port}/{database}"

    def wait(self) -> None:
        """Wait until it answers."""

        def answers() -> bool:
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.uri("postgres").replace("+psycopg", ""), prepare_threshold=None).close()
                return True
            return False

        wait_for(answers, what="pgbouncer")


@pytest.fixture(scope="module")
def database_uri(postgres: PostgresServer) -> Iterator[str]:
    """An empty database behind a PgBouncer."""
    bouncer = PgBouncer(postgres)
    bouncer.start()
    try:
        bouncer.wait()
        postgres.new_database(name := uuid4().hex)
        yield bouncer.uri(name)
    finally:
        bouncer.stop()


def test_a_hundred_uploads_behind_a_small_pool(
    s3: S3Server, redis_server: RedisServer, database_uri: str, tmp_path: Path
) -> None:
    settings = {"SQLALCHEMY_DATABASE_URI": database_uri, "SPOOL_DIR": str(tmp_path / "spool")}
    web = Web(tmp_path, {**s3.settings, **redis_server.settings, **settings}, workers=2)
    upgrade = [sys.executable, "-m", "flask", "--app", "app", "db", "upgrade"]
    try:
        at_once = [subprocess.Popen(upgrade, env=web.env, cwd=ROOT, stderr=subprocess.DEVNULL) for _ in range(2)]
        assert [process.wait(60) for process in at_once] == [0, 0]
        web.start()
        web.wait()
        with ThreadPoolExecutor(20) as clients:
            answers = list(clients.map(lambda number: web.upload("async", f"{number}.txt", b"x"), range(UPLOADS)))
        assert [answer.status_code for answer in answers] == [202] * UPLOADS
        rows = [web.settled(answer.json()["id"]) for answer in answers]
        assert [row["upload_status"] for row in rows] == ["COMPLETE"] * UPLOADS
    finally:
        web.stop()
