"""Digests from the client, verified before anything is accepted."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable

from core.errors import InvalidUpload

ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512", "md5": "md5", "sha": "sha1"}
FIELDS = ("Repr-Digest", "Content-Digest")
MEMBER = re.compile(r"([a-z0-9-]+)=:([A-Za-z0-9+/=]*):", re.ASCII)


class Digests:
    """Running digests of a stream, and the client's expected values.

    Args:
        header: looks up a header field; gives None where there is none.
        also: hashlib's names of digests to compute besides.

    Raises:
        InvalidUpload: a field is malformed, or names no algorithm that is known here.

    Source: RFC 9530 for Repr-Digest and Content-Digest, RFC 1864 for Content-MD5.
    """

    def __init__(self, header: Callable[[str], str | None], also: tuple[str, ...] = ()) -> None:
        self._expected: list[tuple[str, str, bytes]] = []
        for field in FIELDS:
            if text := header(field):
                self._expected += _parse_dictionary(field, text)
        if text := header("Content-MD5"):
            self._expected.append(("Content-MD5", "md5", _decode("Content-MD5", text)))
        names = {name for _, name, _ in self._expected} | set(also)
        self._hashes = {name: hashlib.new(name, usedforsecurity=False) for name in names}

    def update(self, chunk: bytes) -> None:
        """Add a chunk of bytes."""
        for running in self._hashes.values():
            running.update(chunk)

    def hexdigest(self, name: str) -> str:
        """Return a running digest in hexadecimal; it must have been requested."""
        return self._hashes[name].hexdigest()

    def known(self, name: str) -> str | None:
        """Return a running digest in hexadecimal, or None if it was not requested."""
        return self.hexdigest(name) if name in self._hashes else None

    def verify(self) -> None:
        """Compare the digests with the client's.

        Raises:
            InvalidUpload: they are not.
        """
        for field, name, expected in self._expected:
            if not hmac.compare_digest(self._hashes[name].digest(), expected):
                raise InvalidUpload(f"The bytes do not match the {field}.")


def _parse_dictionary(field: str, text: str) -> list[tuple[str, str, bytes]]:
    """Parse a structured dictionary of byte sequences (RFC 8941)."""
    members = [MEMBER.fullmatch(member.strip()) for member in text.split(",")]
    if not all(members):
        raise InvalidUpload(f"The {field} is malformed.")
    known = [
        (field, ALGORITHMS[member[1]], _decode(field, member[2]))
        for member in members
        if member and member[1] in ALGORITHMS
    ]
    if not known:
        raise InvalidUpload(f"The {field} names no known algorithm; use sha-256 or sha-512.")
    return known


def _decode(field: str, text: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except ValueError:  # binascii.Error is one; text that is not ASCII raises a bare one
        raise InvalidUpload(f"The {field} is malformed.") from None
