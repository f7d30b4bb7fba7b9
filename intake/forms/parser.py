"""Parses multipart/form-data: the library's parser, more lenient with clients and clearer about their mistakes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

from multipart import MultipartError, MultipartSegment, ParserError, PushMultipartParser

from core.errors import InvalidUpload
from intake.forms import disposition

Event: TypeAlias = MultipartSegment | bytes | None

FORM_MAX_PARTS = 16
MAX_PART_HEADERS = 64
MAX_PART_HEADER_BYTES = 8 * 1024
BOUNDARY = re.compile(r';\s*boundary=("(?:[^"\\]|\\.)*"|[^;]*)', re.IGNORECASE)
FIRST_BYTES = 4 * 1024
MAX_PADDED_LINE_BYTES = 1024
# All others must be ignored (RFC 7578, section 4.8), also where they are malformed.
READ = (b"content-disposition", b"content-type", b"content-digest", b"repr-digest", b"content-md5")
GZIP = b"\x1f\x8b"
LINE_BREAKS = "The lines of the form's headers must end with CR and LF."
SENTENCES = {
    "Invalid line break after first boundary": LINE_BREAKS,
    "Invalid line break in segment header": LINE_BREAKS,
    "Malformed segment header": "A header of a part of the form has no colon.",
    "Unexpected byte after first boundary": "The form's boundary is followed by other characters.",
    "Unexpected bytes after boundary": "The form's boundary is followed by other characters.",
    "Unexpected byte in front of first boundary": "The form's boundary does not begin a line.",
}


class FormParser(PushMultipartParser):  # type: ignore[misc]
    """An incremental parser of a form.

    Args:
        content_type: the request's Content-Type.

    Raises:
        InvalidUpload: it has no boundary.
    """

    def __init__(self, content_type: str) -> None:
        found = BOUNDARY.search(content_type)
        boundary = re.sub(r"\\(.)", r"\1", found[1].strip().strip('"')) if found else ""
        if not boundary:
            raise InvalidUpload(
                "The Content-Type has no boundary; leave that header to the HTTP client, which sets it."
            )
        super().__init__(
            boundary.encode(),
            max_header_size=MAX_PART_HEADER_BYTES,
            max_header_count=MAX_PART_HEADERS,
            max_segment_count=FORM_MAX_PARTS,
        )
        self._first = b""
        self._padding: re.Pattern[bytes] | None = None
        self._held = b""
        self._is_ignored = False

    def events(self, chunk: bytes) -> Iterator[Event]:
        """Parse the next bytes of the form. Empty bytes mean its end."""
        if not self._first:
            self._first = chunk[:FIRST_BYTES]
            line = b"--" + self.boundary
            if line + b" " in self._first or line + b"\t" in self._first:
                self._held = b"\r\n"
                self._padding = re.compile(rb"(?<=\r\n)(" + re.escape(line) + rb"(?:--)?)[ \t]+(?=\r\n)")
        if self._padding:
            chunk = self._without_padding(self._padding, chunk)
        if chunk:
            yield from self.parse(chunk)

    def _without_padding(self, padding: re.Pattern[bytes], chunk: bytes) -> bytes:
        """Drop the blanks after boundaries (RFC 2046, section 5.1.1), if the form begins with such.

        What may be the beginning of such a line is held until its end is here.
        """
        data = padding.sub(rb"\1", self._held + chunk)
        line = data.rfind(b"\r\n--", -MAX_PADDED_LINE_BYTES)
        is_open = line >= 0 and data.find(b"\r\n", line + 2) < 0
        # Longer ends of such bytes, all of a file of hyphens even, are no beginning of a line.
        held_from = line if is_open else max(len(data.rstrip(b"\r\n-")), len(data) - len(b"\r\n-"))
        if not chunk:
            held_from = len(data)
        self._held = data[held_from:]
        return data[:held_from]

    def _on_segment_start(self) -> None:
        super()._on_segment_start()
        self._is_ignored = False

    def _on_segment_headerline(self, line: bytes) -> None:
        name, colon, _ = line.partition(b":")
        if line[:1] not in (b" ", b"\t"):
            self._is_ignored = bool(colon) and name.strip().lower() not in READ
        if self._is_ignored:
            return
        try:
            line.decode()
        except UnicodeDecodeError:
            raise InvalidUpload("A header of a part of the form, such as the file's name, is not UTF-8.") from None
        super()._on_segment_headerline(line)

    def _create_segment(self, headerlist: list[tuple[str, str]]) -> MultipartSegment:
        values = [value for name, value in headerlist if name == "Content-Disposition"]
        if not values:
            raise InvalidUpload("A part of the form has no Content-Disposition.")
        try:
            [value] = values
            found = disposition.parse(value)
        except ValueError:
            raise InvalidUpload("The Content-Disposition of a part of the form is malformed.") from None
        if found.kind != "form-data":
            raise InvalidUpload("The Content-Disposition of a part of the form is not form-data.")
        segment = MultipartSegment([header for header in headerlist if header[0] != "Content-Disposition"])
        segment.disposition, segment.name, segment.filename = found.kind, found.name or "", found.filename
        return segment

    def explain(self, error: MultipartError, has_length: bool) -> str:
        """Return a sentence for the client that names the mistake in its form.

        Args:
            error: what the parser says.
            has_length: whether the request says how its body ends.
        """
        if not self._first:
            return "The body is empty." if has_length else "The request has no Content-Length."
        if self._first.startswith(GZIP):
            return "The body is compressed; send the form as it is."
        if isinstance(error, ParserError) and str(error) in SENTENCES:
            return SENTENCES[str(error)]
        if self._segment_count == 0:
            return "The body does not begin with the boundary that the Content-Type names."
        return "The form was cut off before its end."
