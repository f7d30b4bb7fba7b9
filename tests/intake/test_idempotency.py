"""Idempotency-Key: the same request twice is one file, whatever happens in between."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import create_engine, text

from core.database import db, utcnow
from delivery.deliver import deliver
from intake.idempotency import IdempotencyKey, forget_old
from models import File
from tests.conftest import running_app
from tests.kit.bucket import keys_of
from tests.kit.stack import PostgresServer, RedisServer, S3Server, Web, wait_for

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MODES = {"normal": 201, "async": 202, "celery": 202}
LEASE = 2


@pytest.fixture
def env(env: dict[str, str]) -> dict[str, str]:
    """Settings with a key prefix that no other test has."""
    return {**env, "S3_KEY_PREFIX": f"{uuid4().hex}/"}


@pytest.fixture
def either(env: dict[str, str], database_uri: str) -> Iterator[Flask]:
    """The app on each database."""
    with running_app({**env, "SQLALCHEMY_DATABASE_URI": database_uri}) as running:
        yield running


def post(
    client: FlaskClient, key: str, mode: str = "async", name: str = "a.txt", content: bytes = b"hello"
) -> Any:
    data = {"file": (BytesIO(content), name)}
    return client.post(f"/{mode}_upload", data=data, headers={"Idempotency-Key": key})


def count_rows(app: Flask) -> int:
    with app.app_context():
        return db.session.query(File).count()


def objects(bucket: S3Client, env: dict[str, str]) -> list[str]:
    return keys_of(bucket, env["S3_BUCKET_NAME"], env["S3_KEY_PREFIX"])


@pytest.mark.parametrize("mode", MODES)
def test_the_same_request_again_is_answered_again_and_not_done_again(
    either: Flask, env: dict[str, str], bucket: S3Client, mode: str
) -> None:
    client = either.test_client()
    first, second = post(client, "k", mode), post(client, "k", mode)
    assert first.status_code == second.status_code == MODES[mode]
    assert first.headers["Location"] == second.headers["Location"]
    assert second.json["id"] == first.json["id"]
    with either.app_context():
        deliver(first.json["id"])  # a Celery worker's part; no work is left in the other modes
    wait_for(lambda: b"COMPLETE" in client.get(first.headers["Location"]).data)
    assert post(client, "k", mode).json["id"] == first.json["id"]
    assert count_rows(either) == 1
    assert objects(bucket, env) == [first.json["key"]]
    wait_for(lambda: os.listdir(env["SPOOL_DIR"]) == ["spool-id"])


def test_the_normal_answer_is_the_very_same(client: FlaskClient) -> None:
    assert post(client, "k", "normal").json == post(client, "k", "normal").json


OTHERS = {
    "body": {"content": b"other"},
    "longer body": {"content": b"hello!"},
    "name": {"name": "b.txt"},
    "type": {"name": "a.png"},
    "mode": {"mode": "celery"},
}


@pytest.mark.parametrize("other", OTHERS)
def test_the_key_of_another_request_is_refused(
    app: Flask, client: FlaskClient, spool_dir: Path, other: str
) -> None:
    first = post(client, "k")
    arguments: Any = OTHERS[other]
    answer = post(client, "k", **arguments)
    assert answer.status_code == 422
    assert answer.content_type == "application/problem+json"
    assert count_rows(app) == 1
    wait_for(lambda: os.listdir(spool_dir) == ["spool-id"])
    assert post(client, "k").json["id"] == first.json["id"]


def test_other_keys_are_other_files(app: Flask, client: FlaskClient) -> None:
    ids = {post(client, key).json["id"] for key in ("k", "K", "k ", "k%20", "x" * 255)}
    assert len(ids) == count_rows(app) == 5


def test_without_a_key_every_request_is_its_own(app: Flask, client: FlaskClient) -> None:
    for _ in range(2):
        assert client.post("/async_upload", data={"file": (BytesIO(b"x"), "a.txt")}).status_code == 202
    assert count_rows(app) == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "a\x00b", "a\x1bb", "a\x7fb", "sch\u00f6n"])
def test_a_bad_key_is_refused(app: Flask, client: FlaskClient, spool_dir: Path, key: str) -> None:
    answer = post(client, key)
    assert (answer.status_code, count_rows(app)) == (400, 0)
    assert "Idempotency-Key" in answer.json["detail"]
    assert os.listdir(spool_dir) == ["spool-id"]


def test_a_refused_request_leaves_the_key_free(app: Flask, client: FlaskClient) -> None:
    assert post(client, "k", name="...").status_code == 400
    assert post(client, "k").status_code == 202
    assert count_rows(app) == 1


def test_a_failed_delivery_is_answered_again(env: dict[str, str]) -> None:
    with running_app({**env, "S3_ENDPOINT_URL": "http://127.0.0.1:9"}) as app:
        first, second = (post(app.test_client(), "k", "normal") for _ in range(2))
        assert first.status_code == second.status_code == 502
        assert first.json == second.json
        assert count_rows(app) == 1


def assert_forgotten(app: Flask, monkeypatch: pytest.MonkeyPatch, after: timedelta) -> bool:
    """Whether all keys are forgotten after some time."""
    monkeypatch.setattr("intake.idempotency.utcnow", lambda: utcnow() + after)
    with app.app_context():
        forget_old()
        return db.session.query(IdempotencyKey).count() == 0


def test_a_finished_key_is_forgotten_after_a_week(either: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    client = either.test_client()
    first = post(client, "k")
    assert not assert_forgotten(either, monkeypatch, timedelta(days=7))
    assert post(client, "k").json["id"] == first.json["id"]
    assert assert_forgotten(either, monkeypatch, timedelta(days=7, hours=2))
    assert post(client, "k", content=b"other").status_code == 202
    assert count_rows(either) == 2


class Live(NamedTuple):
    """A gunicorn with two processes, and what it left."""

    web: Web
    uri: str
    spool: Path

    def upload(self, key: str, content: bytes = b"hello") -> requests.Response:
        return requests.post(
            f"{self.web.url}/async_upload",
            files={"file": ("a.txt", content)},
            headers={"Idempotency-Key": key},
            timeout=30,
        )

    def accepted(self, key: str) -> str:
        """Ask until the key is free; the answer is the File's id."""
        answer = wait_for(lambda: (answer := self.upload(key)).status_code != 409 and answer)
        assert answer.status_code == 202, answer.text
        file_id: str = answer.json()["id"]
        return file_id

    def count_rows(self) -> int:
        engine = create_engine(self.uri)
        with engine.connect() as connection:
            count: int = connection.execute(text("SELECT count(*) FROM files")).scalar_one()
        engine.dispose()
        return count

    def parts(self) -> list[str]:
        return [name for name in os.listdir(self.spool) if name.endswith(".part")]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def live(
    request: pytest.FixtureRequest,
    s3: S3Server,
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("idempotency")
    uri = f"sqlite:///{folder / 'files.db'}"
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        uri = server.new_database(uuid4().hex)
    settings = {"SQLALCHEMY_DATABASE_URI": uri, "SPOOL_DIR": str(folder / "spool"), "LEASE_SECONDS": str(LEASE)}
    web = Web(folder, {**s3.settings, **redis_server.settings, **settings}, workers=2)
    try:
        web.start()
        web.wait()
        yield Live(web, uri, folder / "spool")
    finally:
        web.stop()


on_sqlite = pytest.mark.parametrize("live", ["sqlite"], indirect=True)

HALF = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nhel'
REST = b"lo\r\n--b--\r\n"


@contextmanager
def half_sent(live: Live, key: str, more: int = 0) -> Iterator[socket.socket]:
    """A request whose file has half arrived; the rest, and so many bytes more, are still to come."""
    host, port = live.web.url.removeprefix("http://").split(":")
    before = live.parts()
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST /async_upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nIdempotency-Key: {key}\r\n"
        head += (
            f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(HALF + REST) + more}\r\n\r\n"
        )
        connection.sendall(head.encode() + HALF)
        wait_for(lambda: live.parts() != before, what="half file")
        yield connection


def answer_of(connection: socket.socket) -> bytes:
    answer = b""
    while data := connection.recv(65536):
        answer += data
    return answer


def test_while_the_first_is_running_the_second_is_a_conflict(live: Live) -> None:
    key, rows = uuid4().hex, live.count_rows()
    with half_sent(live, key) as first:
        second = live.upload(key)
        assert second.status_code == 409
        assert second.headers["Content-Type"] == "application/problem+json"
        first.sendall(REST)
        answer = answer_of(first)
    assert b" 202 " in answer.splitlines()[0]
    assert live.accepted(key).encode() in answer
    assert live.count_rows() == rows + 1


@on_sqlite
def test_a_slow_request_keeps_its_key_for_longer_than_a_lease(live: Live) -> None:
    """16 KiB/s at this lease: what 1 KiB/s is at the default one."""
    key, drop = uuid4().hex, b"x" * 4096
    with half_sent(live, key, more=10 * len(drop)) as slow:
        for _ in range(10):
            slow.sendall(drop)
            time.sleep(LEASE * 0.13)  # the slowness is what is tested
        assert live.upload(key).status_code == 409
        slow.sendall(REST)
        assert b" 202 " in answer_of(slow).splitlines()[0]


def test_a_request_that_stalls_loses_its_key_and_accepts_nothing(live: Live) -> None:
    key, rows = uuid4().hex, live.count_rows()
    with half_sent(live, key) as stalled:
        file_id = live.accepted(key)
        stalled.sendall(REST)
        assert b" 409 " in answer_of(stalled).splitlines()[0]
    assert live.accepted(key) == file_id
    assert live.count_rows() == rows + 1
    assert live.parts() == []


def test_a_client_that_goes_away_leaves_the_key_free(live: Live) -> None:
    key = uuid4().hex
    with half_sent(live, key):
        pass
    started = time.monotonic()
    assert live.accepted(key)
    assert time.monotonic() - started < LEASE


def test_of_many_at_once_one_is_accepted(live: Live) -> None:
    key, rows = uuid4().hex, live.count_rows()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: live.upload(key), range(20)))
        assert {answer.status_code for answer in answers} <= {202, 409}
        ids = {answer.json()["id"] for answer in answers if answer.ok}
        assert ids == set(pool.map(lambda _: live.accepted(key), range(20)))
    assert len(ids) == 1
    assert live.count_rows() == rows + 1


@on_sqlite
def test_after_a_kill_finished_keys_are_remembered_and_others_free_after_the_lease(live: Live) -> None:
    key, earlier, rows = uuid4().hex, uuid4().hex, live.count_rows()
    accepted = live.accepted(earlier)
    with half_sent(live, key):
        live.web.kill()
    killed = time.monotonic()
    live.web.start()
    live.web.wait()
    file_id = live.accepted(key)
    assert time.monotonic() - killed < LEASE + 10
    assert live.accepted(key) == file_id
    assert live.accepted(earlier) == accepted
    assert live.upload(earlier, b"other").status_code == 422
    assert live.count_rows() == rows + 2
