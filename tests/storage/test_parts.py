"""A large file goes to S3 in parts, in normal mode while it arrives; what breaks off leaves nothing there."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from config import Config
from core.errors import BytesLost, StoreError
from delivery.ahead import LEAST_BYTES
from file import rename_file
from ops import doctor
from storage.parts import PartsUpload
from storage.s3.requests import ObjectInfo
from storage.store import Store
from tests.kit.bucket import keys_of
from tests.kit.objects import info_of
from tests.kit.stack import BUCKET, RedisServer, S3Server, Web, wait_for

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
TAIL = b"\r\n--b--\r\n"
CONTENT = os.urandom(3 * LEAST_BYTES)


@pytest.fixture
def store(s3: S3Server) -> Store:
    return Store(Config.from_mapping(s3.settings))


def unfinished(bucket: S3Client, prefix: str) -> int:
    return len(bucket.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix).get("Uploads", []))


def objects(bucket: S3Client, prefix: str) -> int:
    return len(keys_of(bucket, BUCKET, prefix))


@pytest.mark.parametrize("size", [0, 1, 9 * 1024 * 1024, len(CONTENT)])
def test_what_grows_arrives_whole(store: Store, tmp_path: Path, size: int) -> None:
    path, content = tmp_path / "growing", CONTENT[:size]
    info = info_of(content, tmp_path)
    with path.open("wb", buffering=0) as file:
        parts = PartsUpload(store, path, info.key, info.content_type, size)
        for start in range(0, size, 5_000_000):
            file.write(content[start : start + 5_000_000])
            parts.update(content[start : start + 5_000_000])
    uploaded = parts.finish(info, lambda sent: None)
    assert uploaded == store.url(info.key)
    assert store.client.get_object(Bucket=BUCKET, Key=info.key)["Body"].read() == content


def test_nothing_appears_before_the_end(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(CONTENT)
    info = ObjectInfo(rename_file("a.bin"), "text/x-test", len(CONTENT), "")
    parts = PartsUpload(store, path, info.key, info.content_type, info.size)
    parts.update(CONTENT)
    wait_for(lambda: unfinished(store.client, info.key) == 1)
    assert objects(store.client, info.key) == 0
    parts.give_up()
    assert unfinished(store.client, info.key) == 0
    assert objects(store.client, info.key) == 0


def test_other_bytes_than_were_received_never_appear(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(CONTENT)
    info = info_of(CONTENT[:-1] + b"x", tmp_path)
    parts = PartsUpload(store, path, info.key, info.content_type, info.size)
    with pytest.raises(BytesLost, match="damaged"):
        parts.finish(info, lambda sent: None)
    assert objects(store.client, info.key) == 0
    assert unfinished(store.client, info.key) == 0


def test_bytes_damaged_after_they_were_told_of_are_refused_by_s3(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(CONTENT[:-1] + b"x")
    info = info_of(CONTENT, tmp_path)
    parts = PartsUpload(store, path, info.key, info.content_type, info.size)
    parts.update(CONTENT)
    with pytest.raises(StoreError):
        parts.finish(info, lambda sent: None)
    assert objects(store.client, info.key) == 0
    assert unfinished(store.client, info.key) == 0


def test_the_doctor_tries_parts_too(store: Store, tmp_path: Path) -> None:
    content = CONTENT[: doctor.SIZES["several parts"]]
    info = info_of(content, tmp_path)
    doctor._send(store, content, info)
    assert store.client.head_object(Bucket=BUCKET, Key=info.key)["ETag"].endswith('-3"')
    assert unfinished(store.client, info.key) == 0


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("ahead")
    env = {
        **s3.settings,
        **redis_server.settings,
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
        "S3_KEY_PREFIX": "ahead/",
    }
    web = Web(folder, env)
    web.start()
    try:
        web.wait()
        yield web
    finally:
        web.stop()


def connect(web: Web, length: int) -> socket.socket:
    host, port = web.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(
        b"POST /normal_upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: %d\r\n\r\n" % length
    )
    return connection


def test_parts_are_in_s3_before_the_last_byte_is_sent(web: Web, bucket: S3Client) -> None:
    with connect(web, len(HEAD + CONTENT + TAIL)) as connection:
        connection.sendall(HEAD + CONTENT[:-1000])
        wait_for(lambda: unfinished(bucket, "ahead/") == 1)
        upload = bucket.list_multipart_uploads(Bucket=BUCKET, Prefix="ahead/")["Uploads"][0]
        place: Any = {"Bucket": BUCKET, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        wait_for(lambda: len(bucket.list_parts(**place).get("Parts", [])) >= 2)
        connection.sendall(CONTENT[-1000:] + TAIL)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert b" 201 " in answer.splitlines()[0]
    file_id = json.loads(answer.partition(b"\r\n\r\n")[2])["id"]
    digest = wait_for(lambda: requests.get(f"{web.url}/files/{file_id}", timeout=5).json()["sha256"])
    assert digest == hashlib.sha256(CONTENT).hexdigest()
    wait_for(lambda: os.listdir(web.env["SPOOL_DIR"]) == ["spool-id"])
    assert unfinished(bucket, "ahead/") == 0
    assert bucket.get_object(Bucket=BUCKET, Key=upload["Key"])["Body"].read() == CONTENT
    bucket.delete_object(Bucket=BUCKET, Key=upload["Key"])


def test_a_client_that_breaks_off_leaves_nothing(web: Web, bucket: S3Client) -> None:
    with connect(web, len(HEAD + CONTENT + TAIL)) as connection:
        connection.sendall(HEAD + CONTENT[: 2 * LEAST_BYTES])
        wait_for(lambda: unfinished(bucket, "ahead/") == 1)
    wait_for(lambda: unfinished(bucket, "ahead/") == 0)
    time.sleep(0.2)
    assert objects(bucket, "ahead/") == 0
    assert os.listdir(web.env["SPOOL_DIR"]) == ["spool-id"]
