"""A Celery worker goes on after any error reply of Redis, as a failover gives them to those who wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask

from models import File, UploadStatus
from tests.conftest import running_app
from tests.kit.proxy import Link, Proxy
from tests.kit.stack import RedisServer, S3Server, Worker, wait_for

REPLIES = [
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "READONLY You can't write against a read only replica.",
    "LOADING Redis is loading the dataset in memory",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN The cluster is down",
    "NOREPLICAS Not enough good replicas to write.",
    "NOPERM this user has no permissions to run the 'brpop' command",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "ERR max number of clients reached",
    "ERR unknown",
]


class Broker(Proxy):
    """A way to Redis that remembers which connections wait for tasks, and which listen to the fleet."""

    def __init__(self, upstream: int) -> None:
        super().__init__(upstream)
        self.waiting: dict[bytes, Link] = {}
        self.on_request = self._note

    def _note(self, link: Link, data: bytes) -> bool:
        for command in (b"BRPOP", b"SUBSCRIBE"):
            if command in data:
                self.waiting[command] = link
        return False

    def reply(self, command: bytes, error: bytes) -> None:
        """Answer those who wait, and take back their command, or Redis would give them a task later."""
        link = self.waiting.pop(command)
        link.client.sendall(error)
        link.cut()


@pytest.fixture(scope="module")
def redis_of_its_own(server_dir: Path) -> Iterator[RedisServer]:
    folder = server_dir / "broker-errors"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    server.wait()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def broker(redis_of_its_own: RedisServer) -> Iterator[Broker]:
    with closing(Broker(redis_of_its_own.port)) as broker:
        yield broker


@pytest.fixture(scope="module")
def app(s3: S3Server, redis_of_its_own: RedisServer, broker: Broker, server_dir: Path) -> Iterator[Flask]:
    """An app that hands off and does not sweep, so that only the worker delivers."""
    folder = server_dir / "broker-errors"
    env = {
        **s3.settings,
        "AUTH": "open",
        "CELERY_BROKER_URL": redis_of_its_own.settings["CELERY_BROKER_URL"].replace(
            str(redis_of_its_own.port), str(broker.port)
        ),
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
    }
    with running_app(env) as app:
        worker = Worker(folder, env)
        worker.start()
        app.extensions["tests.worker"] = worker
        try:
            worker.wait()
            yield app
        finally:
            worker.kill()


def delivered(app: Flask) -> None:
    """Upload a file, and see that the worker delivers it."""
    answer: Any = app.test_client().post("/celery_upload", data={"file": (BytesIO(b"hello"), "a.txt")})
    assert answer.status_code == 202, answer.text

    def is_complete() -> bool:
        with app.app_context():
            row = File.find(answer.json["id"])
        return bool(row and row.upload_status == UploadStatus.COMPLETE)

    wait_for(is_complete, 20, "delivery by the worker")


def lives_on(app: Flask) -> None:
    worker: Worker = app.extensions["tests.worker"]
    assert worker.process
    delivered(app)
    assert worker.process.poll() is None, worker.text()[-3000:]
    assert "Unrecoverable error" not in worker.text()


@pytest.mark.parametrize("error", REPLIES)
def test_an_error_reply_to_one_who_waits_for_tasks(app: Flask, broker: Broker, error: str) -> None:
    delivered(app)
    wait_for(lambda: b"BRPOP" in broker.waiting)
    broker.reply(b"BRPOP", f"-{error}\r\n".encode())
    lives_on(app)


@pytest.mark.parametrize("command", [b"BRPOP", b"SUBSCRIBE"])
@pytest.mark.parametrize("reply", [b"-ERR unknown\r\n", b"?what\r\n", b"*1\r\n$-"])
def test_nonsense_to_any_who_waits(app: Flask, broker: Broker, command: bytes, reply: bytes) -> None:
    delivered(app)
    wait_for(lambda: command in broker.waiting)
    broker.reply(command, reply)
    lives_on(app)


def unblock(client: Any) -> None:
    for one in client.client_list():
        if one["cmd"] == "brpop":
            client.execute_command("CLIENT", "UNBLOCK", one["id"], "ERROR")


def fail_over(client: Any) -> None:
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    back = threading.Timer(2, lambda: client.execute_command("REPLICAOF", "NO", "ONE"))
    back.start()
    back.join()


def kill_all(client: Any) -> None:
    with suppress(redis.RedisError):
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def forbid(client: Any) -> None:
    client.execute_command("ACL", "SETUSER", "default", "-brpop")
    unblock(client)
    threading.Event().wait(1)
    client.execute_command("ACL", "SETUSER", "default", "+brpop")


@pytest.mark.parametrize("happening", [unblock, fail_over, kill_all, forbid])
def test_what_happens_to_a_real_redis(
    app: Flask, redis_of_its_own: RedisServer, happening: Callable[[Any], None]
) -> None:
    delivered(app)
    with redis_of_its_own.client as client:
        happening(client)
    lives_on(app)
