"""The digests of one request's body, in either protocol."""

from __future__ import annotations

from flask import Request

from core.errors import InvalidUpload
from intake.digests import Digests
from storage.section import Section

FIELDS = ("Content-Digest", "Content-MD5")


class BodyDigest:
    """Verifies the body of one request by its Content-Digest and Content-MD5.

    Args:
        request: a request that has one of them.

    Raises:
        InvalidUpload: one is malformed.

    Source: RFC 9530 and RFC 1864; a Repr-Digest is of the whole file.
    """

    def __init__(self, request: Request) -> None:
        self._digests = Digests(lambda name: request.headers.get(name) if name in FIELDS else None)

    def update(self, chunk: bytes) -> None:
        """Add a chunk of bytes."""
        self._digests.update(chunk)

    def is_right(self, received: Section) -> bool:
        """Returns True if the bytes are those that the client meant."""
        try:
            self._digests.verify()
        except InvalidUpload:
            return False
        return True


def body_digest(request: Request) -> BodyDigest | None:
    """Return what verifies a request's body by its digests; None if it has none."""
    return BodyDigest(request) if any(name in request.headers for name in FIELDS) else None
