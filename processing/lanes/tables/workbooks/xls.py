"""Workbooks of Excel 97 to 2003, by xlrd."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import xlrd

from processing.lanes.outcome import Unprocessable
from processing.lanes.tables.workbooks.cells import (
    FIRST_SURE_SERIAL,
    Cell,
    Found,
    date_text,
    is_date_format,
    number_text,
)

STATES = {0: "visible", 1: "hidden", 2: "veryHidden"}
ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
MOST_BYTES = 100 << 20


def open_workbook(source: int) -> list[SheetReader]:
    """Open a workbook. Returns the readers of its sheets.

    Raises:
        Unprocessable: it is encrypted, damaged, or no workbook.
    """
    size = os.fstat(source).st_size
    if size > MOST_BYTES:
        raise Unprocessable(f"The workbook has more than {MOST_BYTES >> 20} MiB.")
    content = os.pread(source, size, 0)
    if ENCRYPTED in content:
        raise Unprocessable("The workbook is encrypted.")
    try:
        book = xlrd.open_workbook(file_contents=content, formatting_info=True, logfile=io.StringIO())
    except MemoryError:
        raise
    except Exception as error:  # xlrd raises whatever a damaged file leads it to
        reason = "is encrypted" if "encrypt" in str(error).lower() else "is damaged, or of no known kind"
        raise Unprocessable(f"The workbook {reason}.") from None
    return [SheetReader(book, sheet) for sheet in book.sheets()]


class SheetReader:
    """Reads one sheet, as often as asked."""

    def __init__(self, book: xlrd.Book, sheet: xlrd.sheet.Sheet) -> None:
        self.name = sheet.name
        self.state = STATES.get(sheet.visibility, "hidden")
        self._book = book
        self._sheet = sheet

    def rows(self, found: Found) -> Iterator[tuple[int, list[Cell]]]:
        """Yield the rows that the sheet has, each with its number from 1."""
        sheet = self._sheet
        found.hidden_rows = sum(1 for info in sheet.rowinfo_map.values() if info.hidden)
        found.hidden_columns = sum(1 for info in sheet.colinfo_map.values() if info.hidden)
        for top, bottom, left, right in sheet.merged_cells:
            found.merged.append(
                f"{xlrd.formula.cellname(top, left)}:{xlrd.formula.cellname(bottom - 1, right - 1)}"
            )
        for row in range(sheet.nrows):
            cells = (self._cell(row, column, found) for column in range(sheet.row_len(row)))
            yield row + 1, [cell for cell in cells if cell]

    def _cell(self, row: int, column: int, found: Found) -> Cell | None:
        cell = self._sheet.cell(row, column)
        if cell.ctype == xlrd.XL_CELL_TEXT:
            return (column, "text", cell.value, "", "") if cell.value else None
        if cell.ctype == xlrd.XL_CELL_BOOLEAN:
            return column, "boolean", "true" if cell.value else "false", "", ""
        if cell.ctype == xlrd.XL_CELL_ERROR:
            text = xlrd.error_text_from_code.get(cell.value, "#N/A")
            found.error(row + 1, column, text)
            return column, "error", text, "", ""
        if cell.ctype in (xlrd.XL_CELL_NUMBER, xlrd.XL_CELL_DATE):
            return self._number(column, cell.value, self._format(cell), found)
        return None

    def _format(self, cell: xlrd.sheet.Cell) -> str:
        code = self._book.format_map[self._book.xf_list[cell.xf_index].format_key].format_str
        return "" if code == "General" else str(code)

    def _number(self, column: int, value: float, code: str, found: Found) -> Cell:
        number = number_text(value)
        if is_date_format(code):
            if value < FIRST_SURE_SERIAL and not self._book.datemode:
                found.early_dates.add(column)
                return column, "number", number, number, ""
            if moment := date_text(value, bool(self._book.datemode)):
                return column, "date", moment, number, ""
        return column, "number", number, number, code
