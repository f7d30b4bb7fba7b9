"""DuckDB: loads the good rows, decides their types over all of them, writes Parquet, and proves it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import cache, partial
from itertools import chain, repeat
from typing import Any

import duckdb

from processing.lanes.outcome import Unproven
from processing.lanes.tables import column_types as types
from processing.lanes.tables import value_types
from processing.lanes.tables.column_types import Form
from processing.lanes.tables.names import identifier
from processing.lanes.tables.sink import STRETCH, Digests, Rejected, Sink, digest, unescaped

LOOK_ROWS = 1000
MAX_LINE = 64 << 20
EXACT = "DECIMAL(38,12)"
FORMULA = "left({c}, 1) IN ('=', '+', '-', '@')"
AT_ONCE = 200  # columns in one question
UNPROVEN = "The table could not be proven complete; nothing was written."
SETTINGS = (
    "threads = 1",
    "memory_limit = '256MB'",
    "temp_directory = '.'",
    "preserve_insertion_order = true",
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    "TimeZone = 'UTC'",
)
PINNED = {"boolean": "BOOLEAN", "bigint": "BIGINT", "double": "DOUBLE", "date": "DATE", "time": "TIME"}


@cache
def database() -> duckdb.DuckDBPyConnection:
    """Return the database of this process, in memory. It looks at /proc and /sys when it is first asked for."""
    connection = duckdb.connect()
    for setting in SETTINGS:
        connection.execute(f"SET {setting}")
    return connection


@dataclass
class Column:
    """One column: its names, and the form that was decided for it."""

    number: int
    name: str
    source_name: str
    form: Form | None = None
    """None for text."""
    why: str = "text"
    nulls: int = 0
    is_value: bool = False
    """True if its numbers are kept, and not how they were spelled."""
    notes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The column of its texts."""
        return f"c{self.number}"

    def report(self) -> dict[str, Any]:
        """Return what the report says of it."""
        return {
            "name": self.name,
            "source_name": self.source_name,
            "type": self.form.type if self.form else "text",
            "why": self.why,
            "nulls": self.nulls,
            "format": self.form.format if self.form else None,
            "notes": self.notes,
        }


class Table:
    """The rows of one table in DuckDB, in their order, as texts; an empty one is NULL.

    Args:
        sink: the rows as they were read.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._connection = database()
        self._load()

    def _load(self) -> None:
        numbers = range(self.sink.width)
        names = ", ".join(f"'c{number}': 'VARCHAR'" for number in numbers)
        texts = [unescaped(f"c{one}") if one in self.sink.escaped else f"c{one}" for one in numbers]
        columns = ", ".join(f"nullif({text}, '') AS c{number}" for number, text in enumerate(texts))
        if self.sink.rows:
            read = (
                f"read_csv({types.quoted(self.sink.path)}, columns = {{{names}}}, auto_detect = false,"
                f" header = false, delim = ',', quote = '\"', escape = '\"', parallel = false,"
                f" max_line_size = {MAX_LINE}, buffer_size = {MAX_LINE})"
            )
            self._run(f"CREATE TABLE t AS SELECT {columns} FROM {read}")
        else:
            self._run(f"CREATE TABLE t ({', '.join(f'c{number} VARCHAR' for number in numbers)})")
        if self._one("SELECT count(*) FROM t") != self.sink.rows:
            raise Unproven(UNPROVEN)

    def ask(self, column: Column, expression: str) -> Any:
        """Return one number about all cells of a column, `{c}` in the expression."""
        return self._one(f"SELECT {about(expression, column.text)} FROM t WHERE {column.text} IS NOT NULL")

    def first(self, column: Column) -> str | None:
        """Return the first cell that is not empty."""
        return self._one(f"SELECT {column.text} FROM t WHERE {column.text} IS NOT NULL LIMIT 1")  # type: ignore[no-any-return]

    def fits(self, column: Column, form: Form) -> bool:
        """Returns True if every cell of a column can be written again from its value."""
        misfit = f"{column.text} IS NOT NULL AND {_misfit(column, form)}"
        for source in (f"(SELECT {column.text} FROM t LIMIT {LOOK_ROWS})", "t"):
            if self._one(f"SELECT 1 FROM {source} WHERE {misfit} LIMIT 1"):
                return False
        return True

    def cell_fits(self, column: Column, text: str) -> bool:
        """Returns True if one more cell, as that of a header, fits the form of a column."""
        if not text or column.form is None:
            return True
        one = f"(SELECT {types.quoted(text)} AS {column.text})"
        return not self._one(f"SELECT 1 FROM {one} WHERE {_misfit(column, column.form)}")

    def prepend(self, row: Sequence[str]) -> None:
        """Put a row in front, which was taken for a header."""
        values = ", ".join(f"nullif({types.quoted(cell)}, '') AS c{number}" for number, cell in enumerate(row))
        self._replace(f"SELECT {values} UNION ALL SELECT * FROM t")

    def reject_misfits(self, column: Column, form: Form, rejected: Rejected) -> int:
        """Take the rows out whose cell does not fit the type that its preset pins. Returns their number.

        Of such a row the number among all rows is told, and its cells, quoted anew.
        """
        misfit = f"{column.text} IS NOT NULL AND {_misfit(column, form)}"
        found = self._run(f"SELECT rowid, * FROM t WHERE {misfit} ORDER BY rowid").fetchall()
        for number, *cells in found:
            raw = ",".join('"' + (cell or "").replace('"', '""') + '"' for cell in cells)
            rejected.add(number + 1, f"row {number + 1}: {column.name} is no {form.type}", raw)
        if found:
            self._replace(f"SELECT * FROM t WHERE NOT coalesce({misfit}, false)")
        return len(found)

    def count_nulls(self, columns: Sequence[Column]) -> None:
        """Count the empty cells of every column."""
        for column, nulls in self._counted(columns, "count(*) - count({c})"):
            column.nulls = nulls

    def count_formulas(self, columns: Sequence[Column]) -> None:
        """Note how many texts a spreadsheet would take for a formula; they are kept as they are.

        Source: https://owasp.org/www-community/attacks/CSV_Injection
        """
        texts = [column for column in columns if column.form is None]
        for column, count in self._counted(texts, f"count(*) FILTER (WHERE {FORMULA})"):
            if count:
                column.notes.append(f"cells like formulas: {count}")

    def row_with(self, column: Column, condition: str) -> int | None:
        """Return the number of the first row that meets a condition on `{c}`, from 1; None without one."""
        found = self._one(f"SELECT rowid + 1 FROM t WHERE {about(condition, column.text)} LIMIT 1")
        return found if found is None else int(found)

    def rows(self) -> int:
        """Return the number of rows."""
        return int(self._one("SELECT count(*) FROM t"))

    def write(self, path: str, columns: Sequence[Column], about: dict[str, Any]) -> None:
        """Write the rows as Parquet."""
        values = ", ".join(f"{_value(column)} AS {identifier(column.name)}" for column in columns)
        meta = types.quoted(json.dumps(about))
        self._run(
            f"COPY (SELECT {values} FROM t) TO {types.quoted(path)}"
            f" (FORMAT parquet, COMPRESSION zstd, KV_METADATA {{ferryman: {meta}}})"
        )

    def prove(self, path: str, columns: Sequence[Column], is_changed: bool) -> str:
        """Read the written file back, and compare it with what was read from the original.

        Args:
            path: the Parquet file.
            columns: its columns.
            is_changed: whether rows were taken out after they were read.

        Returns:
            The digest of all texts.

        Raises:
            Unproven: they differ.
        """
        written = f"SELECT {', '.join(map(_rendered, columns))} FROM read_parquet({types.quoted(path)})"
        first = 1 if self.sink.first else 0
        if not is_changed and not any(column.is_value for column in columns):
            expected = self._expected(columns)
            if self._digests(written, first) != expected:
                raise Unproven(UNPROVEN)
            return _summed(expected)
        texts = "SELECT " + ", ".join(f"coalesce({column.text}, '')" for column in columns) + " FROM t"
        if not is_changed and self._digests(texts, first) != self._expected(columns):
            raise Unproven(UNPROVEN)
        self._compare(texts, written, columns)
        return _summed(self._digests(texts, first))

    def _expected(self, columns: Sequence[Column]) -> Digests:
        numbers = [column.number for column in columns]
        apart = [[digest((self.sink.first[number],)) for number in numbers]] if self.sink.first else []
        return [*apart, *([stretch[number] for number in numbers] for stretch in self.sink.digests)]

    def _digests(self, sql: str, first: int) -> Digests:
        found, sizes = [], chain([1] * first, repeat(STRETCH))
        result = self._connection.cursor().execute(sql)
        while rows := result.fetchmany(next(sizes)):
            found.append([digest(column) for column in zip(*rows, strict=True)])
        return found

    def _compare(self, texts: str, written: str, columns: Sequence[Column]) -> None:
        """Compare two readings cell by cell: texts as they are, respelled numbers as numbers."""
        read, back = self._connection.cursor().execute(texts), self._connection.cursor().execute(written)
        numbers = {number for number, column in enumerate(columns) if column.is_value}
        while True:
            ours, theirs = read.fetchmany(STRETCH), back.fetchmany(STRETCH)
            if len(ours) != len(theirs):
                raise Unproven(UNPROVEN)
            if not ours:
                return
            for number, (one, other) in enumerate(
                zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)
            ):
                is_equal = _equal_numbers(one, other) if number in numbers else one == other
                if not is_equal:
                    raise Unproven(UNPROVEN)

    def close(self) -> None:
        """Give the memory back."""
        self._run("DROP TABLE t")

    def _counted(self, columns: Sequence[Column], expression: str) -> Iterator[tuple[Column, int]]:
        """Yield some columns, each with a number about `{c}`; many columns are asked for at once."""
        for start in range(0, len(columns), AT_ONCE):
            some = columns[start : start + AT_ONCE]
            numbers = ", ".join(about(expression, column.text) for column in some)
            yield from zip(some, self._run(f"SELECT {numbers} FROM t").fetchone() or (), strict=True)

    def _replace(self, select: str) -> None:
        """Let the table be what a query about it finds."""
        self._run(f"CREATE TABLE u AS {select}")
        self._run("DROP TABLE t")
        self._run("ALTER TABLE u RENAME TO t")

    def _run(self, sql: str) -> duckdb.DuckDBPyConnection:
        try:
            return self._connection.execute(sql)
        except duckdb.OutOfMemoryException:
            raise MemoryError from None
        except duckdb.InvalidInputException:
            raise Unproven(UNPROVEN) from None

    def _one(self, sql: str) -> Any:
        found = self._run(sql).fetchone()
        return found[0] if found else None


def decide(table: Table, column: Column, hints: dict[str, Any], typing: str) -> None:
    """Decide the type of a column of a text, over all of its cells.

    Args:
        table: the rows.
        column: gets its form, and why.
        hints: `decimal` and `date_order`, where the client knows them.
        typing: `exact`, `value` or `text`.
    """
    first = table.first(column)
    if typing == "text" or first is None:
        column.why = "as the preset says" if first is not None else "no cell"
        return
    fitting: list[Form] = []
    for form in types.forms(first, partial(table.ask, column), hints):
        if table.fits(column, form):
            fitting.append(form)
            if form.order is None:
                break
    column.form = _unambiguous(table, column, fitting)
    if column.form:
        column.why = "every cell can be written again"
    elif typing == "value":
        value_types.decide(table, column, hints)
    if column.form is None and column.why == "text":
        column.why = _why_text(table, column, first)


def _unambiguous(table: Table, column: Column, fitting: list[Form]) -> Form | None:
    if not fitting:
        return None
    form = fitting[0]
    if form.order and len({one.order for one in fitting}) > 1:
        column.why = "ambiguous: day and month cannot be told apart; the hint date_order tells"
        return None
    if form.needs and not table.ask(column, f"bool_or({form.needs})"):
        column.why = "ambiguous: the decimal sign cannot be told; the hint decimal tells"
        return None
    return form


def _why_text(table: Table, column: Column, first: str) -> str:
    if not first.lstrip("+-").isdecimal():
        return "text"
    if row := table.row_with(column, "regexp_matches({c}, '^-?0[0-9]')"):
        return f"leading zeros (row {row})"
    row = table.row_with(column, "{c} IS NOT NULL AND NOT regexp_full_match({c}, '-?[0-9]+')")
    return f"not all alike (row {row})" if row else "numbers of more than 38 digits"


def pinned(name: str) -> Form:
    """Return the usual form of a type that a preset pins."""
    if name == "timestamp":
        return types.SHEET_FORMS["date"][1]
    if name == "boolean":
        return types.SHEET_FORMS["boolean"][0]
    if name == "double":
        return next(types.doubles())
    return types.plain(name, PINNED.get(name, name.upper()))


def pin(table: Table, column: Column, name: str, hints: dict[str, Any]) -> Form:
    """Give a column the type that its preset pins.

    Args:
        table: the rows.
        column: gets its form.
        name: of the type.
        hints: of the client.

    Returns:
        The form that tells which cells fit: their text can be written again, or of a number its value.
    """
    form, first = pinned(name), table.first(column)
    alike = types.forms(first, partial(table.ask, column), hints) if first else ()
    form = next((one for one in alike if one.sql_type == form.sql_type and not one.needs and not one.order), form)
    column.form, column.why = form, "as the preset says"
    if form.sql_type not in ("BIGINT", "DOUBLE") and not form.sql_type.startswith("DECIMAL"):
        return form
    column.is_value = not table.fits(column, form)
    same = f"TRY_CAST({{c}} AS {EXACT}) = TRY_CAST(CAST({{v}} AS VARCHAR) AS {EXACT})"
    is_number = f"regexp_matches({{c}}, {types.quoted(value_types.PLAIN)})"
    return form._replace(
        type=name, render=f"CASE WHEN {is_number} AND {same} THEN {{c}} ELSE CAST({{v}} AS VARCHAR) END"
    )


def type_of(form: Form | None) -> str | None:
    """Return the SQL type of a form; None of text."""
    return form.sql_type if form else None


def _misfit(column: Column, form: Form) -> str:
    value = about(form.cast, column.text)
    rendered = about(form.render, column.text, f"({value})")
    return f"(({value}) IS NULL OR ({rendered}) IS DISTINCT FROM {column.text})"


def _value(column: Column) -> str:
    return about(column.form.cast, column.text) if column.form else column.text


def _rendered(column: Column) -> str:
    name = identifier(column.name)
    return f"coalesce({about(column.form.render, name, name)}, '')" if column.form else f"coalesce({name}, '')"


def about(sql: str, text: str, value: str = "") -> str:
    """Return the SQL about a column: its text for `{c}`, its value for `{v}`."""
    return sql.replace("{c}", text).replace("{v}", value)


def _equal_numbers(texts: Sequence[str], written: Sequence[str]) -> bool:
    try:
        return all(
            one == other or Decimal(value_types.clean(one)) == Decimal(other)
            for one, other in zip(texts, written, strict=True)
        )
    except InvalidOperation:
        return False


def _summed(digests: Digests) -> str:
    return digest([one.hex() for stretch in digests for one in stretch]).hex()


def columns_of(names: Iterator[tuple[str, str]]) -> list[Column]:
    """Return the columns of a table with these names."""
    return [Column(number, name, source) for number, (name, source) in enumerate(names)]


def refuse_rejected(records: dict[str, int], percent: int) -> str:
    """Return why a table with so many rejected rows is not delivered; empty if it may be."""
    rejected, all_of_them = records["rejected"], records["out"] + records["rejected"]
    if not rejected or (records["out"] and rejected * 100 <= percent * all_of_them):
        return ""
    return f"{rejected * 100 / all_of_them:.3g} % of the rows were rejected ({percent} % are allowed)."
