"""The dialect of a text: its delimiter, its width, and where its table begins. Hints win."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from processing.lanes.tables.texts.lines import Lines

DELIMITERS = ",;\t|"
SNIFFED_LINES = 20
LEAST_ROWS, LEAST_SHARE = 3, 0.6
MAX_CELL = 1 << 20
SEPARATOR = "sep="


@dataclass
class Dialect:
    """How a text is to be read."""

    delimiter: str
    how: str
    escape: str | None
    width: int
    """The number of cells of the table's rows."""
    header_line: int
    """The line of the header, or of the first row that may be one; 0 for no header."""
    is_header_known: bool
    separator_line: bool

    def reader(self, lines: Iterable[str]) -> Any:
        """Return a strict reader of the records."""
        return reader(lines, self.delimiter, self.escape)


def reader(lines: Iterable[str], delimiter: str, escape: str | None = None, strict: bool = True) -> Any:
    """Return a reader of records, as of RFC 4180 but for the delimiter."""
    csv.field_size_limit(MAX_CELL)
    return csv.reader(lines, delimiter=delimiter, escapechar=escape, strict=strict)


def find(sample: str, is_whole: bool, values: dict[str, Any]) -> Dialect:
    """Return the dialect of a text by its beginning.

    Args:
        sample: the beginning.
        is_whole: whether it is the whole text.
        values: of the recipe, with the hints `delimiter` and `header`.
    """
    lines = list(Lines(iter([sample])))
    if not is_whole and len(lines) > 1:
        lines.pop()  # perhaps half a line
    told = _separator(lines)
    delimiter = values.get("delimiter") or told or sniff(lines[:SNIFFED_LINES])
    how = "hint" if values.get("delimiter") else "sep= line" if told else "found"
    start = 1 if told else 0
    escape = _escape(lines[start:], delimiter)
    records = _records(lines[start:], delimiter, escape)
    asked = values.get("header")
    if asked:
        at = next((one for one in records if one[0] + start >= asked), (asked - start, [""]))
        return Dialect(delimiter, how, escape, len(at[1]), asked, True, bool(told))
    width = _width([row for _, row in records])
    first = next((line for line, row in records if len(row) == width and any(row)), 1)
    line = first + start
    return Dialect(delimiter, how, escape, width, 0 if asked == 0 else line, asked == 0, bool(told))


def _separator(lines: Sequence[str]) -> str | None:
    """Return the delimiter that Excel's first line `sep=;` names."""
    first = lines[0].rstrip("\r\n") if lines else ""
    return first[4] if len(first) == len(SEPARATOR) + 1 and first.lower().startswith(SEPARATOR) else None


def sniff(lines: Sequence[str]) -> str:
    """Return the delimiter whose commonest width covers most lines; a wide row counts more than a narrow one."""
    best, most = DELIMITERS[0], 0.0
    for delimiter in DELIMITERS:
        widths = Counter(len(row) for row in reader(lines, delimiter, strict=False) if len(row) > 1)
        for width, count in widths.most_common(1):
            if (score := count * (1 - 1 / width)) > most:
                best, most = delimiter, score
    return best


def _escape(lines: Sequence[str], delimiter: str) -> str | None:
    """Return the backslash if the text can only be read with it."""
    if not any('\\"' in line for line in lines):
        return None
    return "\\" if _faults(lines, delimiter, "\\") < _faults(lines, delimiter, None) else None


def _faults(lines: Sequence[str], delimiter: str, escape: str | None) -> int:
    faults, records = 0, reader(iter(lines), delimiter, escape)
    while True:
        try:
            if next(records, None) is None:
                return faults
        except csv.Error:
            faults += 1


def _records(lines: Sequence[str], delimiter: str, escape: str | None) -> list[tuple[int, list[str]]]:
    """Return the records of the beginning, each with its first line's number from 1."""
    found: list[tuple[int, list[str]]] = []
    records = reader(iter(lines), delimiter, escape)
    while True:
        line = records.line_num + 1
        try:
            row = next(records, None)
        except csv.Error:
            continue
        if row is None:
            return found
        found.append((line, row))


def _width(rows: Sequence[list[str]]) -> int:
    """Return the first row's width, or a wider one that most rows have."""
    widths = [len(row) for row in rows if any(row)]
    if not widths:
        return max(map(len, rows), default=0)
    wider = Counter(width for width in widths if width > widths[0])
    for width, count in wider.most_common(1):
        if count >= LEAST_ROWS and count >= LEAST_SHARE * len(widths):
            return width
    return widths[0]
