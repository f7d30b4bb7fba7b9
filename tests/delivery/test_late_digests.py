"""A large file in normal mode is COMPLETE before its SHA-256 is taken: who waits for it gets it."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text

from delivery.ahead import LEAST_BYTES
from tests.kit.receiver import SECRET, Receiver
from tests.kit.stack import BUCKET, PostgresServer, S3Server, Web, wait_for

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

CONTENT = os.urandom(LEAST_BYTES + 1)
DIGEST = hashlib.sha256(CONTENT)
REPR_DIGEST = f"Repr-Digest: sha-256=:{base64.b64encode(DIGEST.digest()).decode()}:\r\n"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


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
def web(uri: str, s3: S3Server, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("late")
    hook = {"WEBHOOK_URL": receiver.url, "WEBHOOK_SECRET": SECRET}
    places = {"SPOOL_DIR": str(folder / "spool"), "SQLALCHEMY_DATABASE_URI": uri}
    server = Web(folder, {**s3.settings, **hook, **places})
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


def assert_one_message(receiver: Receiver, row: Any, sha256: str | None) -> None:
    """One message tells of the file, with its digest."""
    wait_for(lambda: told(receiver, row["id"]), what="message")
    time.sleep(1.5)  # longer than a sender's pause: no second one
    [message] = told(receiver, row["id"])
    assert (message["type"], message["data"]["upload_status"]) == ("file.complete", "COMPLETE")
    assert message["data"]["sha256"] == sha256


def told(receiver: Receiver, file_id: str) -> list[Any]:
    messages = [json.loads(body) for _, body in receiver.got]
    return [message for message in messages if message["data"]["id"] == file_id]


def test_the_webhook_is_sent_with_the_digest_and_a_waiting_client_gets_it(web: Web, receiver: Receiver) -> None:
    row = upload(web)
    assert (row["upload_status"], row["sha256"]) == ("COMPLETE", None)
    began = time.monotonic()
    _, waited = ask(web, "GET", f"/files/{row['id']}", Prefer="wait=30")
    assert time.monotonic() - began < 20
    assert waited["sha256"] == DIGEST.hexdigest()
    assert_one_message(receiver, row, DIGEST.hexdigest())
    [message] = told(receiver, row["id"])
    assert message["data"] == web.file(row["id"])
    assert message["timestamp"] == row["updated_at"]


def test_a_kill_between_the_end_and_the_digest_costs_nothing(web: Web, receiver: Receiver, uri: str) -> None:
    row = stop_before_the_digest(web, uri)
    assert told(receiver, row["id"]) == []
    web.start()
    web.wait()
    _, waited = ask(web, "GET", f"/files/{row['id']}", Prefer="wait=30")
    assert waited["sha256"] == DIGEST.hexdigest()
    assert_one_message(receiver, row, DIGEST.hexdigest())


def stop_before_the_digest(web: Web, uri: str) -> Any:
    """Upload a file and kill the server, so quickly that it was not faster."""
    for _ in range(10):
        row = upload(web)
        web.kill()
        if digest_in(uri, row["id"]) is None:
            return row
        web.start()
        web.wait()
    raise AssertionError("The digest was always there before the kill.")


def digest_in(uri: str, file_id: str) -> str | None:
    engine = create_engine(uri)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT sha256 FROM files WHERE id = :id"), {"id": file_id}).one()
    engine.dispose()
    digest: str | None = found.sha256
    return digest


def test_a_digest_that_nobody_can_take_holds_no_message_and_no_client(
    web: Web, receiver: Receiver, uri: str, bucket: S3Client
) -> None:
    """The bytes are damaged in the spool, and gone from S3, while the server is down."""
    row = {"id": ""}
    for is_in_s3 in (True, False):
        row = stop_before_the_digest(web, uri)
        spooled = Path(web.env["SPOOL_DIR"]) / row["id"]
        spooled.write_bytes(b"damaged")
        if not is_in_s3:
            bucket.delete_object(Bucket=BUCKET, Key=row["key"])
        web.start()
        web.wait()
        assert_one_message(receiver, row, DIGEST.hexdigest() if is_in_s3 else None)
        assert not spooled.exists()
    began = time.monotonic()
    status, waited = ask(web, "GET", f"/files/{row['id']}", Prefer="wait=2")
    assert (status, waited["sha256"]) == (200, None)
    assert 1.5 < time.monotonic() - began < 10
