"""The encoding of a text, and its strict decoding. Nothing is guessed silently."""

from __future__ import annotations

import codecs
import os
import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from processing.lanes.outcome import Unprocessable, Unproven

CHUNK_BYTES = 1 << 20
SAMPLE_BYTES = 4096
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
ASSUMED = "windows-1252"
UNDEFINED = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
"""The bytes that windows-1252 does not define."""
EXACT = {"utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "iso8859-1", "ascii"}
"""Codecs whose strict decoding can be written back in one way only."""


class Encoding(NamedTuple):
    """How a text is encoded, and how that is known."""

    name: str
    how: str
    first_odd_byte: int | None = None
    """The first byte that is no ASCII, where the encoding is only assumed."""

    def report(self) -> dict[str, Any]:
        """Return what the report says of it."""
        odd = {} if self.first_odd_byte is None else {"first_odd_byte": self.first_odd_byte}
        return {"name": self.name, "how": self.how, **odd}


def find(source: int, hint: str | None, declared: str | None) -> Encoding:
    """Return the encoding of a text: as its client says, or as its bytes prove; else windows-1252, as assumed.

    Args:
        source: its descriptor.
        hint: the encoding that the client names with the preset.
        declared: the `charset` of its media type.

    Raises:
        Unprocessable: it is none of these.
    """
    head = os.pread(source, SAMPLE_BYTES, 0)
    for name, how in ((hint, "hint"), (declared, "declared")):
        if name:
            has_mark = codecs.lookup(name).name == "utf-8" and head.startswith(codecs.BOM_UTF8)
            return Encoding("utf-8-sig" if has_mark else name, how)
    for mark, name in MARKS:
        if head.startswith(mark):
            return Encoding(name, "mark")
    if (wide := _wide(head)) is not None:
        return Encoding(wide, "found")
    odd = _first_odd(source)
    return Encoding("utf-8", "found") if odd is None else _assumed(source, odd)


def _wide(head: bytes) -> str | None:
    """Return UTF-16 without a mark, told by the NULs of its ASCII."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    half = max(len(head) // 2, 1)
    if odd > 0.4 * half and even < 0.1 * half:
        return "utf-16-le"
    return "utf-16-be" if even > 0.4 * half and odd < 0.1 * half else None


def _first_odd(source: int) -> int | None:
    """Return the position of the first byte that is not ASCII in a text that is not UTF-8; None if it is UTF-8."""
    decoder, position, odd = codecs.getincrementaldecoder("utf-8")(), 0, None
    try:
        for chunk in chunks(source):
            if odd is None and not chunk.isascii():
                odd = position + next(number for number, byte in enumerate(chunk) if byte > 127)
            position += len(chunk)
            decoder.decode(chunk)
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        return odd
    return None


def _assumed(source: int, odd: int) -> Encoding:
    position = 0
    for chunk in chunks(source):
        if found := UNDEFINED.search(chunk):
            at = position + found.start()
            raise Unprocessable(f"The file is neither UTF-8 nor {ASSUMED} (byte {at}); say its encoding.")
        position += len(chunk)
    return Encoding(ASSUMED, "assumed", odd)


def chunks(source: int) -> Iterator[bytes]:
    """Yield the bytes of a file from its start."""
    os.lseek(source, 0, os.SEEK_SET)
    while chunk := os.read(source, CHUNK_BYTES):
        yield chunk


def text(source: int, encoding: str, limit_bytes: int | None = None) -> Iterator[str]:
    """Yield the text of a file, proven to be all of it: what is decoded can be encoded to the same bytes.

    Args:
        source: the file's descriptor.
        encoding: its name.
        limit_bytes: how much of it to read, for a look at its beginning, which proves nothing.

    Raises:
        Unprocessable: it is not in this encoding.
        Unproven: it could not be written back as it was.
    """
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    check = _Check(encoding) if limit_bytes is None and codecs.lookup(encoding).name not in EXACT else None
    position = 0
    try:
        for chunk in chunks(source):
            part = chunk if limit_bytes is None else chunk[: limit_bytes - position]
            decoded = decoder.decode(part)
            position += len(part)
            if check:
                check.update(part, decoded)
            yield decoded
            if limit_bytes is not None and position >= limit_bytes:
                return
        yield (rest := decoder.decode(b"", True))
        if check:
            check.update(b"", rest, is_last=True)
    except UnicodeDecodeError as error:
        raise Unprocessable(f"The file is not in {encoding} (near byte {position + error.start}).") from None


class _Check:
    """Encodes again what was decoded, and compares."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._encoder = codecs.getincrementalencoder(encoding)("strict")
        self._read, self._written = 0, 0

    def update(self, part: bytes, decoded: str, is_last: bool = False) -> None:
        self._read = zlib.crc32(part, self._read)
        try:
            self._written = zlib.crc32(self._encoder.encode(decoded, is_last), self._written)
        except UnicodeEncodeError:
            self._written = -1
        if is_last and self._read != self._written:
            raise Unproven(f"The file cannot be written back in {self._encoding} as it was; say another encoding.")
