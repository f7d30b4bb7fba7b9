"""The table lane: a text or a workbook becomes typed Parquet, proven to hold what was read."""

from __future__ import annotations

import hashlib
import json
import os
import resource
from pathlib import Path
from typing import Any

import duckdb

from processing.lanes.outcome import Made, Unprocessable
from processing.lanes.tables import engine
from processing.lanes.tables.cleaning import Cleaning
from processing.lanes.tables.column_types import SHEET_FORMS
from processing.lanes.tables.engine import Column, Table
from processing.lanes.tables.names import column_names
from processing.lanes.tables.sink import Rejected, Sink
from processing.lanes.tables.texts import decoding, dialect, records
from processing.lanes.tables.texts.lines import Lines
from processing.lanes.tables.texts.records import Records
from processing.lanes.tables.workbooks.sheets import OLE, Sheet, read_workbook

SAMPLE_BYTES = 64 * 1024
SHOWN_COLUMNS, MAX_FOLDER = 50, 32
ROWS = "rows.csv"
REJECTED, REPORT = "rejected.csv", "report.json"
PARQUET, CSV, JSON = "application/vnd.apache.parquet", "text/csv; charset=utf-8", "application/json"
LANE = 1
"""Counts the ways in which this lane has made tables."""
EMPTY = "The table is empty."
ZIP = b"PK\x03\x04"


def prepare() -> None:
    """Open the database, which looks at the machine first."""
    engine.database()


def run(source: int, recipes: list[dict[str, Any]], limits: dict[str, int]) -> Made:
    """Make the table of one original.

    Args:
        source: the descriptor of the original, open for reading.
        recipes: the one recipe.
        limits: `unpacked` bytes, `cells`, `rejected_percent`.

    Raises:
        Unprocessable: it is no table, over a budget, or too many of its rows are rejected.
        Unproven: what was written is not what was read.
        MemoryError: there is not enough memory.
    """
    [recipe] = recipes
    about = {"sha256": _sha256(source), "bytes": os.fstat(source).st_size}
    head = os.pread(source, 8, 0)
    if head.startswith((ZIP, OLE)):
        return _workbook(source, recipe, limits, about)
    return _text(source, recipe, limits, about)


def _text(source: int, recipe: dict[str, Any], limits: dict[str, int], about: dict[str, Any]) -> Made:
    values = recipe["values"]
    encoding = decoding.find(source, values.get("encoding"), values.get("declared_encoding"))
    sample = "".join(decoding.text(source, encoding.name, SAMPLE_BYTES))
    found = dialect.find(sample, len(sample) < SAMPLE_BYTES // 4 or about["bytes"] <= SAMPLE_BYTES, values)
    if not found.width:
        raise Unprocessable(EMPTY)
    lines = Lines(decoding.text(source, encoding.name))
    sink, rejected = Sink(ROWS, found.width, limits["cells"]), Rejected(REJECTED)
    cleaning = Cleaning(values)
    fates = Records(lines, found, sink, rejected, cleaning).read()
    sink.close()
    if not any((fates.header, fates.rejected, fates.preamble, sink.rows)):
        raise Unprocessable(EMPTY)
    table = Table(sink)
    columns = engine.columns_of(column_names(fates.header, sink.width, values["names"] == "snake"))
    for column in columns:
        engine.decide(table, column, values, _typing(values, column))
    header = _header(table, columns, fates, values)
    misfits = _pin(table, columns, values, rejected)
    fates.rejected += misfits
    rejected.close()
    report = {
        "source": {**about, "kind": "csv"},
        "encoding": encoding.report(),
        "delimiter": {"value": found.delimiter, "how": found.how},
        "header": header,
        **records.facts(table.rows(), fates, lines),
    }
    counted = {"nuls": lines.nuls, "replacement characters": lines.replacements, "trimmed rows": fates.trimmed}
    report["notes"] = [f"{name}: {count}" for name, count in counted.items() if count]
    made = Made()
    part = Part(table, columns, cleaning, is_changed=misfits > 0)
    made.error = _finish(made, part, recipe, report, limits)
    _add_report(made, recipe, report)
    return made


def _typing(values: dict[str, Any], column: Column) -> str:
    return "text" if values["columns"].get(column.name) == "text" else str(values["typing"])


class Part:
    """One table that is to be written."""

    def __init__(self, table: Table, columns: list[Column], cleaning: Cleaning, is_changed: bool) -> None:
        self.table = table
        self.columns = columns
        self.cleaning = cleaning
        self.is_changed = is_changed


def _finish(
    made: Made,
    part: Part,
    recipe: dict[str, Any],
    report: dict[str, Any],
    limits: dict[str, int],
    number: int = 0,
    sheet: str = "",
) -> str:
    """Write a part and prove it, unless too many of its rows are rejected. Returns why it was not."""
    part.table.count_nulls(part.columns)
    part.table.count_formulas(part.columns)
    kept = part.columns
    if recipe["values"].get("drop_empty_columns"):
        rows = part.table.rows()
        kept = [column for column in part.columns if column.nulls < rows] or part.columns
        report["dropped_columns"] = [column.name for column in part.columns if column not in kept]
    report["columns"], report["column_count"] = [column.report() for column in kept], len(kept)
    report["cleaning"] = part.cleaning.report()
    error = engine.refuse_rejected(report["records"], limits["rejected_percent"])
    if not error:
        path = f"part-{number}.parquet"
        about = {"sha256": report["source"]["sha256"], "recipe": recipe["digest"]}
        part.table.write(path, kept, about)
        digest = part.table.prove(path, kept, part.is_changed)
        cells = part.table.rows() * len(kept)
        report["proof"] = {"decoding": "reversible", "records": "equal", "cells": cells, "digest": digest}
    part.table.close()
    report["engine"] = {"duckdb": duckdb.__version__, "lane": LANE}
    used = resource.getrusage(resource.RUSAGE_SELF)
    report["cpu_seconds"] = round(used.ru_utime + used.ru_stime, 2)
    if not error:
        summary = _summary(report)
        made.add(recipe, path, "part", PARQUET, summary=summary, sheet_no=number, sheet=sheet)
    return error


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    """Return the report as the row keeps it: without the examples, and with as many columns as can be shown."""
    short = {**report, "columns": report["columns"][:SHOWN_COLUMNS]}
    short["cleaning"] = {name: {"count": step["count"]} for name, step in report["cleaning"].items()}
    return short


def _add_report(made: Made, recipe: dict[str, Any], report: dict[str, Any]) -> None:
    Path(REPORT).write_text(json.dumps(report, ensure_ascii=False, indent=1))
    short = {"records": report["records"]} if "records" in report else {}
    made.add(recipe, REPORT, "report", JSON, summary=short)
    if Path(REJECTED).exists():
        made.add(recipe, REJECTED, "rejected", CSV)


def _header(table: Table, columns: list[Column], fates: records.Fates, values: dict[str, Any]) -> dict[str, Any]:
    """Decide whether the first row is a header: not if it fits the types of the others."""
    row, hinted = fates.header, "header" in values
    if row is None:
        return {"line": None, "how": "hint" if hinted else "none"}
    is_data = any(column.form for column in columns) and all(
        table.cell_fits(column, row[column.number]) for column in columns
    )
    if hinted or not is_data or not table.rows():
        return {"line": fates.header_line, "how": "hint" if hinted else "found"}
    return _without_header(table, columns, row)


def _without_header(table: Table, columns: list[Column], row: list[str]) -> dict[str, Any]:
    """Put the first row, which is no header, in front of the others."""
    table.sink.first = row
    table.prepend(row)
    for column, (name, _) in zip(columns, column_names(None, len(columns), False), strict=True):
        column.name, column.source_name = name, ""
    return {"line": None, "how": "the first row is like the others"}


def _pin(table: Table, columns: list[Column], values: dict[str, Any], rejected: Rejected) -> int:
    """Give columns the types that the preset pins; rows that do not fit are rejected. Returns their number."""
    misfits = 0
    for column in columns:
        wanted = values["columns"].get(column.name, "text")
        if wanted != "text" and engine.type_of(column.form) != engine.pinned(wanted).sql_type:
            form = engine.pin(table, column, wanted, values)
            misfits += table.reject_misfits(column, form, rejected)
    return misfits


def _sha256(source: int) -> str:
    found = hashlib.sha256()
    for chunk in decoding.chunks(source):
        found.update(chunk)
    return found.hexdigest()


def _workbook(source: int, recipe: dict[str, Any], limits: dict[str, int], about: dict[str, Any]) -> Made:
    values, made = recipe["values"], Made()
    parts: list[dict[str, Any]] = []
    sheets, kind = read_workbook(source, values, limits)
    listed: list[dict[str, Any]] = []
    errors: list[str] = []
    rejected = Rejected(REJECTED)
    used = [sheet for sheet in sheets if sheet.is_used]
    for sheet in sheets:
        listed.append(sheet.report())
        if sheet.is_used:
            report = {"source": {**about, "kind": kind}, "sheet": sheet.name}
            name = _folder(sheet.name) if len(used) > 1 else ""
            errors.append(_sheet(made, sheet, recipe, report, rejected, limits, len(parts), name))
            listed[-1] = sheet.report()
            parts.append(report)
    if not parts:
        raise Unprocessable("The workbook has no visible sheet with data.")
    whole: dict[str, Any] = {"source": {**about, "kind": kind}, "parts": parts, "sheets": listed}
    if len(parts) == 1:
        whole = {**parts[0], "sheets": listed}
    for output in made.outputs:
        output["summary"] = {**output["summary"], "sheets": [_in_short(sheet) for sheet in listed[:SHOWN_COLUMNS]]}
    rejected.close()
    made.error = next(filter(None, errors), "") if not made.outputs else ""
    _add_report(made, recipe, whole)
    return made


def _in_short(sheet: dict[str, Any]) -> dict[str, Any]:
    return {name: sheet[name] for name in ("name", "state", "used", "rows")}


def _folder(name: str) -> str:
    return next(column_names([name], 1, is_snake=True))[0][:MAX_FOLDER]


def _sheet(
    made: Made,
    sheet: Sheet,
    recipe: dict[str, Any],
    report: dict[str, Any],
    rejected: Rejected,
    limits: dict[str, int],
    number: int,
    folder: str,
) -> str:
    values = recipe["values"]
    sink, cleaning = sheet.read(ROWS, limits["cells"])
    table = Table(sink)
    columns = engine.columns_of(column_names(sheet.header, sink.width, values["names"] == "snake"))
    for column in columns:
        _decide_sheet(table, column, sheet, values)
    report["header"] = {"line": sheet.header_line, "how": sheet.header_how}
    if sheet.header and not sheet.is_header_known and _is_like(table, columns, sheet):
        report["header"] = _without_header(table, columns, sheet.header)
    misfits = _pin(table, columns, values, rejected)
    rows = table.rows()
    report["records"] = {
        "in": rows + misfits + sheet.blank,
        "out": rows,
        "rejected": misfits,
        "blank": sheet.blank,
        "preamble": sheet.preamble,
    }
    return _finish(made, Part(table, columns, cleaning, misfits > 0), recipe, report, limits, number, folder)


def _is_like(table: Table, columns: list[Column], sheet: Sheet) -> bool:
    kinds = sheet.header_kinds
    typed = [column for column in columns if column.form]
    return bool(typed) and all(
        kinds[column.number] in ("", sheet.kind(column.number))
        and table.cell_fits(column, (sheet.header or [])[column.number])
        for column in typed
    )


def _decide_sheet(table: Table, column: Column, sheet: Sheet, values: dict[str, Any]) -> None:
    kind = sheet.kind(column.number)
    column.notes += sheet.column_notes(column.number)
    if _typing(values, column) == "text" or kind == "mixed":
        column.why = "mixed: " + ", ".join(sheet.kinds_of(column.number)) if kind == "mixed" else "text"
        return
    for form in SHEET_FORMS.get(kind, []):
        if table.fits(column, form):
            column.form, column.why = form, f"every cell is a {kind}"
            return
