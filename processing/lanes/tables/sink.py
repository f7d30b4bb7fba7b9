"""Where good rows go: into a file that DuckDB can read, with a digest of every column and stretch of rows."""

from __future__ import annotations

import csv
import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import IO, TextIO

from processing.lanes.outcome import Unprocessable

STRETCH = 16_384
ESCAPE, CARRIAGE_RETURN = "\x1a", "\r"
MAX_COLUMNS = 2000

Digests = list[list[bytes]]
"""Of every stretch of rows, one for each column."""


def digest(column: Sequence[str]) -> bytes:
    """Return the digest of a stretch of a column: of its texts, and of where each ends."""
    found = hashlib.md5("".join(column).encode("utf-8", "surrogatepass"), usedforsecurity=False)
    found.update(array("I", map(len, column)).tobytes())
    return found.digest()


class Sink:
    """Writes rows of one width.

    Args:
        path: the file.
        width: the number of columns.
        most_cells: how many cells there may be.
    """

    def __init__(self, path: str, width: int, most_cells: int) -> None:
        if width > MAX_COLUMNS:
            raise Unprocessable(f"The table has {width} columns, {MAX_COLUMNS} are processed at most.")
        self.path = path
        self.width = width
        self.rows = 0
        self.first: list[str] | None = None
        """The row that may be the header: it is kept apart."""
        self.digests: Digests = []
        self.escaped: set[int] = set()
        """The columns with what DuckDB's reader cannot take as it is."""
        self._most_rows = most_cells // max(width, 1)
        self._held: list[list[str]] = []
        self._file: TextIO = open(path, "w", encoding="utf-8", errors="surrogatepass", newline="")
        self._writer = csv.writer(self._file, quoting=csv.QUOTE_ALL, lineterminator="\n")

    def add(self, rows: Iterable[list[str]]) -> None:
        """Add rows.

        Raises:
            Unprocessable: there are too many.
        """
        self._held.extend(rows)
        while len(self._held) >= STRETCH:
            self._write(self._held[:STRETCH])
            del self._held[:STRETCH]

    def close(self) -> None:
        """Write what is held, and close the file."""
        if self._held:
            self._write(self._held)
            self._held = []
        self._file.close()

    def _write(self, rows: list[list[str]]) -> None:
        self.rows += len(rows)
        if self.rows > self._most_rows:
            most = self._most_rows * self.width
            raise Unprocessable(f"The table has more than {most:,} cells, which is all that is processed.")
        columns = list(zip(*rows, strict=True))
        self.digests.append([digest(column) for column in columns])
        odd = [number for number, column in enumerate(columns) if _is_odd(column)]
        if odd:
            self.escaped.update(odd)
            rows = [list(row) for row in rows]
            for row in rows:
                for number in odd:
                    row[number] = escape(row[number])
        self._writer.writerows(rows)


def _is_odd(column: Sequence[str]) -> bool:
    text = "".join(column)
    return CARRIAGE_RETURN in text or ESCAPE in text


def escape(cell: str) -> str:
    """Write a cell without CR, which DuckDB's CSV reader takes for the end of a row even in quotes."""
    return cell.replace(ESCAPE, ESCAPE + "0").replace(CARRIAGE_RETURN, ESCAPE + "1")


def unescaped(column: str) -> str:
    """Return the SQL that undoes `escape`."""
    return f"replace(replace({column}, chr(26) || '1', chr(13)), chr(26) || '0', chr(26))"


class Rejected:
    """The file of rejected rows, byte for byte as they were, each with its line and why.

    Args:
        path: the file; only made when there is a row for it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.count = 0
        self._file: IO[str] | None = None

    def add(self, line: int, reason: str, raw: str) -> None:
        """Add a row."""
        if self._file is None:
            self._file = open(self.path, "w", encoding="utf-8", errors="surrogatepass", newline="")
            csv.writer(self._file, lineterminator="\n").writerow(("line", "reason", "raw"))
        csv.writer(self._file, lineterminator="\n").writerow((line, reason, raw))
        self.count += 1

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
