"""What a file is by its first bytes, and whether files of such a type are taken."""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection
from fnmatch import fnmatchcase

import filetype

HEAD_BYTES = 8 * 1024  # as many as filetype looks at
EMPTY = "application/x-empty"
BINARY = "application/octet-stream"
ZIP = "application/zip"
VAGUE = {EMPTY, BINARY, "text/plain", "text/csv", "application/xml"}
"""What the bytes of many formats look like."""
TELLING = ("image/*", "audio/*", "video/*", "font/*", "application/pdf", ZIP)
"""Formats that begin with bytes of their own; what does not begin so is none of them."""
TEXTUAL = {"application/pdf", "application/postscript", "application/rtf", "image/gif"}
"""Signatures that a text may begin with and mean; "BM" or "MZ" in front of a text is a word."""

BINARY_BYTE = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
"""Source: https://mimesniff.spec.whatwg.org/#binary-data-byte"""
HTML_TAG = re.compile(
    rb"<(?:!--|(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p)(?:[\s>]|$))",
    re.IGNORECASE,
)
"""Source: https://mimesniff.spec.whatwg.org/#identifying-a-resource-with-an-unknown-mime-type"""
PROLOG = re.compile(
    rb"(?:\s+|<!--.*?-->|<\?xml.*?\?>|<!doctype(?! html)[^\[>]*(?:\[.*?\]\s*)?>)*", re.IGNORECASE | re.DOTALL
)
SVG_TAG = re.compile(rb"<(?:[\w-]+:)?svg[\s/>]", re.IGNORECASE)
SCRIPTS = (
    (re.compile(rb"#![^\n]*\b(?:ba|da|k|z)?sh\b"), "text/x-shellscript"),
    (re.compile(rb"#!"), "text/x-script"),
    (re.compile(rb"<\?php", re.IGNORECASE), "text/x-php"),
)


class Head:
    """Keeps the first bytes of a file that arrives in chunks of any size."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    @property
    def is_full(self) -> bool:
        """Whether it needs no more of the file."""
        return len(self._bytes) >= HEAD_BYTES

    def update(self, chunk: bytes) -> None:
        """Take what it needs of the file's next bytes."""
        self._bytes += chunk[: HEAD_BYTES - len(self._bytes)]

    def detect(self) -> str:
        """Tell the media type."""
        return detect(bytes(self._bytes))


def detect(head: bytes) -> str:
    """Tell a media type by a file's first bytes; what they do not tell is text, or just bytes.

    libmagic tells more, but takes milliseconds for a text: it compiles its patterns anew every time.

    Args:
        head: the first HEAD_BYTES of the file, or all of a shorter one.
    """
    if not head:
        return EMPTY
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        head = head.decode("utf-16", "replace").encode("utf-8", "replace")
    is_text = not BINARY_BYTE.search(head)
    found = filetype.guess(head)
    if found and (not is_text or found.mime in TEXTUAL):
        return f"font/{found.extension}" if "/font-" in found.mime else str(found.mime)
    return _text_type(head) if is_text else BINARY


def _text_type(head: bytes) -> str:
    text = head.removeprefix(codecs.BOM_UTF8)
    for pattern, kind in SCRIPTS:
        if pattern.match(text):
            return kind
    root = text[PROLOG.match(text).end() :]  # type: ignore[union-attr]
    if SVG_TAG.match(root):
        return "image/svg+xml"
    if HTML_TAG.match(root) or HTML_TAG.match(text.lstrip()):
        return "text/html"
    if text.lstrip().startswith(b"<?xml"):
        return "application/xml"
    return "text/csv" if _is_csv(text) else "text/plain"


def _is_csv(text: bytes) -> bool:
    """Whether there are several lines, and each has as many separators as the first."""
    lines = text.splitlines()[:10]
    if len(text) >= HEAD_BYTES:
        lines.pop()  # may be half a line
    for separator in (b",", b";", b"\t"):
        counts = {line.count(separator) for line in lines}
        if len(lines) > 1 and len(counts) == 1 and counts != {0}:
            return True
    return False


def refused_type(declared: str, detected: str, allowed: Collection[str], denied: Collection[str]) -> str | None:
    """The type for which a file is not taken, or None if it is.

    Args:
        declared: the media type as its client declares it; parameters do not count.
        detected: the one that its bytes tell.
        allowed: patterns such as `image/*`, for both types; none allows everything. Bytes that tell nothing are
            taken for what they are declared to be, unless such a file always tells what it is.
        denied: patterns that neither type may match.
    """
    declared = declared.partition(";")[0].strip().lower()
    for kind in (declared, detected):
        if _matches(kind, denied):
            return kind
    if not allowed:
        return None
    if not _matches(declared, allowed):
        return declared
    if _matches(declared, TELLING):
        confirmed = detected not in VAGUE and _matches(detected, allowed)
    else:
        # Word's, Java's and many more files are ZIP files that do not always tell it at their start.
        is_container = detected == ZIP and declared.startswith("application/")
        confirmed = detected in VAGUE or is_container or _matches(detected, allowed)
    return None if confirmed else detected


def _matches(kind: str, patterns: Collection[str]) -> bool:
    """Whether a type matches a pattern; audio/x-wav is audio/wav (RFC 6648)."""
    return any(fnmatchcase(_plain(kind), _plain(pattern.lower())) for pattern in patterns)


def _plain(kind: str) -> str:
    return kind.replace("/x-", "/")
