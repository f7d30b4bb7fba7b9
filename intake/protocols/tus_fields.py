"""The headers of tus: parsed strictly, since all that follows depends on them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from flask import Request
from werkzeug.datastructures import Headers

from core.errors import InvalidUpload
from storage.section import Section

NUMBER = re.compile(r"\d{1,18}", re.ASCII)
METADATA_KEY = re.compile(r"[!-+\--~]{1,255}", re.ASCII)
MAX_METADATA_BYTES = 4096
MAX_PARTS = 1000
PART = re.compile(r"(?:.*/)?uploads/([0-9a-f]{32})/?", re.ASCII)
ALGORITHMS = ("crc32", "md5", "sha1", "sha256", "sha512")
CHECKSUM = "Upload-Checksum"


def number(headers: Headers, name: str) -> int | None:
    """Return the number in a header, or None without it.

    Raises:
        InvalidUpload: it is none.
    """
    if name not in headers:
        return None
    if not NUMBER.fullmatch(headers[name]):
        raise InvalidUpload(f"{name} must be a number of at most 18 digits.")
    return int(headers[name])


def metadata(text: str | None) -> dict[str, bytes]:
    """Return the pairs in an Upload-Metadata; an empty one has none.

    Raises:
        InvalidUpload: it is malformed, or too long.
    """
    found: dict[str, bytes] = {}
    check_plain(text or "", "Upload-Metadata")
    if text and len(text) > MAX_METADATA_BYTES:
        raise InvalidUpload(f"Upload-Metadata must not exceed {MAX_METADATA_BYTES} bytes.")
    for pair in text.split(",") if text and text.strip() else ():
        name, _, value = pair.strip().partition(" ")
        if not METADATA_KEY.fullmatch(name) or name in found:
            raise InvalidUpload("The names in Upload-Metadata must be ASCII, and each stand once.")
        found[name] = _base64(value.strip(), "Upload-Metadata")
    return found


def check_plain(text: str, field: str) -> None:
    """Check that a text, which goes back as it came, is a header that every server sends.

    Raises:
        InvalidUpload: it is none.
    """
    if not text.isascii() or not text.isprintable():
        raise InvalidUpload(f"{field} must be printable ASCII.")


def text_of(pairs: Mapping[str, bytes], *names: str) -> str:
    """Return the first of these values that is there, or an empty text.

    Raises:
        InvalidUpload: it is not UTF-8.
    """
    for name in names:
        if name in pairs:
            try:
                return pairs[name].decode()
            except UnicodeDecodeError:
                raise InvalidUpload(f"The {name} in Upload-Metadata must be UTF-8.") from None
    return ""


def part_ids(text: str) -> list[str]:
    """Return the ids of the uploads that an Upload-Concat joins, such as `final;/uploads/a /uploads/b`.

    Raises:
        InvalidUpload: one is no address of an upload here.
    """
    found = [PART.fullmatch(urlsplit(address).path) for address in text.partition(";")[2].split()]
    if not found or len(found) > MAX_PARTS or None in found:
        raise InvalidUpload(f"Upload-Concat must name 1 to {MAX_PARTS} uploads of this service.")
    return [one[1] for one in found if one]


class Checksum:
    """The checksum of one request's body, from its header or its trailer.

    Args:
        algorithm: one of ALGORITHMS; None if the trailer will say.
        expected: the checksum; None if the trailer will say.
        trailers: returns the trailers, once the body has ended.
    """

    def __init__(
        self,
        algorithm: str | None,
        expected: bytes | None,
        trailers: Callable[[], Mapping[str, str]] = lambda: {},
    ) -> None:
        self._expected = expected
        self._running = _Crc32() if algorithm == "crc32" else _hash(algorithm) if algorithm else None
        self._trailers = trailers

    def update(self, chunk: bytes) -> None:
        """Add a chunk of bytes."""
        if self._running:
            self._running.update(chunk)

    def is_right(self, received: Section) -> bool:
        """Returns True if the bytes have the checksum. A trailer that was announced and is not there has none."""
        if self._running and self._expected is not None:
            return hmac.compare_digest(self._running.digest(), self._expected)
        text = self._trailers().get(CHECKSUM)
        if text is None:
            return False
        late = checksum_of(text)
        for chunk in received.chunks():
            late.update(chunk)
        return late.is_right(received)


def checksum_of(text: str) -> Checksum:
    """Return what verifies a body by a checksum such as `sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk=`.

    Raises:
        InvalidUpload: it is malformed, or of an unknown algorithm.
    """
    algorithm, _, value = text.strip().partition(" ")
    if algorithm not in ALGORITHMS:
        raise InvalidUpload(f"{CHECKSUM} must be by one of {', '.join(ALGORITHMS)}.")
    return Checksum(algorithm, _base64(value.strip(), CHECKSUM))


def checksum(request: Request) -> Checksum | None:
    """Return what verifies a request's body, by its header or by its trailer; None if neither is announced.

    Raises:
        InvalidUpload: it is malformed, or of an unknown algorithm.
    """
    if CHECKSUM in request.headers:
        return checksum_of(request.headers[CHECKSUM])
    announced = request.headers.get("Trailer", "").lower().split(",")
    if CHECKSUM.lower() not in [name.strip() for name in announced]:
        return None
    return Checksum(None, None, lambda: _trailers(request))


def _trailers(request: Request) -> Mapping[str, str]:
    """Return the trailers of a body that was read, which gunicorn keeps on its own request."""
    reader = getattr(request.environ["wsgi.input"], "reader", None)
    found: Sequence[tuple[str, str]] = getattr(getattr(reader, "req", None), "trailers", None) or ()
    return {name.title(): value for name, value in found}


def _base64(text: str, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidUpload(f"The {field} is not base64.") from None


def _hash(algorithm: str) -> Any:
    return hashlib.new(algorithm, usedforsecurity=False)


class _Crc32:
    """CRC-32 with the interface of hashlib; its digest is big-endian."""

    def __init__(self) -> None:
        self._crc = 0

    def update(self, chunk: bytes) -> None:
        self._crc = zlib.crc32(chunk, self._crc)

    def digest(self) -> bytes:
        return self._crc.to_bytes(4, "big")
