"""The contract: whatever goes in by any mode is in S3, byte for byte, and its row says so."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import requests

from tests.kit.stack import BUCKET, RedisServer, S3Server, Web, Worker, wait_for

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MODES = {"normal": 201, "async": 202, "celery": 202}
PDF = b"%PDF-1.7\n" + b"\r\n--a boundary?\r\n" * 1000 + os.urandom(10 * 1024 * 1024) + b"\n%%EOF\n"
FILES = {
    "a PDF of 10 MB": ("report.pdf", PDF, "application/pdf"),
    "empty": ("empty.txt", b"", "text/plain; charset=utf-8"),
    "one byte": ("one.bin", b"\r", "application/octet-stream"),
    "25 MB": ("random.bin", os.urandom(25 * 1024 * 1024), "application/x-random"),
    "Japanese": ("報告書.txt", "こんにちは".encode(), "text/plain"),
}


class Service(NamedTuple):
    web: Web
    spool: Path


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def service(
    request: pytest.FixtureRequest,
    s3: S3Server,
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """A web server and a worker, as in production, on each database."""
    folder = tmp_path_factory.mktemp("contract")
    database = f"sqlite:///{folder / 'files.db'}"
    if request.param == "postgresql":
        database = request.getfixturevalue("postgres").new_database("contract")
    spool = folder / "spool"
    env = {**s3.settings, **redis_server.settings, "SQLALCHEMY_DATABASE_URI": database}
    env["SPOOL_DIR"] = str(spool)
    web, worker = Web(folder, env, workers=2), Worker(folder, env)
    try:
        web.start()
        worker.start()
        web.wait()
        worker.wait()
        yield Service(web, spool)
    finally:
        codes = (web.stop(), worker.stop())
    assert codes == (0, 0)


def assert_arrived(
    service: Service, bucket: S3Client, answer: requests.Response, name: str, content: bytes, kind: str
) -> dict[str, Any]:
    row = service.web.settled(answer.json()["id"])
    if not row["sha256"]:  # of a large file in normal mode it is taken after the answer
        row = wait_for(lambda: (now := service.web.file(row["id"]))["sha256"] and now)
    stored = bucket.get_object(Bucket=BUCKET, Key=row["key"])
    assert stored["Body"].read() == content
    assert stored["ContentType"] == kind
    assert row["upload_status"] == "COMPLETE"
    assert row["name"] == name
    assert row["size"] == len(content)
    assert row["sha256"] == hashlib.sha256(content).hexdigest()
    assert row["content_type"] == kind
    assert row["url"].endswith("/" + row["key"])
    assert row["attempts"] == 1
    assert row["error"] is None
    assert row["created_at"] <= row["completed_at"]
    wait_for(lambda: not (service.spool / row["id"]).exists(), 2)
    return row


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", FILES)
def test_a_file_arrives(service: Service, bucket: S3Client, mode: str, case: str) -> None:
    name, content, kind = FILES[case]
    answer = service.web.upload(mode, name, content, kind)
    assert answer.status_code == MODES[mode], answer.text
    assert answer.headers["Location"] == f"/files/{answer.json()['id']}"
    assert answer.json()["mode"] == mode
    assert_arrived(service, bucket, answer, name, content, kind)


@pytest.mark.parametrize("mode", MODES)
def test_equal_names_in_the_same_instant_are_two_files(service: Service, bucket: S3Client, mode: str) -> None:
    contents = [os.urandom(100_000) for _ in range(8)]
    with ThreadPoolExecutor(8) as clients:
        answers = clients.map(lambda content: service.web.upload(mode, "same.bin", content), contents)
        pairs = list(zip(answers, contents, strict=True))
    rows = [
        assert_arrived(service, bucket, answer, "same.bin", content, "application/octet-stream")
        for answer, content in pairs
    ]
    assert len({row["key"] for row in rows}) == len(contents)
