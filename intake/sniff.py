"""Detects the type of a file from its first bytes, and checks it against the allowed and denied types."""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection
from fnmatch import fnmatchcase

import filetype

from file import VAGUE_TYPES
from intake.families import FIRM, MEDIA, TEXT_MEDIA, are_alike, plain

HEAD_BYTES = 8 * 1024  # as many as filetype looks at
EMPTY = "application/x-empty"
BINARY = "application/octet-stream"
PDF = "application/pdf"
SVG = "image/svg+xml"
PDF_HEADER_BYTES = 1024
"""Readers look for its header so far (ISO 32000-1, note on 7.5.2)."""
BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "image/heic"),
    **dict.fromkeys((b"mif1", b"mif2", b"msf1", b"avci", b"avcs", b"jpeg"), "image/heif"),
    **dict.fromkeys((b"avif", b"avis"), "image/avif"),
}
"""Source: https://mp4ra.org/registered-types/brands; all others are of films and sound."""
BEGINNINGS = {b"II+\0": "image/tiff", b"MM\0+": "image/tiff", b"true\0": "font/ttf"}
"""BigTIFF, and TrueType as Apple writes it."""
CHUNKED = {
    (b"RF64", b"WAVE"): "audio/x-wav",
    (b"FORM", b"AIFC"): "audio/x-aiff",
    (b"FORM", b"AIFF"): "audio/x-aiff",
}
"""Formats of chunks, by the first and the third four bytes; RF64 is a WAV over 4 GiB (EBU Tech 3306)."""
QUICKTIME_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
TRANSPORT_PACKETS = ((0, 188), (4, 192), (0, 204))
"""Where the first sync byte of a transport stream may be, and how long its packets are (ISO 13818-1)."""
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


class FirstBytes:
    """The first bytes of a file that arrives in chunks."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    @property
    def is_full(self) -> bool:
        """True if no more bytes are needed."""
        return len(self._bytes) >= HEAD_BYTES

    def update(self, chunk: bytes) -> None:
        """Add the file's next bytes, as far as they are needed."""
        self._bytes += chunk[: HEAD_BYTES - len(self._bytes)]

    def detect(self) -> str:
        """Return the detected media type."""
        return detect(bytes(self._bytes))


def detect(head: bytes) -> str:
    """Return the media type of a file's first bytes; text/plain or application/octet-stream if unknown.

    libmagic tells more, but takes milliseconds for a text: it compiles its patterns anew every time.

    Args:
        head: the first HEAD_BYTES of the file, or all of a shorter one.
    """
    if not head:
        return EMPTY
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        head = head.decode("utf-16", "replace").encode("utf-8", "replace")
    if markup := _markup_type(head):
        return markup
    is_text = not BINARY_BYTE.search(head)
    found = filetype.guess(head)
    if found and (not is_text or found.mime in TEXTUAL):
        return f"font/{found.extension}" if "/font-" in found.mime else str(found.mime)
    return _text_type(head) if is_text else _binary_type(head)


def _binary_type(head: bytes) -> str:
    """Return the type of formats that the library filetype does not know."""
    for start, kind in BEGINNINGS.items():
        if head.startswith(start):
            return kind
    if chunked := CHUNKED.get((head[:4], head[8:12])):
        return chunked
    atom = head[4:8]
    if atom == b"ftyp":
        return BRANDS.get(head[8:12], "video/mp4")
    if atom in QUICKTIME_ATOMS:
        return "video/quicktime"
    if any(head[start : start + 2 * size + 1 : size] == b"GGG" for start, size in TRANSPORT_PACKETS):
        return "video/mp2t"
    return PDF if b"%PDF-" in head[:PDF_HEADER_BYTES] else BINARY


def _markup_type(head: bytes) -> str | None:
    """Return the type of a page or script by its beginning; browsers and shells look no further either."""
    text = head.removeprefix(codecs.BOM_UTF8)
    if not text.lstrip().startswith((b"<", b"#!")):
        return None
    for pattern, kind in SCRIPTS:
        if pattern.match(text):
            return kind
    root = text[PROLOG.match(text).end() :]  # type: ignore[union-attr]
    if SVG_TAG.match(root):
        return SVG
    return "text/html" if HTML_TAG.match(root) or HTML_TAG.match(text.lstrip()) else None


def _text_type(head: bytes) -> str:
    text = head.removeprefix(codecs.BOM_UTF8)
    if text.lstrip().startswith(b"%PDF-"):
        return PDF
    if text.lstrip().startswith(b"<?xml"):
        return "application/xml"
    return "text/csv" if _is_csv(text) else "text/plain"


def _is_csv(text: bytes) -> bool:
    """Returns True if there are several lines, all with as many separators as the first."""
    lines = text.splitlines()[:10]
    if len(text) >= HEAD_BYTES:
        lines.pop()  # may be half a line
    for separator in (b",", b";", b"\t"):
        counts = {line.count(separator) for line in lines}
        if len(lines) > 1 and len(counts) == 1 and counts != {0}:
            return True
    return False


def refused_type(declared: str, detected: str, allowed: Collection[str], denied: Collection[str]) -> str | None:
    """Return the type for which a file is refused, or None.

    Args:
        declared: the media type as its client declares it; parameters do not count.
        detected: the one that its bytes tell.
        allowed: patterns such as `image/*`, for both types; none allows everything. Bytes that
            tell nothing, or another type of the same family, are no lie, unless such a file always tells itself.
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
    return None if are_alike(declared, detected) or _confirms(declared, detected, allowed) else detected


def _confirms(declared: str, detected: str, allowed: Collection[str]) -> bool:
    """Returns True if the detected type is compatible with the declared one, or allowed anyway."""
    if detected not in VAGUE_TYPES:
        # A picture that runs scripts must say so.
        return detected != SVG and _matches(detected, allowed)
    kind = plain(declared)
    if kind.startswith(MEDIA) and kind not in TEXT_MEDIA:
        return detected == BINARY and kind not in FIRM
    return kind not in FIRM


def _matches(kind: str, patterns: Collection[str]) -> bool:
    """Returns True if a type matches a pattern."""
    return any(fnmatchcase(plain(kind), plain(pattern)) for pattern in patterns)
