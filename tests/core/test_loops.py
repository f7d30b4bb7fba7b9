"""Background loops outlive whatever they meet, and tell when they do not get on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from botocore.exceptions import ClientError
from flask import Flask
from sqlalchemy.exc import OperationalError

from core.background import Loop, for_each
from tests.kit.proxy import Link, Proxy
from tests.kit.samples import parsed
from tests.kit.stack import BUCKET, RedisServer, S3Server, Web, wait_for

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


def answer(status: str, body: bytes = b"", *fields: str, length: int | None = None) -> bytes:
    """An HTTP answer, with a length that may be a lie."""
    size = len(body) if length is None else length
    head = [f"HTTP/1.1 {status}", f"Content-Length: {size}", "Connection: close", *fields]
    return "\r\n".join([*head, "", ""]).encode() + body


XML = "Content-Type: application/xml"
HERE = "Location: {here}"
MOVED = b"<Error><Code>PermanentRedirect</Code><Endpoint>elsewhere.invalid</Endpoint><Message>Go</Message></Error>"
LISTING = (
    b'<ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">%s</ListMultipartUploadsResult>'
)
LIES = {
    "garbage": b"\x00\xff\xfe this is no HTTP \r\n\r\n",
    "nothing": b"",
    "half an answer": answer("200 OK", b"<Li", XML, length=1000),
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "HTML": answer("200 OK", b"<html><body>Welcome to nginx!</body></html>", "Content-Type: text/html"),
    "an error that is no XML": answer("500 Internal Server Error", b"{oops", XML),
    "no XML": answer("200 OK", b"<a><b></a>", XML),
    "an empty listing": answer("200 OK", b"", XML),
    "a listing without names": answer("200 OK", LISTING % b"<Upload><Initiated>x</Initiated></Upload>", XML),
    "a listing that never ends": answer(
        "200 OK", LISTING % b"<IsTruncated>true</IsTruncated><NextKeyMarker>a</NextKeyMarker>", XML
    ),
    "307 to itself": answer("307 Temporary Redirect", b"", HERE),
    "307 in XML": answer("307 Temporary Redirect", MOVED, XML, HERE),
    "301 to elsewhere": answer("301 Moved Permanently", MOVED, XML, "x-amz-bucket-region: eu-elsewhere-1"),
    "302 without a place": answer("302 Found"),
    "400 with a region": answer(
        "400 Bad Request",
        b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>mars-1</Region></Error>",
        XML,
        "x-amz-bucket-region: mars-1",
    ),
    "a strange status": answer("999 Strange", b"", XML),
}


class Liar(Proxy):
    """S3 but for what housekeeping asks: deletions, listings, and where the bucket is."""

    lies: Iterator[bytes] | None = None
    told = 0

    def __init__(self, upstream: int) -> None:
        super().__init__(upstream)
        self.on_request = self._answer

    def _answer(self, link: Link, data: bytes) -> bool:
        line = link.request.partition(b"\r\n")[0]
        is_housekeeping = line.startswith((b"DELETE ", f"HEAD /{BUCKET} ".encode())) or b"uploads" in line
        lie = next(self.lies, None) if self.lies and is_housekeeping else None
        if lie is None:
            return False
        here = f"http://127.0.0.1:{self.port}{line.split()[1].decode()}"
        self.told += 1
        link.client.sendall(lie.replace(b"{here}", here.encode()))
        return True


@pytest.fixture(scope="module")
def liar(s3: S3Server) -> Iterator[Liar]:
    with closing(Liar(s3.port)) as liar:
        yield liar


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, liar: Liar, server_dir: Path) -> Iterator[Web]:
    folder = server_dir / "loops"
    folder.mkdir()
    env = {
        **s3.settings,
        **redis_server.settings,
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{liar.port}",
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
    }
    web = Web(folder, env)
    web.start()
    web.wait()
    yield web
    web.stop()


def metric(web: Web, name: str, label: str) -> float:
    return parsed(requests.get(f"{web.url}/metrics", timeout=5).text)[name, label]


@pytest.mark.parametrize("lie", LIES)
def test_a_deletion_that_s3_answers_with_nonsense_succeeds_and_nothing_else_suffers(
    web: Web, liar: Liar, lie: str
) -> None:
    file_id = web.upload("normal", "a.txt", b"hello").json()["id"]
    liar.lies, liar.told = cycle([LIES[lie]]), 0
    try:
        began = time.monotonic()
        deleted = requests.delete(f"{web.url}/files/{file_id}", timeout=60)
        assert time.monotonic() - began < 20
        assert liar.told
        assert deleted.status_code == 204, deleted.text
        accepted = web.upload("async", "b.txt", b"others").json()
        assert web.settled(accepted["id"])["upload_status"] == "COMPLETE"
        assert requests.get(f"{web.url}/readyz", timeout=5).ok
        assert requests.get(f"{web.url}/status", timeout=60).ok
        assert requests.get(f"{web.url}/healthz", timeout=5).ok
    finally:
        liar.lies = None


def is_there(bucket: S3Client, key: str) -> bool:
    try:
        bucket.head_object(Bucket=BUCKET, Key=key)
    except ClientError:
        return False
    return True


@pytest.mark.parametrize("lie", ["HTML", "no XML", "an empty listing", "a listing that never ends"])
def test_a_success_that_s3_only_claims_is_no_deletion(web: Web, liar: Liar, bucket: S3Client, lie: str) -> None:
    """Only the answer to DELETE lies; everything after it says that S3 is well."""
    uploaded = web.upload("normal", "a.txt", b"hello").json()
    key = uploaded["url"].rpartition("/")[2]
    liar.lies = iter([LIES[lie]])
    assert requests.delete(f"{web.url}/files/{uploaded['id']}", timeout=60).status_code == 204
    liar.lies = None
    wait_for(lambda: not is_there(bucket, key), 40, "removal of what was deleted")


def test_what_was_deleted_under_lies_leaves_the_bucket_when_s3_is_well(
    web: Web, liar: Liar, bucket: S3Client
) -> None:
    """The housekeeping meets every lie too, and still lives afterwards."""
    keys = []
    for lie in list(LIES)[:3]:
        uploaded = web.upload("normal", "a.txt", b"hello").json()
        keys.append(uploaded["url"].rpartition("/")[2])
        liar.lies = cycle([LIES[lie]])
        assert requests.delete(f"{web.url}/files/{uploaded['id']}", timeout=60).status_code == 204
        liar.lies = None
    assert all(is_there(bucket, key) for key in keys)
    liar.lies, liar.told = cycle(LIES.values()), 0
    wait_for(lambda: liar.told > len(keys), 30, "turn of the housekeeping among lies")
    liar.lies = None
    wait_for(lambda: not any(is_there(bucket, key) for key in keys), 40, "removal of what was deleted")
    wait_for(lambda: metric(web, "ferryman_loop_last_turn_seconds", "clean") < 1, 5)
    assert metric(web, "ferryman_loop_last_turn_seconds", "sweep") < 5


@pytest.mark.parametrize(
    "error",
    [
        RecursionError("maximum recursion depth exceeded"),
        KeyError("Rules"),
        MemoryError(),
        OSError(5, "Input/output error"),
        OperationalError("SELECT 1", {}, Exception("gone")),
        SystemExit(1),
        ExceptionGroup("Some of the work failed", [KeyError("Rules")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_loop_outlives_counts_and_names_what_its_work_raises(
    app: Flask, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "core.background")
    turns: list[float] = []

    def work() -> bool:
        turns.append(time.monotonic())
        if len(turns) <= 2:
            raise error
        return False

    loop = Loop(app, "sweep", work, pause_seconds=0.01)
    loop.start()
    wait_for(lambda: len(turns) > 3, 10, "turn after the failures")
    loop.stop(5)
    assert turns[1] - turns[0] >= 0.9  # it does not spin
    assert turns[3] - turns[2] < 0.9
    failed, works = [line for line in caplog.messages if "loop sweep" in line]
    assert failed == f"loop sweep failed, and goes on: {error}"
    assert works == "loop sweep works again"
    failures = parsed(app.test_client().get("/metrics").text)["ferryman_loop_failures_total", "sweep"]
    assert failures == 2


def test_a_loop_that_completes_no_turn_makes_its_process_not_ready(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_broken = True

    def work() -> bool:
        if is_broken:
            raise RecursionError
        return False

    client = app.test_client()
    monkeypatch.setattr("core.background.SILENCE_SECONDS", 0.5)  # the clock, not the work
    loop = Loop(app, "clean", work, pause_seconds=0.01)
    loop.start()
    wait_for(lambda: client.get("/status").get_json()["checks"]["loops"] == "failed", 5)
    assert parsed(client.get("/metrics").text)["ferryman_loop_last_turn_seconds", "clean"] > 0.5
    is_broken = False
    wait_for(lambda: client.get("/status").get_json()["checks"]["loops"] == "ok", 5)
    loop.stop(5)


def test_one_failure_keeps_no_other_work_from_being_done() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number % 2:
            raise RecursionError(number)
        done.append(number)

    with pytest.raises(ExceptionGroup) as raised:
        for_each(work, range(5))
    assert done == [0, 2, 4]
    assert len(raised.value.exceptions) == 2
