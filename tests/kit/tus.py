"""A tus client of a few lines, which adds nothing that a test does not say."""

from __future__ import annotations

import base64
import hashlib
import http.client
import socket
import time
import zlib
from typing import Any, NamedTuple
from urllib.parse import urlsplit

BODY = "application/offset+octet-stream"


class Answer(NamedTuple):
    """An answer to a request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def offset(self) -> int:
        """The offset that it tells."""
        return int(self.headers["Upload-Offset"])


class Tus:
    """Speaks tus with a server."""

    def __init__(self, url: str, **headers: str) -> None:
        self.url = url
        self.headers = {"Tus-Resumable": "1.0.0", **headers}

    def ask(self, method: str, path: str, body: Any = None, **headers: str | None) -> Answer:
        """Send a request; `_` in a header's name is `-`, and None leaves one out."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        try:
            given = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
            connection.request(
                method, path, body, {name: text for name, text in given.items() if text is not None}
            )
            answer = connection.getresponse()
            found = {name.title(): value for name, value in answer.getheaders()}  # HAProxy writes them small
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def create(self, length: int | None = None, path: str = "/uploads", **headers: str | None) -> Answer:
        """Begin an upload."""
        given = {"Upload_Length": str(length)} if length is not None else {}
        return self.ask("POST", path, **{**given, **headers})

    def begin(self, length: int | None = None, path: str = "/uploads", **headers: str | None) -> str:
        """Begin an upload that is accepted. Returns its address."""
        answer = self.create(length, path, **headers)
        assert answer.status == 201, answer
        return answer.headers["Location"]

    def patch(self, path: str, offset: int, body: Any, **headers: str | None) -> Answer:
        """Append to an upload."""
        given = {"Upload_Offset": str(offset), "Content_Type": BODY}
        return self.ask("PATCH", path, body, **{**given, **headers})

    def head(self, path: str, **headers: str | None) -> Answer:
        """Ask where an upload is."""
        return self.ask("HEAD", path, **headers)

    def stalled(self, path: str, offset: int, body: bytes, declared: int, *lines: str) -> socket.socket:
        """Begin a PATCH of which only some bytes come, and leave it open."""
        host = urlsplit(self.url).netloc
        given = [*(f"{name}: {value}" for name, value in self.headers.items()), *lines]
        head = [f"PATCH {path} HTTP/1.1", f"Host: {host}", f"Content-Type: {BODY}", f"Upload-Offset: {offset}"]
        sock = socket.create_connection((host.partition(":")[0], int(host.rpartition(":")[2])), timeout=30)
        sock.sendall("\r\n".join([*head, f"Content-Length: {declared}", *given, "", ""]).encode() + body)
        time.sleep(0.3)
        return sock


def metadata(**pairs: str | bytes) -> str:
    """Return an Upload-Metadata."""
    encoded = {name: value.encode() if isinstance(value, str) else value for name, value in pairs.items()}
    return ",".join(f"{name} {base64.b64encode(value).decode()}" for name, value in encoded.items())


def checksum(algorithm: str, data: bytes) -> str:
    """Return an Upload-Checksum."""
    is_crc = algorithm == "crc32"
    digest = zlib.crc32(data).to_bytes(4, "big") if is_crc else hashlib.new(algorithm, data).digest()
    return f"{algorithm} {base64.b64encode(digest).decode()}"
