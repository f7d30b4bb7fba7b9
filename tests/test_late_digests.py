"""A large file in normal mode is COMPLETE before its SHA-256 is taken: who waits for it gets it."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tasks import AHEAD_BYTES
from tests.stack import PostgresServer, S3Server, Web

CONTENT = os.urandom(AHEAD_BYTES + 1)
DIGEST = hashlib.sha256(CONTENT)
REPR_DIGEST = f"Repr-Digest: sha-256=:{base64.b64encode(DIGEST.digest()).decode()}:\r\n"


def settings(folder: Path, s3: S3Server, uri: str) -> dict[str, str]:
    home = {"PATH": os.environ["PATH"], "HOME": str(folder), "SPOOL_DIR": str(folder / "spool")}
    return {**home, **s3.settings, "SQLALCHEMY_DATABASE_URI": uri}


def ask(web: Web, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(urlsplit(web.url).netloc, timeout=60)
    try:
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def upload(web: Web, part_header: str = "", mode: str = "normal", **headers: str) -> Any:
    head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n{part_header}\r\n'
    body = head.encode() + CONTENT + b"\r\n--b--\r\n"
    _, row = ask(web, "POST", f"/{mode}_upload", body, Content_Type="multipart/form-data; boundary=b", **headers)
    return row


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('late') / 'files.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database(uuid4().hex)


@pytest.fixture(scope="module")
def web(uri: str, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("late")
    server = Web(folder, settings(folder, s3, uri))
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("mode", ["normal", "async"])
@pytest.mark.parametrize(
    ("part_header", "key"), [(REPR_DIGEST, False), ("", True)], ids=["digest of the client", "key"]
)
def test_a_digest_that_the_request_asked_for_is_in_the_answer(
    web: Web, part_header: str, key: bool, mode: str
) -> None:
    more = {"Idempotency_Key": uuid4().hex} if key else {}
    row = upload(web, part_header, mode, **more)
    assert row["upload_status"] == ("COMPLETE" if mode == "normal" else "PENDING")
    assert row["sha256"] == DIGEST.hexdigest()
    assert web.settled(row["id"])["sha256"] == DIGEST.hexdigest()
