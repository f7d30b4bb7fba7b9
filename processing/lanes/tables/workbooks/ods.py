"""Workbooks of OpenDocument, as a stream.

Source: OpenDocument 1.3, part 3, section 9.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from processing.lanes.outcome import Unprocessable
from processing.lanes.tables.sink import MAX_COLUMNS
from processing.lanes.tables.workbooks.cells import Cell, Found, letters, number_text
from processing.lanes.tables.workbooks.xlsx import MAX_CELL, Archive, drain, local, parse

CONTENT, MANIFEST = "content.xml", "META-INF/manifest.xml"
NUMBERS = ("float", "percentage", "currency")
MOST_REPEATED = 1_048_576


def open_workbook(source: int, limit: int) -> list[SheetReader]:
    """Open a workbook. Returns the readers of its sheets.

    Raises:
        Unprocessable: it is encrypted or damaged.
    """
    archive = Archive(source, limit)
    _refuse_encrypted(archive)
    names: list[tuple[str, str]] = []
    hidden: set[str] = set()
    style = [""]

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "style:style":
            style[0] = attributes.get("style:name", "")
        elif name == "style:table-properties" and attributes.get("table:display") == "false":
            hidden.add(style[0])
        elif name == "table:table":
            is_hidden = attributes.get("table:style-name") in hidden
            names.append((attributes.get("table:name", ""), "hidden" if is_hidden else "visible"))

    drain(parse(archive.chunks(CONTENT), start))
    return [SheetReader(archive, number, *sheet) for number, sheet in enumerate(names)]


def _refuse_encrypted(archive: Archive) -> None:
    if not archive.has(MANIFEST):
        return

    def start(name: str, _: dict[str, str]) -> None:
        if local(name) == "encryption-data":
            raise Unprocessable("The workbook is encrypted.")

    drain(parse(archive.chunks(MANIFEST), start))


class SheetReader:
    """Reads one sheet, as often as asked."""

    def __init__(self, archive: Archive, number: int, name: str, state: str) -> None:
        self.name = name
        self.state = state
        self._archive = archive
        self._number = number

    def rows(self, found: Found) -> Iterator[tuple[int, list[Cell]]]:
        """Yield the rows that the sheet has, each with its number from 1."""
        handler = _Handler(self._number, found)
        for _ in parse(self._archive.chunks(CONTENT), handler.start, handler.end, handler.data):
            while handler.ready:
                number, repeated, cells = handler.ready.pop(0)
                for _ in range(repeated):
                    yield number, cells
                    number += 1


class _Handler:
    """Makes cells of the elements of one sheet."""

    def __init__(self, wanted: int, found: Found) -> None:
        self.ready: list[tuple[int, int, list[Cell]]] = []
        self._wanted = wanted
        self._found = found
        self._table = -1
        self._row, self._repeated, self._column = 1, 1, 0
        self._cells: list[Cell] = []
        self._attributes: dict[str, Any] = {}
        self._paragraphs: list[str] = []
        self._depth = 0
        self._in_note = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Begin an element."""
        if name == "table:table":
            self._table += 1
        if self._table != self._wanted:
            return
        if name == "table:table-row":
            self._begin_row(attributes)
        elif name in ("table:table-cell", "table:covered-table-cell"):
            self._begin_cell(name, attributes)
        elif name == "office:annotation":
            self._in_note += 1
        elif not self._in_note:
            self._begin_text(name, attributes)

    def _begin_row(self, attributes: dict[str, str]) -> None:
        self._repeated = _count(attributes, "table:number-rows-repeated")
        self._column, self._cells = 0, []
        if attributes.get("table:visibility") in ("collapse", "filter"):
            self._found.hidden_rows += self._repeated

    def _begin_cell(self, name: str, attributes: dict[str, str]) -> None:
        self._attributes, self._paragraphs = attributes, []
        if "table:formula" in attributes:
            self._found.formulas += 1
        wide, high = (attributes.get(f"table:number-{way}-spanned", "1") for way in ("columns", "rows"))
        if (wide, high) != ("1", "1") and name == "table:table-cell":
            self._found.merged.append(f"{letters(self._column)}{self._row}, {high} x {wide}")

    def _begin_text(self, name: str, attributes: dict[str, str]) -> None:
        if name == "text:p":
            self._paragraphs.append("")
            self._depth += 1
        elif name == "text:s" and self._depth:
            self._paragraphs[-1] += " " * min(_count(attributes, "text:c"), MAX_CELL)
        elif name in ("text:tab", "text:line-break") and self._depth:
            self._paragraphs[-1] += "\t" if name == "text:tab" else "\n"

    def data(self, text: str) -> None:
        """Take text."""
        if self._depth and not self._in_note and self._paragraphs:
            self._paragraphs[-1] += text
            if len(self._paragraphs[-1]) > MAX_CELL:
                raise Unprocessable(f"A cell has more than {MAX_CELL >> 20} MiB.")

    def end(self, name: str) -> None:
        """End an element."""
        if self._table != self._wanted:
            return
        if name in ("table:table-cell", "table:covered-table-cell"):
            self._end_cell()
        elif name == "table:table-row":
            self._end_row()
        elif name == "office:annotation":
            self._in_note -= 1
        elif name == "text:p" and not self._in_note:
            self._depth -= 1

    def _end_cell(self) -> None:
        repeated = _count(self._attributes, "table:number-columns-repeated")
        cell = self._cell("\n".join(self._paragraphs))
        if cell:
            if self._column + repeated > MAX_COLUMNS:
                raise Unprocessable(
                    f"The sheet has {self._column + repeated:,} columns, {MAX_COLUMNS:,} are processed at most."
                )
            self._cells += [(self._column + number, *cell) for number in range(repeated)]
        self._column += repeated
        self._attributes = {}

    def _end_row(self) -> None:
        if self._cells:
            if self._repeated > MOST_REPEATED:
                raise Unprocessable(f"The sheet repeats a row {self._repeated:,} times.")
            self.ready.append((self._row, self._repeated, self._cells))
        self._row += self._repeated

    def _cell(self, text: str) -> tuple[str, str, str, str] | None:
        """Return a cell without its column; None for an empty one."""
        kind = self._attributes.get("office:value-type", "")
        if kind in NUMBERS:
            try:
                number = number_text(float(self._attributes.get("office:value", "")))
            except (ValueError, OverflowError):
                return ("text", text, "", "") if text else None
            return "number", number, number, ""
        if kind == "boolean":
            return "boolean", self._attributes.get("office:boolean-value", "false"), "", ""
        if kind == "date":
            moment = self._attributes.get("office:date-value", "").replace("T", " ").removesuffix(" 00:00:00")
            return "date", moment, moment, ""
        if kind == "string" and "office:string-value" in self._attributes:
            text = self._attributes["office:string-value"]
        if text.startswith(("#", "Err:")) and self._attributes.get("table:formula"):
            self._found.error(self._row, self._column, text)
            return "error", text, "", ""
        return ("text", text, "", "") if text else None


def _count(attributes: dict[str, Any], name: str) -> int:
    text = attributes.get(name, "1")
    return int(text) if text.isdecimal() and len(text) < 12 else 1
