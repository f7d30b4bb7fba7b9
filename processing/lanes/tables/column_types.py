"""The type of a column: the first from which every cell's text can be written again, by one format; else text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

MOST_DIGITS = 38
BOOLEANS = (("true", "false"), ("True", "False"), ("TRUE", "FALSE"))
WHOLE = re.compile(r"0|-?[1-9]\d*", re.ASCII)
DECIMAL = re.compile(r"-?(?:0|[1-9]\d*)\.(\d+)", re.ASCII)
FLOAT = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?", re.ASCII)
DATE = re.compile(r"(\d{1,4})([-./])(\d{1,2})\2(\d{1,4})", re.ASCII)
MOMENT = re.compile(r"(\S+?)([ T])(\d\d:\d\d(?::\d\d(\.\d+)?)?)(Z|[+-]\d\d:?\d\d)?", re.ASCII)
TIME = re.compile(r"\d\d:\d\d(:\d\d)?", re.ASCII)
GROUPS = (",", ".", " ", "\u00a0", "\u202f", "'")
ORDERS = {"dmy": "dmY", "mdy": "mdY", "ymd": "Ymd"}


class Form(NamedTuple):
    """One way to read and to write the cells of a column, in SQL about `{c}`, its text, and `{v}`, its value."""

    type: str
    sql_type: str
    cast: str
    render: str
    format: str | None = None
    order: str | None = None
    """Of day and month, where the digits do not tell them apart."""
    needs: str | None = None
    """A condition on `{c}` that at least one cell must meet, or the form is ambiguous."""


def quoted(text: str) -> str:
    """Return a text as SQL writes it."""
    parts = text.replace("'", "''").split("\0")
    return "(" + " || chr(0) || ".join(f"'{part}'" for part in parts) + ")"


Ask: TypeAlias = Callable[[str], Any]
"""Asks DuckDB for one number about all cells of a column, `{c}`."""


def forms(first: str, ask: Ask, hints: dict[str, Any]) -> Iterator[Form]:
    """Yield the forms that a column may have whose first cell is this, in the order they are tried.

    Args:
        first: its first cell that is not empty.
        ask: asks about all of its cells.
        hints: `decimal` and `date_order`, where the client knows them.
    """
    yield from _booleans(first)
    yield from _numbers(first, ask, hints)
    yield from _dates(first, hints)
    yield from _moments(first, hints)
    yield from _times(first)
    yield from _grouped(first, ask, hints)


def _booleans(first: str) -> Iterator[Form]:
    for yes, no in BOOLEANS:
        if first in (yes, no):
            cast = f"CASE {{c}} WHEN '{yes}' THEN true WHEN '{no}' THEN false END"
            render = f"CASE WHEN {{v}} THEN '{yes}' WHEN NOT {{v}} THEN '{no}' END"
            yield Form("boolean", "BOOLEAN", cast, render, f"{yes}/{no}")


def _numbers(first: str, ask: Ask, hints: dict[str, Any]) -> Iterator[Form]:
    if hints.get("decimal") == ",":
        if WHOLE.fullmatch(first):
            yield plain("bigint", "BIGINT")
        return
    if WHOLE.fullmatch(first):
        yield plain("bigint", "BIGINT")
        digits = ask("max(length(ltrim({c}, '-')))")
        if digits and 18 < digits <= MOST_DIGITS:
            yield plain(f"decimal({digits},0)", f"DECIMAL({digits},0)")
    if found := DECIMAL.fullmatch(first):
        scale = len(found[1])
        whole = ask("max(length(split_part(ltrim({c}, '-'), '.', 1)))")
        if whole and whole + scale <= MOST_DIGITS:
            yield plain(f"decimal({whole + scale},{scale})", f"DECIMAL({whole + scale},{scale})")
    if FLOAT.fullmatch(first):
        yield from doubles()


def plain(name: str, sql_type: str) -> Form:
    """Return the form of a type that is written as DuckDB writes it."""
    return Form(name, sql_type, f"TRY_CAST({{c}} AS {sql_type})", "CAST({v} AS VARCHAR)")


def doubles() -> Iterator[Form]:
    """Yield the two ways to write doubles: the shortest text, whole numbers with or without `.0`."""
    cast = "CASE WHEN isfinite(TRY_CAST({c} AS DOUBLE)) AND {c} <> '-0' THEN TRY_CAST({c} AS DOUBLE) END"
    yield Form("double", "DOUBLE", cast, "CAST({v} AS VARCHAR)", "shortest")
    bare = "regexp_replace(CAST({v} AS VARCHAR), '\\.0$', '')"
    yield Form("double", "DOUBLE", cast, bare, "shortest, whole numbers bare")


def _date_formats(text: str, hints: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield the formats that a date may have, each with the order of day and month that it takes for granted."""
    found = DATE.fullmatch(text)
    if not found:
        return
    first, separator, _, third = found.groups()
    orders = ["Ymd"] if len(first) == 4 else ["dmY", "mdY"] if len(third) == 4 else []
    if hinted := ORDERS.get(hints.get("date_order") or ""):
        orders = [order for order in orders if order == hinted]
    for order in orders:
        is_open = order != "Ymd" and not hints.get("date_order")
        for pad in ("", "-"):
            parts = [f"%{pad}{part}" if part in "dm" else f"%{part}" for part in order]
            yield separator.join(parts), order if is_open else None


def _dates(first: str, hints: dict[str, Any]) -> Iterator[Form]:
    for pattern, order in _date_formats(first, hints):
        cast = f"CAST(try_strptime({{c}}, '{pattern}') AS DATE)"
        yield Form("date", "DATE", cast, f"strftime({{v}}, '{pattern}')", pattern, order)


def _moments(first: str, hints: dict[str, Any]) -> Iterator[Form]:
    found = MOMENT.fullmatch(first)
    if not found:
        return
    day, separator, clock, fraction, zone = found.groups()
    if fraction and len(fraction) not in (4, 7):
        return
    seconds = ":%S" if clock.count(":") == 2 else ""
    part = {0: "", 4: ".%g", 7: ".%f"}[len(fraction or "")]
    for date, order in _date_formats(day, hints):
        pattern = f"{date}{separator}%H:%M{seconds}{part}"
        yield _zoned(pattern, zone, order) if zone else _local(pattern, order)


def _local(pattern: str, order: str | None) -> Form:
    cast = f"CAST(try_strptime({{c}}, '{pattern}') AS TIMESTAMP)"
    return Form("timestamp", "TIMESTAMP", cast, f"strftime({{v}}, '{pattern}')", pattern, order)


def _zoned(pattern: str, zone: str, order: str | None) -> Form:
    digits = zone.replace(":", "")
    minutes = 0 if zone == "Z" else int(digits[0] + "1") * (int(digits[1:3]) * 60 + int(digits[3:5]))
    text = f"CASE WHEN ends_with({{c}}, '{zone}') THEN left({{c}}, length({{c}}) - {len(zone)}) END"
    local = f"CAST(try_strptime({text}, '{pattern}') AS TIMESTAMP)"
    cast = f"CAST({local} - INTERVAL ({minutes}) MINUTE AS TIMESTAMPTZ)"
    render = f"strftime(CAST({{v}} AS TIMESTAMP) + INTERVAL ({minutes}) MINUTE, '{pattern}') || '{zone}'"
    return Form("timestamp with time zone", "TIMESTAMPTZ", cast, render, f"{pattern}{zone}", order)


def _times(first: str) -> Iterator[Form]:
    if found := TIME.fullmatch(first):
        cast = "TRY_CAST({c} AS TIME)" if found[1] else "TRY_CAST({c} || ':00' AS TIME)"
        render = "CAST({v} AS VARCHAR)" if found[1] else "left(CAST({v} AS VARCHAR), 5)"
        yield Form("time", "TIME", cast, render, "%H:%M:%S" if found[1] else "%H:%M")


def _grouped(first: str, ask: Ask, hints: dict[str, Any]) -> Iterator[Form]:
    for group in ("", *GROUPS):
        for point in (".", ","):
            is_plain = not group and point == "."
            if point == group or is_plain or hints.get("decimal") not in (None, point):
                continue
            if form := _grouped_form(first, group, point, ask, is_hinted="decimal" in hints):
                yield form


def style(group: str, point: str) -> str:
    """Return the regular expression of numbers with these signs."""
    signs = {sign: re.escape(sign) for sign in (group, point)}
    whole = rf"\d{{1,3}}(?:{signs[group]}\d{{3}})*" if group else r"\d+"
    return rf"-?{whole}(?:{signs[point]}\d+)?"


def evidence(group: str, point: str) -> str:
    """Return the condition under which a cell proves which sign is which, in SQL about `{c}`."""
    g, p = re.escape(group), re.escape(point)
    two = rf"{g}\d{{3}}{g}" if group else ""
    both = rf"{g}\d{{3}}{p}\d" if group else ""
    lone = rf"{p}(?:\d{{1,2}}|\d{{4,}})$" if point == "," else ""
    blank = group if group and group not in ",." else ""
    known = "|".join(filter(None, (two, both, lone, re.escape(blank))))
    return f"regexp_matches({{c}}, {quoted(known)})" if known else "false"


def _grouped_form(first: str, group: str, point: str, ask: Ask, is_hinted: bool) -> Form | None:
    if not re.fullmatch(style(group, point), first, re.ASCII):
        return None
    scale = len(first.rpartition(point)[2]) if point in first else 0
    ungrouped = f"replace({{c}}, {quoted(group)}, '')" if group else "{c}"
    clean = f"replace({ungrouped}, {quoted(point)}, '.')"
    whole = ask(f"max(length(split_part(ltrim({clean}, '-'), '.', 1)))")
    if not whole or whole + scale > MOST_DIGITS:
        return None
    sql_type = f"DECIMAL({whole + scale},{scale})"
    text = "CAST({v} AS VARCHAR)"
    head = _regrouped(f"split_part({text}, '.', 1)", group) if group else f"split_part({text}, '.', 1)"
    render = f"{head} || {quoted(point)} || split_part({text}, '.', 2)" if scale else head
    named = f"groups {group!r}, decimal {point!r}" if group else f"decimal {point!r}"
    cast = f"TRY_CAST({clean} AS {sql_type})"
    needs = None if is_hinted else evidence(group, point)
    return Form(sql_type.lower(), sql_type, cast, render, named, needs=needs)


def _regrouped(number: str, group: str) -> str:
    """Return the SQL that writes the groups of three digits into a whole number."""
    turned = f"regexp_replace(reverse({number}), '([0-9]{{3}})', '\\1' || {quoted(group)}, 'g')"
    return f"reverse(regexp_replace({turned}, {quoted(re.escape(group) + '(-?)$')}, '\\1'))"


# Sheets: there a cell says itself what it is.

SHEET_FORMS: dict[str, list[Form]] = {
    "number": [plain("bigint", "BIGINT"), *doubles()],
    "boolean": list(_booleans("true")),
    "date": [
        Form(
            "date", "DATE", "CAST(try_strptime({c}, '%Y-%m-%d') AS DATE)", "strftime({v}, '%Y-%m-%d')", "%Y-%m-%d"
        ),
        Form(
            "timestamp",
            "TIMESTAMP",
            "TRY_CAST({c} AS TIMESTAMP)",
            "CASE WHEN CAST({v} AS TIME) = TIME '00:00:00' THEN strftime({v}, '%Y-%m-%d')"
            " ELSE CAST({v} AS VARCHAR) END",
            "%Y-%m-%d %H:%M:%S",
        ),
    ],
    "text": [],
}
