"""A store that forgives: SeaweedFS behind a proxy that does in its name what it refuses, one thing at a time."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from tests.kit.stack import BUCKET

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}


class Request(NamedTuple):
    """A request, as the store has it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def key(self) -> str:
        """The object that it names."""
        return unquote(urlsplit(self.path).path).partition(f"/{BUCKET}/")[2]

    @property
    def is_at_an_address(self) -> bool:
        """Whether a client sends it, at an address that was signed for it."""
        return "X-Amz-Signature" in self.path

    @property
    def is_copy(self) -> bool:
        """Whether it copies an object."""
        return "x-amz-copy-source" in self.headers


class Answer(NamedTuple):
    """The answer to a request."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


Lie = Callable[["S3Client", Request, Answer], Answer]


def honest(client: S3Client, request: Request, answer: Answer) -> Answer:
    return answer


def _stored(client: S3Client, request: Request, key: str = "") -> Answer:
    kind = request.headers.get("content-type", "application/octet-stream")
    client.put_object(Bucket=BUCKET, Key=key or request.key, Body=request.body, ContentType=kind)
    return Answer(200, {"ETag": '"0"'})


def takes_any_headers(client: S3Client, request: Request, answer: Answer) -> Answer:
    """A PUT at an address may have another length or type."""
    is_put = request.method == "PUT" and request.is_at_an_address and "partNumber" not in request.path
    return _stored(client, request) if is_put and answer.status == 403 else answer


def overwrites(client: S3Client, request: Request, answer: Answer) -> Answer:
    """A PUT at an address overwrites what is there."""
    is_put = request.method == "PUT" and request.is_at_an_address
    return _stored(client, request) if is_put and answer.status == 412 else answer


def takes_any_form(client: S3Client, request: Request, answer: Answer) -> Answer:
    """A form may have another key, type or length."""
    is_form = request.headers.get("content-type", "").startswith("multipart/form-data")
    return Answer(201, {"ETag": '"0"'}) if is_form and answer.status >= 400 else answer


def knows_no_forms(client: S3Client, request: Request, answer: Answer) -> Answer:
    is_form = request.headers.get("content-type", "").startswith("multipart/form-data")
    return Answer(501, {}) if is_form else answer


def copies_anyhow(client: S3Client, request: Request, answer: Answer) -> Answer:
    """A copy is made whatever its conditions are."""
    if not request.is_copy or answer.status != 412:
        return answer
    source = unquote(request.headers["x-amz-copy-source"]).partition("/")[2]
    client.copy_object(Bucket=BUCKET, Key=request.key, CopySource={"Bucket": BUCKET, "Key": source})
    return Answer(200, {"Content-Type": "application/xml"}, b"<CopyObjectResult><ETag>0</ETag></CopyObjectResult>")


def cannot_copy(client: S3Client, request: Request, answer: Answer) -> Answer:
    body = b"<Error><Code>NotImplemented</Code></Error>"
    return Answer(501, {"Content-Type": "application/xml"}, body) if request.is_copy else answer


def takes_no_parts_at_addresses(client: S3Client, request: Request, answer: Answer) -> Answer:
    return Answer(403, {}) if request.is_at_an_address and "partNumber" in request.path else answer


def tells_no_checksum(client: S3Client, request: Request, answer: Answer) -> Answer:
    kept = {name: value for name, value in answer.headers.items() if not name.lower().startswith("x-amz-checksum")}
    return answer._replace(headers=kept) if request.method == "HEAD" else answer


of_parts: set[str] = set()
"""The keys of objects that came in parts."""


def tells_a_wrong_checksum(client: S3Client, request: Request, answer: Answer) -> Answer:
    """Of an object of parts; as a store that takes the first part's for the whole one's."""
    if "uploads" in request.path.partition("?")[2].split("&"):
        of_parts.add(request.key)
    if request.method != "HEAD" or request.key not in of_parts:
        return answer
    wrong = {"X-Amz-Checksum-Crc64nvme": "AAAAAAAAAAA="}
    return answer._replace(headers=tells_no_checksum(client, request, answer).headers | wrong)


def shares_with_nobody(client: S3Client, request: Request, answer: Answer) -> Answer:
    """It has no CORS rules."""
    kept = {name: value for name, value in answer.headers.items() if not name.lower().startswith("access-control")}
    return answer._replace(headers=kept)


class ForgivingStore:
    """The proxy.

    Args:
        upstream: SeaweedFS's port.
        client: boto3's, for what the proxy does itself.
    """

    def __init__(self, upstream: int, client: S3Client) -> None:
        self.lie: Lie = honest
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, body)
                answer = store.lie(client, request, _passed_on(upstream, request))
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    if name.lower() not in HOP:
                        self.send_header(name, value)
                length = answer.headers.get("Content-Length") if self.command == "HEAD" else len(answer.body)
                self.send_header("Content-Length", str(length or 0))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        for method in ("GET", "PUT", "POST", "HEAD", "DELETE", "OPTIONS"):
            setattr(Handler, f"do_{method}", Handler.handle_any)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _passed_on(upstream: int, request: Request) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=30)
    try:
        kept = {name: value for name, value in request.headers.items() if name not in HOP - {"content-length"}}
        connection.request(request.method, request.path, request.body, kept)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


@contextmanager
def forgiving_store(upstream: int, client: S3Client) -> Iterator[ForgivingStore]:
    """Run the proxy."""
    store = ForgivingStore(upstream, client)
    try:
        yield store
    finally:
        store.close()
