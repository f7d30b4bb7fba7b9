"""Room: a full spool, disk or pool answers 503 quickly, keeps nothing, and heals by itself."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from config import MIB
from core.database import db
from delivery.deliver import deliver
from models import File
from tests.conftest import running_app
from tests.kit.damaging_proxy import FORM, HEAD, TAIL, DamagingProxy
from tests.kit.proxy import Proxy as Link
from tests.kit.stack import RedisServer, S3Server, Web, wait_for

ROOM = 2 * MIB
DISK = 2 * MIB
MODES = {"normal": 201, "async": 202, "celery": 202}


def upload(client: FlaskClient, mode: str, size: int = 5) -> Any:
    return client.post(f"/{mode}_upload", data=form(size).getvalue(), content_type=FORM)


def upload_chunked(client: FlaskClient, mode: str, body: RawIOBase | BytesIO) -> Any:
    """Upload without a declared length."""
    return client.post(
        f"/{mode}_upload",
        input_stream=body,
        content_type=FORM,
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )


def form(size: int) -> BytesIO:
    return BytesIO(HEAD + b"x" * size + TAIL)


def assert_busy(answer: Any) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.content_type == "application/problem+json"


def assert_nothing_kept(app: Flask, rows: int = 0) -> None:
    spool = app.extensions["ferryman"].spool
    assert len(os.listdir(spool.folder)) == rows + 1, os.listdir(spool.folder)
    with app.app_context():
        assert db.session.query(File).count() == rows


@pytest.fixture
def small(env: dict[str, str]) -> Iterator[Flask]:
    """An app with a small spool."""
    with running_app({**env, "SPOOL_MAX_BYTES": str(ROOM)}) as running:
        yield running


@pytest.mark.parametrize("mode", MODES)
def test_what_does_not_fit_the_spool_is_refused_unread(small: Flask, mode: str) -> None:
    assert_busy(upload(small.test_client(), mode, ROOM + 1))
    assert_nothing_kept(small)
    assert upload(small.test_client(), mode).status_code == MODES[mode]


def test_a_full_spool_takes_again_once_it_is_emptied(small: Flask) -> None:
    client = small.test_client()
    waiting = upload(client, "celery", ROOM - 1000)
    assert waiting.status_code == 202
    wait_for(lambda: upload(client, "celery", 2000).status_code == 503)
    assert_busy(upload(client, "celery", 2000))
    with small.app_context():
        deliver(waiting.json["id"])
    wait_for(lambda: upload(client, "celery", 2000).status_code == 202, 5)


@pytest.mark.parametrize("size", [2 * ROOM, 20 * ROOM])
def test_what_outgrows_the_spool_while_it_streams_is_refused(small: Flask, size: int) -> None:
    assert_busy(upload_chunked(small.test_client(), "async", form(size)))
    assert_nothing_kept(small)
    assert upload(small.test_client(), "async").status_code == 202


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("room")
    env = {
        **s3.settings,
        **redis_server.settings,
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
        "SPOOL_MAX_BYTES": str(ROOM),
    }
    web = Web(folder, env)
    try:
        web.start()
        web.wait()
        yield web
    finally:
        web.stop()


@pytest.mark.parametrize("mode", MODES)
def test_the_refusal_waits_for_no_byte_of_the_body(web: Web, mode: str) -> None:
    host, port = web.url.removeprefix("http://").split(":")
    started = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /{mode}_upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n"
        connection.sendall(f"{head}Content-Length: {ROOM + 1}\r\n\r\n".encode())
        answer = connection.recv(65536)
    assert time.monotonic() - started < 1
    assert b" 503 " in answer.splitlines()[0]
    assert b"Retry-After: " in answer


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "ferryman-test", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a full disk cannot be tested here: there is no mount command")
    if mounted.returncode:
        pytest.skip(f"a full disk cannot be tested here: {mounted.stderr.strip()} (mounting a tmpfs needs root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def on_disk(env: dict[str, str], disk: Path) -> Iterator[Flask]:
    """An app whose spool is limited by its disk alone."""
    with running_app({**env, "SPOOL_DIR": str(disk / "spool"), "SPOOL_MAX_BYTES": "0"}) as running:
        yield running


class Filling(BytesIO):
    """A body in whose midst somebody else fills the disk."""

    def __init__(self, body: bytes, disk: Path) -> None:
        super().__init__(body)
        self._rest = disk / "rest"

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= DISK // 4 and not self._rest.exists():
            with suppress(OSError), self._rest.open("wb", buffering=0) as rest:
                while rest.write(b"x" * 65536):
                    pass
        return super().read(size)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize("mode", MODES)
def test_a_disk_that_fills_up_in_mid_upload_leaves_nothing(on_disk: Flask, disk: Path, mode: str) -> None:
    size = DISK - MIB // 2
    body = form(size).getvalue()
    answer: Any = on_disk.test_client().post(
        f"/{mode}_upload", input_stream=Filling(body, disk), content_type=FORM, content_length=len(body)
    )
    assert (disk / "rest").exists()
    assert_busy(answer)
    assert_nothing_kept(on_disk)
    (disk / "rest").unlink()
    assert upload(on_disk.test_client(), mode, size).status_code == MODES[mode]


@pytest.mark.parametrize("mode", MODES)
def test_a_body_larger_than_the_disk_leaves_nothing(on_disk: Flask, mode: str) -> None:
    assert_busy(upload_chunked(on_disk.test_client(), mode, form(DISK + MIB)))
    assert_nothing_kept(on_disk)
    assert_busy(upload(on_disk.test_client(), mode, DISK + MIB))
    assert upload(on_disk.test_client(), mode).status_code == MODES[mode]


@pytest.fixture
def narrow(env: dict[str, str], damaging_proxy: DamagingProxy) -> Iterator[Flask]:
    """An app that holds one async upload at most, behind the proxy."""
    with running_app({**env, "S3_ENDPOINT_URL": damaging_proxy.url, "UPLOAD_BACKLOG": "1"}) as app:
        yield app
        damaging_proxy.flowing.set()


def test_a_full_pool_refuses_async_uploads_only_and_recovers(narrow: Flask, damaging_proxy: DamagingProxy) -> None:
    client = narrow.test_client()
    damaging_proxy.flowing.clear()
    first = upload(client, "async")
    assert first.status_code == 202
    started = time.monotonic()
    assert_busy(upload(client, "async"))
    assert time.monotonic() - started < 1
    assert_nothing_kept(narrow, rows=1)
    assert upload(client, "celery").status_code == 202
    with ThreadPoolExecutor() as others:
        normal = others.submit(upload, narrow.test_client(), "normal")
        assert client.get("/healthz").status_code == 200
        assert not normal.done()
        damaging_proxy.flowing.set()
        assert normal.result().status_code == 201
    wait_for(lambda: b"COMPLETE" in client.get(first.headers["Location"]).data)
    wait_for(lambda: upload(client, "async").status_code == 202, 5)


def test_what_failed_leaves_room_for_what_comes(
    s3: S3Server, redis_server: RedisServer, s3_link: Link, tmp_path: Path
) -> None:
    """A client repeats its upload while S3 is away; the newest of what failed can still be tried again."""
    env = {
        **s3.settings,
        **redis_server.settings,
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{s3_link.port}",
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{tmp_path / 'files.db'}",
        "SPOOL_DIR": str(tmp_path / "spool"),
        "SPOOL_MAX_BYTES": str(ROOM),
    }
    web = Web(tmp_path, env)
    try:
        web.start()
        web.wait()
        s3_link.refuse()
        answers = [web.upload("normal", "a.bin", bytes(ROOM // 5)) for _ in range(12)]
        failed = [answer.json()["file_id"] for answer in answers if answer.status_code == 502]
        assert {answer.status_code for answer in answers} <= {502, 503}
        s3_link.recover()
        for mode, status in MODES.items():

            def is_taken(mode: str = mode, status: int = status) -> bool:
                return web.upload(mode, "a.bin", bytes(ROOM // 5)).status_code == status

            wait_for(is_taken, 3, "room")
        retries = [web.retry(file_id) for file_id in (failed[0], failed[-1])]
        assert retries == [409, 202]
        assert web.settled(failed[-1])["upload_status"] == "COMPLETE"
    finally:
        web.stop()
