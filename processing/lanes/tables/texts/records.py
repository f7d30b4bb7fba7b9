"""The records of a text: each goes to exactly one of header, preamble, blank, rejected, out."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from processing.lanes.outcome import Unprocessable
from processing.lanes.tables.cleaning import Cleaning
from processing.lanes.tables.sink import STRETCH, Rejected, Sink
from processing.lanes.tables.texts.dialect import MAX_CELL, Dialect
from processing.lanes.tables.texts.lines import BREAK, Lines

MOST_UNCLOSED = 1000


@dataclass
class Fates:
    """How many records went where."""

    preamble: int = 0
    blank: int = 0
    rejected: int = 0
    trimmed: int = 0
    """Rows whose further cells, all empty, were left out."""
    header: list[str] | None = None
    header_line: int = 0


class Records:
    """Reads all records of a text.

    Args:
        lines: its lines.
        dialect: how it is to be read.
        sink: takes the good rows.
        rejected: takes the others.
        cleaning: what is done to every good row.
    """

    def __init__(self, lines: Lines, dialect: Dialect, sink: Sink, rejected: Rejected, cleaning: Cleaning) -> None:
        self.fates = Fates()
        self._lines = lines
        self._dialect = dialect
        self._sink = sink
        self._rejected = rejected
        self._cleaning = cleaning
        self._width = dialect.width
        self._empty = [""] * dialect.width
        self._unclosed = 0
        self._in_table = False

    def read(self) -> Fates:
        """Read to the end.

        Raises:
            Unprocessable: the text is over a budget, or its quotes do not match.
        """
        if self._dialect.separator_line:
            next(self._lines)
            self._lines.forget()
        reader = self._dialect.reader(self._lines)
        while True:
            batch: list[list[str]] = []
            error = None
            try:
                batch.extend(islice(reader, STRETCH))
            except csv.Error as found:
                error = found
            self._sort(batch)
            if error:
                self._reject_unclosed(batch, error)
            elif not batch:
                break
            self._lines.forget()
        self._sink.add(self._cleaning.end())
        return self.fates

    def _sort(self, batch: list[list[str]]) -> None:
        """Send every record where it belongs; the usual stretch, all good, as a whole."""
        is_good = self._in_table and self._empty not in batch and set(map(len, batch)) == {self._width}
        if is_good:
            self._sink.add(self._cleaning.rows(batch))
            return
        good = [row for line, row in self._numbered(batch) if self._is_good(line, row)]
        self._sink.add(self._cleaning.rows(good))

    def _numbered(self, batch: list[list[str]]) -> Iterator[tuple[int, list[str]]]:
        """Yield the records, each with its place among the lines taken."""
        at = 0
        for row in batch:
            yield at, row
            at += _height(row)

    def _is_good(self, at: int, row: list[str]) -> bool:
        line = self._lines.count + at + 1
        if not any(row):
            self.fates.blank += 1
            return False
        if not self._in_table and not self._begins(line, row):
            self.fates.preamble += 1
            return False
        if not self._in_table:
            self._in_table = True
            if self._dialect.header_line:
                self.fates.header, self.fates.header_line = self._fit(row), line
                return False
        if (len(row) != self._width and any(row[self._width :])) or len(row) < self._width:
            self._reject(at, row, f"{len(row)} cells instead of {self._width}")
            return False
        if len(row) > self._width:
            self.fates.trimmed += 1
            del row[self._width :]
        return True

    def _begins(self, line: int, row: list[str]) -> bool:
        if self._dialect.is_header_known and self._dialect.header_line:
            return line >= self._dialect.header_line
        return len(row) == self._width

    def _fit(self, row: list[str]) -> list[str]:
        return [*row, *self._empty][: self._width]

    def _reject(self, at: int, row: list[str], reason: str) -> None:
        raw = "".join(self._lines.taken[at : at + _height(row)])
        self._rejected.add(self._lines.count + at + 1, reason, raw.rstrip("\r\n"))
        self.fates.rejected += 1

    def _reject_unclosed(self, batch: list[list[str]], error: csv.Error) -> None:
        """Reject the first line of a record that cannot be read, and go on with the next line."""
        at = sum(map(_height, batch))
        found = self._lines.taken[at:]
        line = self._lines.count + at + 1
        if len(found) == 1 and "field larger" in str(error):
            raise Unprocessable(f"A cell in line {line} has more than {MAX_CELL >> 20} MiB.")
        self._unclosed += 1
        if self._unclosed > MOST_UNCLOSED:
            raise Unprocessable(f"The quotes of more than {MOST_UNCLOSED} rows do not match.")
        self._lines.give_back(len(found) - 1)
        reason = "a quote that is not closed" if "end of data" in str(error) or len(found) > 1 else "a stray quote"
        self._rejected.add(line, reason, found[0].rstrip("\r\n") if found else "")
        self.fates.rejected += 1


def _height(row: list[str]) -> int:
    """Return how many lines a record has taken."""
    text = "\n".join(row)
    if "\r" not in text:
        return 1 + text.count("\n") - (len(row) - 1 if row else 0)
    return 1 + sum(len(BREAK.findall(cell)) for cell in row)


def facts(out: int, fates: Fates, lines: Lines) -> dict[str, Any]:
    """Return what the report says of the records; `out` of them are in the table."""
    return {
        "lines": lines.count,
        "newlines": {name: count for name, count in lines.newlines.items() if count},
        "records": {
            "in": out + fates.rejected + fates.blank,
            "out": out,
            "rejected": fates.rejected,
            "blank": fates.blank,
            "preamble": fates.preamble,
        },
    }
