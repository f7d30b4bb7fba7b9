"""Typing by value: numbers that are spelled in several ways become decimals; zeros in front stay text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from processing.lanes.tables import column_types as types
from processing.lanes.tables.column_types import MOST_DIGITS, Form

if TYPE_CHECKING:
    from processing.lanes.tables.engine import Column, Table

NUMBER = r"^[+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?$"
PLAIN = r"^[+-]?(?:0|[1-9][0-9]{0,25})(?:\.[0-9]{1,12})?$"
"""A number whose value DECIMAL(38,12) holds whole."""
GROUPED = r"^[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?$"
CLEAN = "ltrim(trim({c}), '+')"
UNGROUPED = f"replace({CLEAN}, ',', '')"


def clean(text: str) -> str:
    """Return a number as Python reads it."""
    return text.strip().replace(",", "").lstrip("+")


def decide(table: Table, column: Column, hints: dict[str, Any]) -> None:
    """Give a column a decimal type that holds the value of every cell, if there is one.

    Args:
        table: the rows.
        column: gets its form.
        hints: `decimal`; with a comma nothing is done.
    """
    if hints.get("decimal") == ",":
        return
    spelled = f"regexp_matches(trim({{c}}), {types.quoted(NUMBER)})"
    grouped = f"regexp_matches(trim({{c}}), {types.quoted(GROUPED)})"
    if not table.ask(column, f"bool_and({spelled} OR {grouped})"):
        return
    proves = types.evidence(",", ".").replace("{c}", "trim({c})")
    if table.ask(column, f"bool_or({grouped})") and not table.ask(column, f"bool_or({proves})"):
        column.why = "ambiguous: the decimal sign cannot be told; the hint decimal tells"
        return
    mantissa = f"split_part(lower({UNGROUPED}), 'e', 1)"
    power = f"coalesce(TRY_CAST(nullif(split_part(lower({UNGROUPED}), 'e', 2), '') AS INTEGER), 0)"
    scale = table.ask(column, f"max(greatest(length(split_part({mantissa}, '.', 2)) - {power}, 0))")
    whole = table.ask(column, f"max(length(split_part(ltrim({mantissa}, '-'), '.', 1)) + greatest({power}, 0))")
    if whole + scale > MOST_DIGITS:
        return
    sql_type = f"DECIMAL({whole + scale},{scale})"
    form = Form(sql_type.lower(), sql_type, f"TRY_CAST({UNGROUPED} AS {sql_type})", "CAST({v} AS VARCHAR)")
    if table.ask(column, f"bool_and({form.cast} IS NOT NULL)"):
        plain = f"CAST({form.cast} AS VARCHAR) IS DISTINCT FROM {{c}}"
        column.form, column.is_value, column.why = form, True, "every value is kept"
        column.notes.append(f"respelled cells: {table.ask(column, f'count(*) FILTER (WHERE {plain})')}")
