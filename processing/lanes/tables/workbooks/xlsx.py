"""Workbooks of Excel 2007 and later, as a stream: zip and XML of the standard library, every budget while reading.

Source: ECMA-376, part 1, section 18 (SpreadsheetML).
"""

from __future__ import annotations

import os
import posixpath
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO
from xml.parsers import expat

from processing.lanes.outcome import Unprocessable
from processing.lanes.tables.workbooks.cells import (
    FIRST_SURE_SERIAL,
    Cell,
    Found,
    date_text,
    is_date_format,
    number_text,
)

CHUNK_BYTES = 256 * 1024
MAX_CELL = 1 << 20
MOST_STRINGS = 256 << 20
DATE_IDS = {14, 15, 16, 17, 22, *range(27, 32), 36, *range(50, 55), 57, 58}
REFERENCE = re.compile(r"([A-Z]{1,3})(\d{1,7})", re.ASCII)
ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")
BROKEN = "The workbook is damaged."
ENCRYPTED = "The workbook is encrypted."


class Budget:
    """What may still be unpacked of a workbook."""

    def __init__(self, limit: int) -> None:
        self.left = limit
        self._limit = limit

    def take(self, size: int) -> None:
        """Take so many bytes off.

        Raises:
            Unprocessable: there are not so many.
        """
        self.left -= size
        if self.left < 0:
            raise Unprocessable(f"The workbook unpacks to more than {self._limit >> 20} MiB.")


class Archive:
    """The members of a zip file, unpacked within a budget."""

    def __init__(self, source: int, limit: int) -> None:
        self._limit = limit
        file: BinaryIO = os.fdopen(os.dup(source), "rb")
        try:
            self._zip = zipfile.ZipFile(file)
            self.names = {name.lstrip("/").lower(): name for name in self._zip.namelist()}
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
            raise Unprocessable(BROKEN) from None

    def has(self, name: str) -> bool:
        """Returns True if there is such a member."""
        return name.lower() in self.names

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a member; each reading has the whole budget.

        Raises:
            Unprocessable: it is damaged, encrypted or over the budget.
        """
        budget = Budget(self._limit)
        try:
            with self._zip.open(self.names[name.lower()]) as member:
                while chunk := member.read(CHUNK_BYTES):
                    budget.take(len(chunk))
                    yield chunk
        except RuntimeError:
            raise Unprocessable(ENCRYPTED) from None
        except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError):
            raise Unprocessable(BROKEN) from None


def local(name: str) -> str:
    """Return the name of an XML element without its prefix."""
    return name.rpartition(":")[2]


def attribute(attributes: dict[str, str], name: str) -> str:
    """Return an attribute by its name without a prefix; empty if it is not there."""
    if name in attributes:
        return attributes[name]
    return next((value for key, value in attributes.items() if local(key) == name), "")


def parse(
    chunks: Iterator[bytes],
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None] = lambda name: None,
    data: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Feed XML to handlers, and yield after every chunk.

    Raises:
        Unprocessable: it is no well-formed XML, or has a document type.
    """

    def refuse(*_: object) -> None:
        raise Unprocessable("The workbook has an XML document type, which no program writes.")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = refuse
    if data:
        parser.CharacterDataHandler = data
    try:
        for chunk in chunks:
            parser.Parse(chunk, False)
            yield
        parser.Parse(b"", True)
        yield
    except expat.ExpatError:
        raise Unprocessable(BROKEN) from None


def drain(steps: Iterator[None]) -> None:
    """Parse to the end."""
    for _ in steps:
        pass


def kind_of(source: int) -> str:
    """Return the kind of a zip file: `xlsx` or `ods`.

    Raises:
        Unprocessable: it is another.
    """
    archive = Archive(source, CHUNK_BYTES)
    if any(name.endswith("workbook.xml") for name in archive.names):
        return "xlsx"
    if archive.has("content.xml") and archive.has("mimetype"):
        return "ods"
    if any(name.endswith("workbook.bin") for name in archive.names):
        raise Unprocessable("Workbooks of the kind .xlsb are not processed.")
    raise Unprocessable("The file is an archive, and no workbook.")


def open_workbook(source: int, limit: int) -> list[SheetReader]:
    """Open a workbook. Returns the readers of its sheets."""
    archive = Archive(source, limit)
    path = next(name for name in archive.names if name.endswith("workbook.xml"))
    book = _Book(archive, path)
    return [SheetReader(book, *sheet) for sheet in book.sheets]


class _Book:
    """What all sheets share: strings, styles, the epoch."""

    def __init__(self, archive: Archive, path: str) -> None:
        self.archive = archive
        self.is_1904 = False
        self.sheets: list[tuple[str, str, str]] = []
        self._folder = posixpath.dirname(path)
        self._targets = self._relations(path)
        found: list[tuple[str, str, str]] = []

        def start(name: str, attributes: dict[str, str]) -> None:
            if local(name) == "workbookPr":
                self.is_1904 = attribute(attributes, "date1904") in ("1", "true")
            elif local(name) == "sheet":
                state = attribute(attributes, "state") or "visible"
                found.append((attribute(attributes, "name"), state, attribute(attributes, "id")))

        drain(parse(archive.chunks(path), start))
        for name, state, relation in found:
            kind, target = self._targets.get(relation, ("", ""))
            self.sheets.append((name, state if kind.endswith("/worksheet") else "chart", target))
        self.styles = self._styles()
        self._strings: list[str] | None = None

    @property
    def strings(self) -> list[str]:
        """The shared strings, read on first use."""
        if self._strings is None:
            self._strings = self._read_strings()
        return self._strings

    def _relations(self, path: str) -> dict[str, tuple[str, str]]:
        found: dict[str, tuple[str, str]] = {}

        def start(name: str, attributes: dict[str, str]) -> None:
            if local(name) == "Relationship":
                target = attributes.get("Target", "")
                whole = target.lstrip("/") if target.startswith("/") else posixpath.join(self._folder, target)
                found[attributes.get("Id", "")] = (attributes.get("Type", ""), posixpath.normpath(whole))

        relations = f"{self._folder}/_rels/{posixpath.basename(path)}.rels".lstrip("/")
        if self.archive.has(relations):
            drain(parse(self.archive.chunks(relations), start))
        return found

    def _member(self, kind: str) -> str | None:
        found = (target for relation, target in self._targets.values() if relation.endswith(f"/{kind}"))
        return next((target for target in found if self.archive.has(target)), None)

    def _styles(self) -> list[tuple[bool, str]]:
        """Return for every style if it shows a day, and its format where that is unusual."""
        path, codes, styles = self._member("styles"), {}, []
        inside = [False]

        def start(name: str, attributes: dict[str, str]) -> None:
            name = local(name)
            if name == "numFmt":
                codes[attributes.get("numFmtId", "")] = attributes.get("formatCode", "")
            elif name == "cellXfs":
                inside[0] = True
            elif name == "xf" and inside[0]:
                styles.append(attributes.get("numFmtId", "0"))

        def end(name: str) -> None:
            if local(name) == "cellXfs":
                inside[0] = False

        if path:
            drain(parse(self.archive.chunks(path), start, end))
        return [self._style(number, codes) for number in styles]

    @staticmethod
    def _style(number: str, codes: dict[str, str]) -> tuple[bool, str]:
        if number in codes:
            return is_date_format(codes[number]), codes[number] if codes[number] != "General" else ""
        shown = {"9": "0%", "10": "0.00%"}.get(number, "")
        return number.isdecimal() and int(number) in DATE_IDS, shown

    def _read_strings(self) -> list[str]:
        path, found = self._member("sharedStrings"), _Strings()
        if path:
            drain(parse(self.archive.chunks(path), found.start, found.end, found.data))
        return found.strings


class _Strings:
    """Collects the shared strings, without how Japanese ones are spoken."""

    def __init__(self) -> None:
        self.strings: list[str] = []
        self._parts: list[str] = []
        self._size = self._total = 0
        self._takes = self._in_phonetic = False

    def start(self, name: str, _: dict[str, str]) -> None:
        """Begin an element."""
        name = local(name)
        if name == "si":
            self._parts.clear()
            self._size = 0
        elif name == "rPh":
            self._in_phonetic = True
        elif name == "t":
            self._takes = not self._in_phonetic

    def end(self, name: str) -> None:
        """End an element."""
        name = local(name)
        if name == "t":
            self._takes = False
        elif name == "rPh":
            self._in_phonetic = False
        elif name == "si":
            self.strings.append(unescaped("".join(self._parts)))

    def data(self, text: str) -> None:
        """Take text."""
        if not self._takes:
            return
        self._size += len(text)
        self._total += len(text)
        if self._size > MAX_CELL:
            raise Unprocessable(f"A cell has more than {MAX_CELL >> 20} MiB.")
        if self._total > MOST_STRINGS:
            raise Unprocessable(f"The texts of the workbook have more than {MOST_STRINGS >> 20} MiB.")
        self._parts.append(text)


def unescaped(text: str) -> str:
    """Return a text without Excel's escapes of control characters, as in `_x000D_`."""
    return ESCAPED.sub(lambda found: chr(int(found[1], 16)), text) if "_x" in text else text


class SheetReader:
    """Reads one sheet, as often as asked."""

    def __init__(self, book: _Book, name: str, state: str, path: str) -> None:
        self.name = name
        self.state = state
        self._book = book
        self._path = path

    def rows(self, found: Found) -> Iterator[tuple[int, list[Cell]]]:
        """Yield the rows that the sheet has, each with its number from 1."""
        handler = _SheetHandler(self._book, found)
        if not self._book.archive.has(self._path):
            raise Unprocessable(BROKEN)
        chunks = self._book.archive.chunks(self._path)
        for _ in parse(chunks, handler.start, handler.end, handler.data):
            yield from handler.ready
            handler.ready.clear()


class _SheetHandler:
    """Makes cells of the elements of a sheet. What every cell runs through is kept short."""

    def __init__(self, book: _Book, found: Found) -> None:
        self.ready: list[tuple[int, list[Cell]]] = []
        self._book = book
        self._styles = book.styles
        self._found = found
        self._row, self._next_column = 0, 0
        self._cells: list[Cell] = []
        self._column, self._type, self._style = 0, "n", "0"
        self._text = ""
        self._takes = False
        self._in_phonetic = self._has_formula = False
        self._columns: dict[str, int] = {}

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Begin an element."""
        if ":" in name:
            name = local(name)
        if name == "c":
            get = attributes.get
            reference = get("r")
            if reference:
                letters = reference.rstrip("0123456789")
                column = self._columns.get(letters)
                self._column = self._column_of(reference) if column is None else column
            else:
                self._column = self._next_column
            self._next_column = self._column + 1
            self._type, self._style = get("t", "n"), get("s", "0")
            self._text = ""
            self._has_formula = False
        elif name == "v":
            self._takes = True
        elif name == "t":
            self._takes = not self._in_phonetic
        elif name != "is":
            self._start_other(name, attributes)

    def _start_other(self, name: str, attributes: dict[str, str]) -> None:
        if name == "row":
            self._begin_row(attributes)
        elif name == "f":
            self._has_formula = True
            self._found.formulas += 1
        elif name == "rPh":
            self._in_phonetic = True
        elif name == "mergeCell":
            self._found.merged.append(attributes.get("ref", "")[:20])
        elif name == "dimension":
            last = attributes.get("ref", "").rpartition(":")[2]
            self._found.width = self._column_of(last) + 1 if REFERENCE.fullmatch(last) else 0
        elif name == "col" and attributes.get("hidden") in ("1", "true"):
            first, last = attributes.get("min", "1"), attributes.get("max", "1")
            if first.isdecimal() and last.isdecimal():
                self._found.hidden_columns += max(0, int(last) - int(first) + 1)

    def data(self, text: str) -> None:
        """Take text."""
        if self._takes:
            self._text = self._text + text if self._text else text
            if len(self._text) > MAX_CELL:
                raise Unprocessable(f"A cell has more than {MAX_CELL >> 20} MiB.")

    def end(self, name: str) -> None:
        """End an element."""
        if ":" in name:
            name = local(name)
        if name == "v" or name == "t":
            self._takes = False
        elif name == "c":
            if cell := self._cell():
                self._cells.append(cell)
        elif name == "row":
            self.ready.append((self._row, self._cells))
            self._cells = []
        elif name == "rPh":
            self._in_phonetic = False

    def _begin_row(self, attributes: dict[str, str]) -> None:
        number = attributes.get("r", "")
        self._row = int(number) if number.isdecimal() else self._row + 1
        self._next_column = 0
        if attributes.get("hidden") in ("1", "true"):
            self._found.hidden_rows += 1

    def _column_of(self, reference: str) -> int:
        found = REFERENCE.fullmatch(reference)
        if not found:
            raise Unprocessable(BROKEN)
        number = 0
        for letter in found[1]:
            number = number * 26 + ord(letter) - 64
        self._columns[found[1]] = number - 1
        return number - 1

    def _cell(self) -> Cell | None:
        """Return the cell that ends; None for an empty one."""
        text, kind = self._text, self._type
        if not text:
            if self._has_formula and kind not in ("str", "inlineStr"):
                self._found.formulas_without_value += 1
            return None
        if kind == "n":
            return self._number(text)
        if kind == "s":
            try:
                text = self._book.strings[int(text)]
            except (ValueError, IndexError):
                raise Unprocessable(BROKEN) from None
            return (self._column, "text", text, "", "") if text else None
        if kind == "str" or kind == "inlineStr":
            return self._column, "text", unescaped(text), "", ""
        if kind == "b":
            return self._column, "boolean", "true" if text.strip() in ("1", "true") else "false", "", ""
        if kind == "e":
            self._found.error(self._row, self._column, text)
            return self._column, "error", text, "", ""
        if kind == "d":
            return self._column, "date", text.replace("T", " ").removesuffix(" 00:00:00"), text, ""
        return self._number(text)

    def _number(self, text: str) -> Cell:
        column = self._column
        is_date, code = self._shown() if self._style != "0" else (False, "")
        if (
            not is_date
            and text.isdecimal()
            and text.isascii()
            and len(text) < 16
            and (text[0] != "0" or text == "0")
        ):
            return column, "number", text, text, code
        try:
            value = float(text)
            number = number_text(value)
        except (ValueError, OverflowError):
            return column, "text", text, "", ""
        if number in ("nan", "inf", "-inf"):
            return column, "text", text, "", ""
        if is_date:
            if value < FIRST_SURE_SERIAL and not self._book.is_1904:
                self._found.early_dates.add(column)
                return column, "number", number, number, ""
            if moment := date_text(value, self._book.is_1904):
                return column, "date", moment, number, ""
        return column, "number", number, number, code

    def _shown(self) -> tuple[bool, str]:
        number = int(self._style) if self._style.isdecimal() else -1
        return self._styles[number] if 0 <= number < len(self._styles) else (False, "")
