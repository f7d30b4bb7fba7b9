"""A fast S3 end: enough of S3 for boto3 and the JavaScript SDK, dropping the bytes as they come.

It keeps of an object what a HEAD tells, and the bytes of small ones. It verifies no signatures but those of signed
addresses, and no checksums: it gives back the checksum it was given, in the answer to the PUT too, as S3 does.
GET /-/landed tells how many objects have landed.

python -m bench.s3_sink PORT [CERTIFICATE_AND_KEY.pem]
"""

from __future__ import annotations

import itertools
import socket
import ssl
import sys
import threading
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from bench.client import HOST

ACCESS_KEY, ACCESS_SECRET, REGION = "bench", "bench-secret", "us-east-1"
SIGNATURE = "X-Amz-Signature"

BUFFER_BYTES = 256 * 1024
KEPT_BYTES = 64 * 1024
CHECKSUM = "x-amz-checksum-crc64nvme"
ETAG = '"00000000000000000000000000000000"'


class Request(NamedTuple):
    """One request: its head, the size of its body as an object, and the body if it is small."""

    method: str
    key: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    size: int
    body: bytes


class Object(NamedTuple):
    """What is kept of an object."""

    size: int
    headers: dict[str, str]
    body: bytes


class Reply(NamedTuple):
    """What goes back."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class Reader:
    """Reads requests from a connection; bytes that nobody keeps are never copied out of its buffer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._start = self._end = 0

    def request(self) -> Request | None:
        """Read a whole request; None at the end of the connection."""
        line = self._line()
        if not line:
            return None
        method, target, _ = line.split(" ")
        headers: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if "expect" in headers:
            self._connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        chunked = headers.get("transfer-encoding") == "chunked"
        taken, body = self._chunks() if chunked else self._body(int(headers.get("content-length", 0)))
        url = urlsplit(target)
        size = int(headers.get("x-amz-decoded-content-length", taken))
        query = parse_qs(url.query, keep_blank_values=True)
        return Request(method, url.path.strip("/"), query, headers, size, body)

    def _fill(self) -> bool:
        self._start, self._end = 0, self._connection.recv_into(self._buffer)
        return self._end > 0

    def _line(self) -> str:
        """Read to the end of the line; empty at the end of a head, and at the end of the connection."""
        line = bytearray()
        while not line.endswith(b"\r\n"):
            if self._start == self._end and not self._fill():
                return ""
            rest = bytes(self._buffer[self._start : self._end])
            end = rest.find(b"\n") + 1 or len(rest)
            line += rest[:end]
            self._start += end
        return line[:-2].decode("latin-1")

    def _body(self, length: int) -> tuple[int, bytes]:
        kept = bytearray()
        left = length
        while left and (self._start < self._end or self._fill()):
            count = min(left, self._end - self._start)
            if length <= KEPT_BYTES:
                kept += self._buffer[self._start : self._start + count]
            self._start += count
            left -= count
        if left:
            raise ConnectionError("cut off")
        return length, bytes(kept)

    def _chunks(self) -> tuple[int, bytes]:
        total, kept = 0, bytearray()
        while length := int(self._line().partition(";")[0] or "0", 16):
            kept += self._body(length)[1]
            total += length
            self._line()
        while self._line():
            pass
        return total, bytes(kept)


class Bucket:
    """All objects and unfinished uploads, of whatever bucket."""

    def __init__(self) -> None:
        self._objects: dict[str, Object] = {}
        self._uploads: dict[str, dict[int, int]] = {}
        self._numbers = itertools.count(1)
        self._landed = 0
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Reply:
        """Do what a request asks."""
        with self._lock:
            if request.key == "-/landed":
                return Reply(200, {}, str(self._landed).encode())
            if "/" not in request.key:
                return Reply(200, {}, b"<ListBucketResult/>")
            return getattr(self, f"_{request.method.lower()}", self._refuse)(request)

    def _refuse(self, _: Request) -> Reply:
        return Reply(405, {})

    def _put(self, request: Request) -> Reply:
        if "uploadId" in request.query:
            parts = self._uploads.get(request.query["uploadId"][0])
            if parts is None:
                return Reply(404, {}, b"<Error><Code>NoSuchUpload</Code></Error>")
            parts[int(request.query["partNumber"][0])] = request.size
            return Reply(200, {"ETag": ETAG})
        if SIGNATURE in request.query and not is_signed(request):
            return Reply(403, {}, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        told = {CHECKSUM: request.headers[CHECKSUM]} if CHECKSUM in request.headers else {}
        return self._land(request, request.size, request.body) or Reply(200, {"ETag": ETAG, **told})

    def _post(self, request: Request) -> Reply:
        if "uploads" in request.query:
            name = f"upload{next(self._numbers)}"
            self._uploads[name] = {}
            text = f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
            return Reply(200, {}, text.encode())
        parts = self._uploads.pop(request.query.get("uploadId", [""])[0], None)
        if parts is None:
            return Reply(404, {}, b"<Error><Code>NoSuchUpload</Code></Error>")
        text = f"<CompleteMultipartUploadResult><ETag>{ETAG}</ETag></CompleteMultipartUploadResult>"
        return self._land(request, sum(parts.values()), b"") or Reply(200, {}, text.encode())

    def _land(self, request: Request, size: int, body: bytes) -> Reply | None:
        if "if-none-match" in request.headers and request.key in self._objects:
            return Reply(412, {}, b"<Error><Code>PreconditionFailed</Code></Error>")
        told = {name: text for name, text in request.headers.items() if name.startswith("x-amz-meta-")}
        if CHECKSUM in request.headers:
            told |= {CHECKSUM: request.headers[CHECKSUM], "x-amz-checksum-type": "FULL_OBJECT"}
        self._objects[request.key] = Object(size, told, body)
        self._landed += 1
        return None

    def _head(self, request: Request) -> Reply:
        found = self._objects.get(request.key)
        if found is None:
            return Reply(404, {})
        return Reply(200, {**found.headers, "ETag": ETAG, "Content-Length": str(found.size)})

    def _get(self, request: Request) -> Reply:
        if "uploadId" in request.query:
            parts = self._uploads.get(request.query["uploadId"][0], {})
            rows = (f"<Part><PartNumber>{number}</PartNumber><Size>{size}</Size><ETag>{ETAG}</ETag></Part>"
                    for number, size in sorted(parts.items()))  # fmt: skip
            return Reply(200, {}, f"<ListPartsResult>{''.join(rows)}</ListPartsResult>".encode())
        found = self._objects.get(request.key)
        if found is None:
            return Reply(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")
        return Reply(200, {**found.headers, "ETag": ETAG}, found.body)

    def _delete(self, request: Request) -> Reply:
        self._uploads.pop(request.query.get("uploadId", [""])[0], None)
        if "uploadId" not in request.query:
            self._objects.pop(request.key, None)
        return Reply(204, {})


def is_signed(request: Request) -> bool:
    """Returns True if a request to a signed address has the headers that were signed."""
    query = {name: values[0] for name, values in request.query.items()}
    given, names = query.pop(SIGNATURE), query["X-Amz-SignedHeaders"].split(";")
    headers = {name: request.headers.get(name, "") for name in names}
    asked = AWSRequest("PUT", f"http://{request.headers['host']}/{request.key}", headers, params=query)
    asked.context["timestamp"] = query["X-Amz-Date"]
    auth = S3SigV4QueryAuth(Credentials(ACCESS_KEY, ACCESS_SECRET), "s3", REGION)
    return auth.signature(auth.string_to_sign(asked, auth.canonical_request(asked)), asked) == given


def serve(listener: socket.socket, bucket: Bucket, tls: ssl.SSLContext | None) -> None:
    """Answer connections, each in a thread of its own, until killed."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_talk, args=(connection, bucket, tls), daemon=True).start()


def _talk(connection: socket.socket, bucket: Bucket, tls: ssl.SSLContext | None) -> None:
    with suppress(OSError), connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            connection = tls.wrap_socket(connection, server_side=True)
        reader = Reader(connection)
        while request := reader.request():
            reply = bucket.answer(request)
            headers = {"Content-Length": str(len(reply.body)), "Content-Type": "application/xml", **reply.headers}
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            connection.sendall(f"HTTP/1.1 {reply.status} .\r\n{lines}\r\n".encode() + reply.body)


if __name__ == "__main__":
    context = None
    if len(sys.argv) > 2:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[2])
    with socket.create_server((HOST, int(sys.argv[1])), backlog=128) as server:
        serve(server, Bucket(), context)
