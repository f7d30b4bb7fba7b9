"""What S3 may answer besides yes, from a double that says what no real store says on request."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from config import MIB, Config
from core.errors import StoreError, StoreRefused
from storage.checksum import Crc64Nvme
from storage.parts import PartsUpload
from storage.s3.requests import ObjectInfo
from storage.store import Store

UPLOAD = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"


class Double(ThreadingHTTPServer):
    """An S3 end that takes parts, and gives a prepared answer to whatever would make an object appear."""

    answer: tuple[int, str] = (200, "")
    aborted = False
    parts = 0


class Handler(BaseHTTPRequestHandler):
    server: Double
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if "partNumber" in self.path:
            self.server.parts += 1
            self._say(200, "", ETag='"e"')
        else:
            self._say(*self.server.answer)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if "uploads" in self.path:
            self._say(200, UPLOAD)
        else:
            self._say(*self.server.answer)

    def do_DELETE(self) -> None:
        self.server.aborted = True
        self._say(204, "")

    def do_HEAD(self) -> None:
        self._say(404, "")

    def _say(self, status: int, body: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def double() -> Iterator[Double]:
    with Double(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def store(double: Double) -> Iterator[Store]:
    settings = {
        "S3_BUCKET_NAME": "bucket",
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{double.server_port}",
        "AWS_ACCESS_KEY": "key",
        "AWS_ACCESS_SECRET": "secret",
    }
    store = Store(Config.from_mapping(settings))
    yield store
    store.client.close()


SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def error(code: str) -> str:
    message = f"some\twords\nof S3, with {SECRET}"
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"


INFO = ObjectInfo("key", "text/plain", 5, "AAAAAAAAAAA=")


@pytest.mark.parametrize(
    ("status", "code", "kind", "said"),
    [
        (503, "SlowDown", StoreError, "slow down"),
        (500, "InternalError", StoreError, "server error"),
        (504, "", StoreError, "server error"),
        (400, "ExpiredToken", StoreError, "expired"),
        (403, "RequestTimeTooSkewed", StoreError, "clock"),
        (400, "RequestTimeout", StoreError, "in time"),
        (409, "ConditionalRequestConflict", StoreError, "twice"),
        (404, "NoSuchBucket", StoreRefused, "does not exist"),
        (403, "AccessDenied", StoreRefused, "denies"),
        (403, "InvalidAccessKeyId", StoreRefused, "credentials"),
        (412, "PreconditionFailed", StoreRefused, "other bytes"),
        (400, "EntityTooLarge", StoreRefused, r"EntityTooLarge\): some words of S3, with \.\.\.$"),
        (501, "NotImplemented", StoreRefused, "NotImplemented"),
        (408, "", StoreError, "in time"),
        (425, "TooEarly", StoreError, "again"),
        (429, "TooManyRequests", StoreError, "slow down"),
        (429, "RateLimitExceeded", StoreError, "slow down"),
        (409, "OperationAborted", StoreError, "busy"),
        (418, "Teapot", StoreRefused, "Teapot"),
        (307, "TemporaryRedirect", StoreError, "S3_ENDPOINT_URL"),
    ],
)
def test_an_error_may_heal_or_not(
    double: Double, store: Store, status: int, code: str, kind: type[StoreError], said: str
) -> None:
    double.answer = (status, error(code))
    with pytest.raises(StoreError, match=said) as raised:
        store.put(io.BytesIO(b"hello"), INFO)
    assert type(raised.value) is kind
    assert SECRET not in raised.value.detail + raised.value.message
    assert (raised.value.code, raised.value.s3_status) == (code or raised.value.code, status)


def test_200_with_an_error_in_the_body_is_a_failure(double: Double, store: Store, tmp_path: Path) -> None:
    """Which S3 may do for CompleteMultipartUpload, since it answers before it is done."""
    double.answer = (200, error("InternalError"))
    path, crc = tmp_path / "file", Crc64Nvme()
    path.write_bytes(b"x" * 17 * MIB)
    crc.update(path.read_bytes())
    upload = PartsUpload(store, path, "key", "text/plain", 17 * MIB)
    with pytest.raises(StoreError):
        upload.finish(ObjectInfo("key", "text/plain", 17 * MIB, crc.text()), lambda sent: None)
    assert double.aborted


def test_200_without_an_object_is_a_failure(double: Double, store: Store) -> None:
    with pytest.raises(StoreError, match="does not have them"):
        store.put(io.BytesIO(b"hello"), INFO)


GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("size", "part_bytes"),
    [(31 * GIB, 32 * MIB), (32 * GIB, 32 * GIB // 1000 + 1), (5 * 1024 * GIB, 5 * GIB)],
)
def test_parts_are_a_thousand_at_most_where_parts_may_be_so_large(
    store: Store, tmp_path: Path, size: int, part_bytes: int
) -> None:
    """Some stores take 1,000 parts; S3 takes no part of more than 5 GiB, and no object of more than 5 TiB."""
    path = tmp_path / "file"
    path.touch()
    upload = PartsUpload(store, path, "key", "text/plain", size)
    assert upload.part_bytes == part_bytes
    upload.give_up()
