"""Uploads to a store that refuses or lies: never COMPLETE with other bytes, never a day of tries for a refusal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import requests

from tests.kit import lying_proxy as lies
from tests.kit.lying_proxy import LyingProxy
from tests.kit.stack import KEY, SECRET, RedisServer, S3Server, Web, wait_for

SMALL, LARGE = os.urandom(100_000), os.urandom(20_000_000)
WAYS = {"async": SMALL, "normal": LARGE}  # the large one goes in parts while it arrives
NOT_HERE = "A header you provided implies functionality that is not implemented."
WHOLE = lies.operation("PutObject", "CompleteMultipartUpload")
CHECKSUM = lies.header("x-amz-checksum-", "x-amz-sdk-checksum-")


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[LyingProxy]:
    with LyingProxy(s3.port, KEY, SECRET) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def running(
    proxy: LyingProxy, s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("lies")
    env = {
        **s3.settings,
        **redis_server.settings,
        "S3_ENDPOINT_URL": proxy.url,
        "S3_KEY_PREFIX": "lies/",
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
    }
    web = Web(folder, env)
    web.start()
    try:
        web.wait()
        yield web
    finally:
        web.stop()


@pytest.fixture
def web(running: Web, proxy: LyingProxy) -> Iterator[Web]:
    """A web process that knows nothing of the store yet; in the end nothing waits for another try."""
    for worker in psutil.Process(running.pid).children():
        worker.kill()
    running.wait()
    yield running
    proxy.tell(lies.honest)
    for row in requests.get(f"{running.url}/files", timeout=20).json()["files"]:
        requests.delete(f"{running.url}/files/{row['id']}", timeout=20)


def uploaded(web: Web, mode: str) -> dict[str, Any]:
    """Upload; the answer is the File, as soon as it was tried and is not being tried."""
    answer = web.upload(mode, "a.bin", WAYS[mode]).json()
    file_id = answer.get("id") or answer["file_id"]

    def tried() -> dict[str, Any] | None:
        row = web.file(file_id)
        is_over = row["upload_status"] in ("COMPLETE", "ERROR")
        return row if is_over or (row["upload_status"] == "PENDING" and row["error"]) else None

    row: dict[str, Any] = wait_for(tried, what=f"a try of {file_id}")
    return row


TAKEN: dict[str, Callable[[], lies.Lie]] = {
    "honest": lambda: lies.honest,
    "501 to the condition": lambda: lies.refuse(501, "NotImplemented", NOT_HERE, lies.header("if-none-match")),
    "400 to the condition": lambda: lies.refuse(400, "InvalidArgument", "what?", lies.header("if-none-match")),
    "ignores the condition": lambda: lies.ignores("if-none-match"),
    "400 to checksums of writes": lambda: lies.refuse(
        400, "InvalidArgument", "what?", lies.writes_with("x-amz-checksum-", "x-amz-sdk-checksum-")
    ),
    "400 to all checksums": lambda: lies.refuse(400, "InvalidArgument", "what?", CHECKSUM),
    "501 to the disposition": lambda: lies.refuse(
        501, "NotImplemented", NOT_HERE, lies.header("content-disposition")
    ),
    "400 to unsigned payloads": lambda: lies.refuse(400, "InvalidRequest", "unsigned", lies.unsigned_payload),
    "keeps no checksum": lambda: lies.keeps_no_checksum,
    "tells no checksum": lambda: lies.tells_no_checksum,
    "composite checksum": lambda: lies.composite_checksum,
    "echoes checksums": lambda: lies.echoes_checksums(flips=False),
    "500 after it has stored": lambda: lies.fails_after(WHOLE),
    "412 to a checksum at the end": lambda: lies.refuse(
        412,
        "PreconditionFailed",
        "of what?",
        lambda request: request.operation == "CompleteMultipartUpload" and CHECKSUM(request),
    ),
}


@pytest.mark.parametrize("lie", TAKEN)
def test_a_file_is_delivered_whole(web: Web, proxy: LyingProxy, lie: str) -> None:
    proxy.tell(TAKEN[lie]())
    for mode, content in WAYS.items():
        row = uploaded(web, mode)
        assert row["upload_status"] == "COMPLETE", row
        got = requests.get(f"{web.url}/files/{row['id']}/content?proxy=1", timeout=60)
        assert got.content == content


REFUSED: dict[str, tuple[Callable[[], lies.Lie], str]] = {
    "403": (lambda: lies.refuse(403, "AccessDenied", "no", WHOLE), "denies access"),
    "501": (lambda: lies.refuse(501, "NotImplemented", "never", WHOLE), "NotImplemented"),
    "path style": (lambda: lies.wants_virtual_style("tests"), "SecondLevelDomainForbidden"),
    "region": (lambda: lies.wants_region("garage"), "AWS_REGION=garage"),
    "301": (lambda: lies.refuse(301, "PermanentRedirect", "elsewhere"), "AWS_REGION"),
}


@pytest.mark.parametrize("lie", REFUSED)
def test_a_refusal_ends_soon_and_says_why(web: Web, proxy: LyingProxy, lie: str) -> None:
    tell, words = REFUSED[lie]
    proxy.tell(tell())
    for mode in WAYS:
        row = web.settled(uploaded(web, mode)["id"])
        assert row["upload_status"] == "ERROR", row
        assert words in row["error"], row


WRONG: dict[str, Callable[[], lies.Lie]] = {
    "flips the last byte": lambda: lies.flips_last_byte,
    "flips it and echoes checksums": lies.echoes_checksums,
    "stores nothing": lambda: lies.stores_nothing,
    "web page": lambda: lies.html(WHOLE),
    "empty answer": lambda: lies.empty(lies.operation("CompleteMultipartUpload", "CreateMultipartUpload")),
    "redirect": lambda: lies.redirects_for_ever(WHOLE),
    "429": lambda: lies.refuse(429, "TooManyRequests", "wait", WHOLE),
    "429 of another name": lambda: lies.refuse(429, "RateLimitExceeded", "wait", WHOLE),
    "503": lambda: lies.refuse(503, "SlowDown", "wait", WHOLE),
}


@pytest.mark.parametrize("lie", WRONG)
def test_what_is_not_there_is_never_complete_and_delivered_when_it_can_be(
    web: Web, proxy: LyingProxy, lie: str
) -> None:
    proxy.tell(WRONG[lie]())
    rows = [uploaded(web, mode) for mode in WAYS]
    if lie == "empty answer":
        rows = rows[1:]  # the other needs no parts
    assert [row["upload_status"] for row in rows if row["upload_status"] == "COMPLETE"] == []
    proxy.tell(lies.honest)
    for row in rows:
        if row["upload_status"] == "ERROR":
            requests.post(f"{web.url}/files/{row['id']}/retry", timeout=20)
        assert web.settled(row["id"])["upload_status"] == "COMPLETE"
