"""An HTTP proxy in front of a real S3 server that changes one thing at a time, as stores of other makers do.

    with LyingProxy(s3.port, KEY, SECRET) as proxy:
        proxy.lie = refuse(501, "NotImplemented", "not here", header("If-None-Match"))
        ... S3_ENDPOINT_URL=proxy.url ...
        assert proxy.asked("PutObject") == 2

A lie sees a request and may pass it on. What it changes is signed again, as the server checks signatures.
What it leaves alone goes on as it came, with its own Host and signature.
"""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "expect")
OBJECT_OPERATIONS = {
    ("PUT", "partNumber"): "UploadPart",
    ("POST", "uploads"): "CreateMultipartUpload",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("GET", "uploadId"): "ListParts",
    ("PUT", ""): "PutObject",
    ("GET", ""): "GetObject",
    ("HEAD", ""): "HeadObject",
    ("DELETE", ""): "DeleteObject",
}
BUCKET_OPERATIONS = {
    ("GET", "uploads"): "ListMultipartUploads",
    ("GET", "list-type"): "ListObjectsV2",
    ("GET", "lifecycle"): "GetBucketLifecycleConfiguration",
    ("PUT", "lifecycle"): "PutBucketLifecycleConfiguration",
    ("GET", "cors"): "GetBucketCors",
    ("PUT", "cors"): "PutBucketCors",
    ("PUT", "policy"): "PutBucketPolicy",
    ("PUT", ""): "CreateBucket",
    ("HEAD", ""): "HeadBucket",
}
CHECKSUM_ELEMENT = re.compile(rb"<(Checksum\w+)>[^<]*</\1>")
COMPOSITE = "sP7gLb80aAY=-2"


@dataclass(frozen=True)
class Request:
    """What a client asks: header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def operation(self) -> str:
        """The operation's name at AWS."""
        url = urlsplit(self.target)
        query = parse_qs(url.query, keep_blank_values=True)
        bucket_in_host = not re.match(r"(\d+\.){3}|localhost", self.headers["host"])
        has_key = bool(url.path.strip("/") if bucket_in_host else url.path.strip("/").partition("/")[2])
        known = OBJECT_OPERATIONS if has_key else BUCKET_OPERATIONS
        words = [word for method, word in known if method == self.method and word in query]
        return known.get((self.method, words[0] if words else ""), "other")

    def without(self, *prefixes: str) -> Request:
        """The same without the headers that start so."""
        kept = {name: value for name, value in self.headers.items() if not name.startswith(prefixes)}
        return replace(self, headers=kept)


@dataclass(frozen=True)
class Answer:
    """What the server says; `sent_bytes` is where the connection breaks in the body, None for never."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    sent_bytes: int | None = None


Send = Callable[[Request], Answer]
Lie = Callable[[Request, Send], Answer]
When = Callable[[Request], bool]


class LyingProxy(ThreadingHTTPServer):
    """Passes requests on to a local S3 server, through the lie of the moment.

    Args:
        upstream: the server's port.
        key: an access key that the server takes.
        secret: its secret.
    """

    daemon_threads = True

    def __init__(self, upstream: int, key: str, secret: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lie: Lie = honest
        self.log: list[tuple[str, int]] = []
        self._upstream = upstream
        self._signer = _UnsignedPayload(Credentials(key, secret), "s3", "us-east-1")

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def tell(self, lie: Lie) -> None:
        """Lie so from now on, and forget what was asked."""
        self.lie = lie
        self.log = []

    def asked(self, operation: str) -> int:
        """How often a client has asked for an operation since `tell`."""
        return sum(name == operation for name, _ in self.log)

    def answer(self, request: Request) -> Answer:
        """Answer a request, as the lie wants it."""

        def send(changed: Request) -> Answer:
            return self._forward(changed if changed is request else self._signed(changed))

        answer = self.lie(request, send)
        self.log.append((request.operation, answer.status))
        return answer

    def _signed(self, request: Request) -> Request:
        if "authorization" not in request.headers:  # a link: its signature covers Host and target only
            return request
        headers = {**request.without("authorization", "content-length").headers}
        url = f"http://{headers['host']}{request.target}"
        signed = AWSRequest(request.method, url, headers, request.body)
        self._signer.add_auth(signed)
        return replace(request, headers={name.lower(): value for name, value in signed.headers.items()})

    def _forward(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._upstream, timeout=30)
        connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            if name not in (*HOP_BY_HOP, "content-length"):
                connection.putheader(name, value)
        if request.body or request.method in ("PUT", "POST"):
            connection.putheader("content-length", str(len(request.body)))
        connection.endheaders(request.body)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP}
        body = answer.read()
        connection.close()
        return Answer(answer.status, headers, body)


class _UnsignedPayload(S3SigV4Auth):
    def payload(self, request: Any) -> str:
        return "UNSIGNED-PAYLOAD"


class _Handler(BaseHTTPRequestHandler):
    server: LyingProxy
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        request = Request(self.command, self.path, headers, body)
        self._give(self.server.answer(request))

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle  # noqa: N815

    def _give(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: answer.sent_bytes])
        self.close_connection = self.close_connection or answer.sent_bytes is not None

    def log_message(self, *_: object) -> None:
        pass


# When to lie


def always(request: Request) -> bool:
    return True


def header(*prefixes: str) -> When:
    """Requests with a header whose name starts so."""
    wanted = tuple(prefix.lower() for prefix in prefixes)
    return lambda request: any(name.startswith(wanted) for name in request.headers)


def operation(*names: str) -> When:
    """Requests for these operations."""
    return lambda request: request.operation in names


def writes_with(*prefixes: str) -> When:
    """Writing requests with a header whose name starts so."""
    has = header(*prefixes)
    return lambda request: request.method in ("PUT", "POST") and has(request)


def unsigned_payload(request: Request) -> bool:
    return request.headers.get("x-amz-content-sha256") == "UNSIGNED-PAYLOAD"


# Lies


def honest(request: Request, send: Send) -> Answer:
    return send(request)


def error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """S3's answer for an error."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return Answer(status, {"content-type": "application/xml", **(headers or {})}, body)


def refuse(
    status: int, code: str, message: str, when: When = always, headers: Mapping[str, str] | None = None
) -> Lie:
    """Answer so, as long as that is asked."""
    return lambda request, send: error(status, code, message, headers) if when(request) else send(request)


def first(times: int, lie: Lie, when: When = always) -> Lie:
    """Lie so often, and be honest afterwards."""
    left = [None] * times

    def until_then(request: Request, send: Send) -> Answer:
        if when(request) and left:
            left.pop()
            return lie(request, send)
        return send(request)

    return until_then


def wants_region(region: str) -> Lie:
    """Take only what is signed for a region; behind it the server takes any."""
    refusal = f"The authorization header is malformed; the region is wrong; expecting '{region}'"

    def lie(request: Request, send: Send) -> Answer:
        if f"/{region}/s3/" in request.headers.get("authorization", f"/{region}/s3/"):
            return send(request)
        # Without x-amz-bucket-region, with which boto3 would find the way itself.
        return error(400, "AuthorizationHeaderMalformed", refusal)

    return lie


def wants_virtual_style(bucket: str) -> Lie:
    """Take only addresses with the bucket in the host's name."""

    def lie(request: Request, send: Send) -> Answer:
        if request.headers["host"].startswith(f"{bucket}."):
            return send(replace(request, target=f"/{bucket}{request.target}"))
        message = "Please use virtual hosted style to access."
        return error(403, "SecondLevelDomainForbidden", message)

    return lie


def ignores(*prefixes: str) -> Lie:
    """Take no notice of some headers, such as If-None-Match."""
    wanted = tuple(prefix.lower() for prefix in prefixes)
    return lambda request, send: send(request.without(*wanted) if header(*wanted)(request) else request)


def keeps_no_checksum(request: Request, send: Send) -> Answer:
    """Neither look at checksums nor keep them."""
    plain = request.without("x-amz-checksum", "x-amz-sdk-checksum", "content-md5")
    if request.operation == "CompleteMultipartUpload":
        plain = replace(plain, body=CHECKSUM_ELEMENT.sub(b"", plain.body))
    return tells_no_checksum(plain, send)


def tells_no_checksum(request: Request, send: Send) -> Answer:
    """Check and keep checksums, but do not tell them."""
    answer = send(request)
    headers = {name: value for name, value in answer.headers.items() if not name.startswith("x-amz-checksum")}
    body = answer.body if request.operation == "GetObject" else CHECKSUM_ELEMENT.sub(b"", answer.body)
    return replace(answer, headers=headers, body=body)


def flips_last_byte(request: Request, send: Send) -> Answer:
    """Keep no checksum, and other bytes of the same length."""
    if request.operation in ("PutObject", "UploadPart") and request.body:
        request = replace(request, body=request.body[:-1] + bytes([request.body[-1] ^ 1]))
    return keeps_no_checksum(request, send)


def echoes_checksums(flips: bool = True) -> Lie:
    """Give back the checksums that were sent, which nobody has looked at, and keep other bytes."""
    told: dict[str, str] = {}
    name = "x-amz-checksum-crc64nvme"

    def lie(request: Request, send: Send) -> Answer:
        answer = (flips_last_byte if flips else keeps_no_checksum)(request, send)
        key = urlsplit(request.target).path
        if request.operation in ("PutObject", "CompleteMultipartUpload") and name in request.headers:
            told[key] = request.headers[name]
        sent = request.headers.get(name, told.get(key))
        speaks = request.operation in ("PutObject", "UploadPart", "CompleteMultipartUpload", "HeadObject")
        if not speaks or not sent or answer.status != 200:
            return answer
        return replace(answer, headers={**answer.headers, name: sent})

    return lie


def composite_checksum(request: Request, send: Send) -> Answer:
    """Tell a checksum of the parts' checksums instead of one of the whole object."""
    answer = keeps_no_checksum(request, send)
    if request.operation not in ("PutObject", "HeadObject") or answer.status != 200:
        return answer
    told = {"x-amz-checksum-crc64nvme": COMPOSITE, "x-amz-checksum-type": "COMPOSITE"}
    return replace(answer, headers={**answer.headers, **told})


def stores_nothing(request: Request, send: Send) -> Answer:
    """Say yes to an object, and forget it."""
    if request.operation == "PutObject":
        return Answer(200, {"etag": '"0"'})
    if request.operation == "CompleteMultipartUpload":
        return Answer(200, {}, b"<CompleteMultipartUploadResult><ETag>0</ETag></CompleteMultipartUploadResult>")
    return send(request)


def fails_after(when: When) -> Lie:
    """Do what is asked, and say that it failed."""

    def lie(request: Request, send: Send) -> Answer:
        answer = send(request)
        return error(500, "InternalError", "We encountered an internal error.") if when(request) else answer

    return lie


def html(when: When) -> Lie:
    """Be no S3: a login page with status 200."""
    page = Answer(200, {"content-type": "text/html"}, b"<!doctype html><title>Log in</title><p>Welcome<br>")
    return lambda request, send: page if when(request) else send(request)


def redirects_for_ever(when: When) -> Lie:
    """Send the client to where it is."""

    def lie(request: Request, send: Send) -> Answer:
        here = {"location": f"http://{request.headers['host']}{request.target}"}
        again = error(307, "TemporaryRedirect", "Please re-send this request.", here)
        return again if when(request) else send(request)

    return lie


def leaves_out(element: str, when: When) -> Lie:
    """Leave an element out of an answer's XML, wherever it stands."""
    pattern = re.compile(rf"<{element}>[^<]*</{element}>".encode())

    def lie(request: Request, send: Send) -> Answer:
        answer = send(request)
        return replace(answer, body=pattern.sub(b"", answer.body)) if when(request) else answer

    return lie


def empty(when: When) -> Lie:
    """Say 200 and nothing more."""
    return lambda request, send: Answer(200) if when(request) else send(request)


def garbage(when: When) -> Lie:
    """Say 200 and something that is not XML."""
    return lambda request, send: Answer(200, {}, b"\x00\xff<<&") if when(request) else send(request)


def half(when: When) -> Lie:
    """Break the connection in the middle of the answer's body."""

    def lie(request: Request, send: Send) -> Answer:
        answer = send(request)
        return replace(answer, sent_bytes=len(answer.body) // 2) if when(request) else answer

    return lie
