"""Delivery while a resumable upload arrives: through two processes, a slow S3, and crashes."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from storage.s3.probe import NAME
from tests.kit.proxy import Link, Proxy
from tests.kit.stack import BUCKET, RedisServer, S3Server, Web, serving, wait_for
from tests.kit.tus import Tus

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MIB = 1024 * 1024
CONTENT = os.urandom(40 * MIB)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FIRST = 30 * MIB


class Seen:
    """The parts that pass on their way to S3."""

    def __init__(self) -> None:
        self.parts: list[int] = []

    def __call__(self, link: Link, data: bytes) -> bool:
        found = re.match(rb"PUT (\S*)[?&]partNumber=(\d+)", data)
        if found and NAME.encode() not in found[1]:
            self.parts.append(int(found[2]))
        return False


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def web(s3: S3Server, redis_server: RedisServer, tmp_path: Path, seen: Seen) -> Iterator[Web]:
    proxy = Proxy(s3.port)
    proxy.on_request = seen
    through = f"http://127.0.0.1:{proxy.port}"
    with serving(tmp_path, s3, redis_server, workers=2, S3_ENDPOINT_URL=through) as web:
        yield web
    proxy.close()


def begin(tus: Tus) -> str:
    """Send the first 30 MiB of a file, in pieces."""
    path = tus.begin(len(CONTENT))
    for start in range(0, FIRST, 5 * MIB):
        assert tus.patch(path, start, CONTENT[start : start + 5 * MIB]).status == 204
        time.sleep(0.3)
    return path


def finish(web: Web, tus: Tus, path: str) -> None:
    """Send the rest, and compare what is in S3."""
    offset = tus.head(path).offset
    assert offset >= FIRST
    assert tus.patch(path, offset, CONTENT[offset:]).status == 204
    file_id = path.rpartition("/")[2]
    shown = web.settled(file_id)
    assert shown["upload_status"] == "COMPLETE", shown
    got = requests.get(f"{web.url}/files/{file_id}/content?proxy=1", timeout=60).content
    assert hashlib.sha256(got).hexdigest() == SHA256
    wait_for(lambda: web.file(file_id)["sha256"] == SHA256, 40, "digest")
    wait_for(lambda: not list(Path(web.env["SPOOL_DIR"]).glob(f"{file_id}*")), 40, "empty spool")


def test_full_parts_are_in_s3_before_the_last_byte_comes(web: Web, seen: Seen) -> None:
    tus = Tus(web.url)
    path = begin(tus)
    wait_for(lambda: len(seen.parts) >= 3, what="parts of an upload in progress")
    finish(web, tus, path)
    assert sorted(seen.parts) == [1, 2, 3, 4, 5]


def test_another_process_goes_on_where_s3_is(web: Web, seen: Seen) -> None:
    tus = Tus(web.url)
    path = begin(tus)
    wait_for(lambda: len(seen.parts) >= 3, what="parts of an upload in progress")
    time.sleep(1)
    web.kill()
    web.start()
    web.wait()
    finish(web, tus, path)
    assert sorted(seen.parts) == [1, 2, 3, 4, 5]


def test_what_s3_has_forgotten_is_sent_anew(web: Web, seen: Seen, bucket: S3Client) -> None:
    tus = Tus(web.url)
    path = begin(tus)
    wait_for(lambda: len(seen.parts) >= 3, what="parts of an upload in progress")
    abort_all(bucket)
    finish(web, tus, path)


def abort_all(bucket: S3Client) -> None:
    for one in uploads(bucket):
        bucket.abort_multipart_upload(Bucket=BUCKET, Key=one["Key"], UploadId=one["UploadId"])


def uploads(bucket: S3Client) -> list[Any]:
    found = bucket.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    return [one for one in found if NAME not in one["Key"]]


@pytest.mark.parametrize("with_restart", [False, True])
def test_an_ended_upload_leaves_nothing_in_s3(web: Web, seen: Seen, bucket: S3Client, with_restart: bool) -> None:
    before = len(uploads(bucket))
    tus = Tus(web.url)
    path = begin(tus)
    wait_for(lambda: len(uploads(bucket)) > before, what="unfinished upload")
    if with_restart:
        time.sleep(1)
        web.kill()
        web.start()
        web.wait()
    assert tus.ask("DELETE", path).status == 204
    wait_for(lambda: len(uploads(bucket)) == before, 40, "aborted upload")
    wait_for(lambda: not list(Path(web.env["SPOOL_DIR"]).glob(f"{path.rpartition('/')[2]}*")), 40, "empty spool")


def test_what_may_be_taken_back_is_not_sent_ahead(web: Web, seen: Seen) -> None:
    tus = Tus(web.url)
    path = tus.begin(len(CONTENT))
    checksum = base64.b64encode(hashlib.sha1(CONTENT[:FIRST], usedforsecurity=False).digest()).decode()
    assert tus.patch(path, 0, CONTENT[:FIRST], Upload_Checksum=f"sha1 {checksum}").status == 204
    time.sleep(1.5)
    finish(web, tus, path)
    assert not seen.parts
