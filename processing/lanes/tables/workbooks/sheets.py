"""The sheets of a workbook: which are used, what their cells are, and what was found in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Protocol

from processing.lanes.outcome import Unprocessable
from processing.lanes.tables.cleaning import Cleaning
from processing.lanes.tables.sink import MAX_COLUMNS, Sink
from processing.lanes.tables.workbooks import ods, xls, xlsx
from processing.lanes.tables.workbooks.cells import Cell, Found

MOST_LISTED = 1000
MOST_READINGS = 4
LOOK_ROWS = 200
BATCH = 1024
OLE = b"\xd0\xcf\x11\xe0"


class Reader(Protocol):
    """Reads the rows of one sheet, as often as asked."""

    name: str
    state: str

    def rows(self, found: Found) -> Iterator[tuple[int, list[Cell]]]:
        """Yield the rows that the sheet has, each with its number from 1; tell what else is found."""


class Choices(NamedTuple):
    """What an earlier reading of a sheet has shown."""

    width: int
    error_texts: frozenset[int] = frozenset()
    """Columns in which errors are texts among others."""
    number_dates: frozenset[int] = frozenset()
    """Columns with dates before March 1900, which stay numbers."""


@dataclass
class Sheet:
    """One sheet."""

    reader: Reader
    values: dict[str, Any]
    is_used: bool = True
    header: list[str] | None = None
    header_kinds: list[str] = field(default_factory=list)
    header_line: int | None = None
    blank: int = 0
    preamble: int = 0
    rows: int = 0
    width: int = 0
    """As far as its beginning shows."""
    found: Found = field(default_factory=Found)
    _kinds: dict[int, set[str]] = field(default_factory=dict)
    _formats: dict[int, str] = field(default_factory=dict)
    _choices: Choices = field(default_factory=lambda: Choices(0))

    @property
    def name(self) -> str:
        """Its name."""
        return self.reader.name

    @property
    def is_header_known(self) -> bool:
        """True if the client says where the header is."""
        return "header" in self.values

    @property
    def header_how(self) -> str:
        """How the header is known."""
        return "hint" if self.is_header_known else "found" if self.header else "none"

    def read(self, path: str, most_cells: int) -> tuple[Sink, Cleaning]:
        """Read the rows into a sink; again where the reading shows what the next must know."""
        choices = Choices(max(self.width, 1))
        for _ in range(MOST_READINGS):
            self._begin(choices)
            sink, cleaning = Sink(path, choices.width, most_cells), Cleaning(self.values)
            widest = self._read(sink, cleaning, choices)
            sink.close()
            self.rows = sink.rows
            learned = self._learned(choices, widest)
            if learned == choices:
                return sink, cleaning
            choices = learned
        raise Unprocessable(f"The sheet {self.name} cannot be read the same way twice.")

    def _begin(self, choices: Choices) -> None:
        self.found, self._kinds, self._formats = Found(), {}, {}
        self.header, self.header_kinds, self.header_line = None, [], None
        self.blank, self.preamble, self.rows = 0, 0, 0
        self._choices = choices

    def _read(self, sink: Sink, cleaning: Cleaning, choices: Choices) -> int:
        asked, batch, seen = self.values.get("header"), [], [""] * choices.width
        width = widest = choices.width
        for number, cells in self.reader.rows(self.found):
            if not cells:
                self.blank += 1
                continue
            widest = max(widest, max(cells)[0] + 1)
            if widest > MAX_COLUMNS:
                raise Unprocessable(f"The sheet has {widest:,} columns, {MAX_COLUMNS:,} are processed at most.")
            if asked and number < asked:
                self.preamble += 1
            elif self.header is None and asked != 0:
                self.header_line, self.header_kinds = number, [""] * width
                self.header = self._row(cells, choices, self.header_kinds)
            else:
                kinds = seen.copy()
                batch.append(self._row(cells, choices, kinds))
                if kinds != seen:
                    self._note(cells, choices)
                    seen = kinds
                if len(batch) >= BATCH:
                    sink.add(cleaning.rows(batch))
                    batch = []
        sink.add(cleaning.rows(batch))
        sink.add(cleaning.end())
        return widest

    def _note(self, cells: list[Cell], choices: Choices) -> None:
        """Note the kinds of a row in which a column has another kind than in the row before."""
        for column, kind, _, _, code in cells:
            is_number = kind == "date" and column in choices.number_dates
            self._kinds.setdefault(column, set()).add("number" if is_number else kind)
            if code:
                self._formats.setdefault(column, code)

    @staticmethod
    def _row(cells: list[Cell], choices: Choices, kinds: list[str]) -> list[str]:
        """Return the texts of a row, and write the kinds of its cells over those of the row before."""
        width = choices.width
        row = [""] * width
        for column, kind, text, number, _ in cells:
            if column < width:
                kinds[column] = kind
                if kind == "error" and column not in choices.error_texts:
                    continue
                row[column] = number if kind == "date" and column in choices.number_dates else text
        return row

    def _learned(self, choices: Choices, widest: int) -> Choices:
        texts = {
            column
            for column, kinds in self._kinds.items()
            if "error" in kinds and (len(kinds - {"error"}) != 1 or "text" in kinds)
        }
        if self.found.error_count > MOST_LISTED:
            texts |= {column for column, kinds in self._kinds.items() if "error" in kinds}
        early = choices.number_dates | self.found.early_dates
        return Choices(widest, frozenset(texts), frozenset(early))

    def kinds_of(self, column: int) -> list[str]:
        """Return the kinds of a column's cells."""
        return sorted(self._kinds.get(column, ()))

    def kind(self, column: int) -> str:
        """Return the kind of all cells of a column; `mixed` if they differ."""
        kinds = self._kinds.get(column, set())
        if column not in self._choices.error_texts:
            kinds = kinds - {"error"}
        return next(iter(kinds)) if len(kinds) == 1 else "mixed" if kinds else "text"

    def column_notes(self, column: int) -> list[str]:
        """Return what is to be told of a column."""
        notes = [f"format: {self._formats[column]}"] if column in self._formats else []
        if column in self._choices.number_dates:
            notes.append("before 1900-03-01: dates that Excel counts wrongly stay numbers")
        return notes

    def report(self) -> dict[str, Any]:
        """Return what the report says of it."""
        return {
            "name": self.name,
            "state": self.reader.state,
            "rows": self.rows,
            "used": self.is_used,
            "hidden_rows": self.found.hidden_rows,
            "hidden_columns": self.found.hidden_columns,
            "merged": self.found.merged[:MOST_LISTED],
            "formulas": self.found.formulas,
            "formulas_without_value": self.found.formulas_without_value,
            "errors": self.found.errors,
        }


def read_workbook(source: int, values: dict[str, Any], limits: dict[str, int]) -> tuple[list[Sheet], str]:
    """Open a workbook.

    Args:
        source: its descriptor.
        values: of the recipe: `sheets`, and the hint `sheet`.
        limits: `unpacked` bytes.

    Returns:
        Its sheets, and its kind.

    Raises:
        Unprocessable: it is none of a known kind, or encrypted.
    """
    if os.pread(source, 4, 0).startswith(OLE):
        readers: list[Any] = xls.open_workbook(source)
        kind = "xls"
    else:
        kind = xlsx.kind_of(source)
        readers = (xlsx if kind == "xlsx" else ods).open_workbook(source, limits["unpacked"])
    sheets = [Sheet(reader, values) for reader in readers]
    wanted = values.get("sheet")
    if wanted and wanted not in [sheet.name for sheet in sheets]:
        raise Unprocessable(f"The workbook has no sheet {wanted!r}.")
    for sheet in sheets:
        has_data = sheet.reader.state != "chart" and _look(sheet)
        is_shown = sheet.reader.state == "visible" or values["sheets"] == "all"
        sheet.is_used = sheet.name == wanted if wanted else is_shown and has_data
    return sheets, kind


def _look(sheet: Sheet) -> bool:
    """Look at the beginning of a sheet for its width. Returns True if it has a cell at all."""
    found, seen = Found(), False
    for _, cells in islice(sheet.reader.rows(found), LOOK_ROWS):
        seen = seen or bool(cells)
        sheet.width = max(sheet.width, max(cells)[0] + 1 if cells else 0)
    if seen:
        sheet.width = min(max(sheet.width, found.width), MAX_COLUMNS)
    return seen or any(cells for _, cells in sheet.reader.rows(Found()))
