"""The cells of sheets, and how their numbers and dates are written as text."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

MOST_ERRORS = 1000
EXACT_WHOLE = 2**53
EPOCH_1900, EPOCH_1904 = datetime(1899, 12, 30), datetime(1904, 1, 1)
FIRST_SURE_SERIAL = 61
"""Excel counts a 29 February 1900, so serials before the 1 March are not what they seem."""
LAST_SERIAL = 2_958_466
DAY_MICROSECONDS = 86_400_000_000
LITERAL = re.compile(r'"[^"]*"|\\.|_.|\*.')
DURATION = re.compile(r"\[(?:h+|m+|s+)\]", re.IGNORECASE)
BRACKETS = re.compile(r"\[[^\]]*\]")


Cell: TypeAlias = tuple[int, str, str, str, str]
"""A cell that is not empty: its column from 0, kind and text; of a date its serial number; an unusual format."""


@dataclass
class Found:
    """What is found beside the cells of a sheet."""

    formulas: int = 0
    formulas_without_value: int = 0
    hidden_rows: int = 0
    hidden_columns: int = 0
    error_count: int = 0
    errors: list[list[str]] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
    early_dates: set[int] = field(default_factory=set)
    width: int = 0
    """As the sheet itself says, which may be wrong."""

    def error(self, row: int, column: int, text: str) -> None:
        """Note a cell that holds an error."""
        self.error_count += 1
        if len(self.errors) < MOST_ERRORS:
            self.errors.append([f"{letters(column)}{row}", text])


def letters(column: int) -> str:
    """Return the letters of a column from 0, as in a sheet: A, B, ... AA."""
    name = ""
    column += 1
    while column:
        column, rest = divmod(column - 1, 26)
        name = chr(65 + rest) + name
    return name


def number_text(value: float) -> str:
    """Return the shortest text that gives the same 64 bits; a whole number without `.0`, but for -0.0."""
    if value.is_integer() and -EXACT_WHOLE <= value <= EXACT_WHOLE:
        return str(int(value)) if value or math.copysign(1, value) > 0 else "-0.0"
    return repr(value).removesuffix(".0")


def date_text(serial: float, is_1904: bool) -> str | None:
    """Return the date or time of a serial number; None if the number could not be told from it again.

    Source: ECMA-376, part 1, section 18.17.4.
    """
    if not 0 <= serial < LAST_SERIAL:
        return None
    microseconds = round(serial * DAY_MICROSECONDS)
    moment = (EPOCH_1904 if is_1904 else EPOCH_1900) + timedelta(microseconds=microseconds)
    rounded = moment.replace(microsecond=0)
    for candidate in (_nearest_second(moment), _nearest_millisecond(moment), moment):
        if _serial(candidate, is_1904) == serial:
            rounded = candidate
            break
    else:
        return None
    if rounded.time() == datetime.min.time():
        return f"{rounded:%Y-%m-%d}".rjust(10, "0")
    text = f"{rounded:%Y-%m-%d %H:%M:%S}".rjust(19, "0")
    return text + (f".{rounded.microsecond:06}".rstrip("0") if rounded.microsecond else "")


def _nearest_second(moment: datetime) -> datetime:
    return (moment + timedelta(microseconds=500_000)).replace(microsecond=0)


def _nearest_millisecond(moment: datetime) -> datetime:
    later = moment + timedelta(microseconds=500)
    return later.replace(microsecond=later.microsecond // 1000 * 1000)


def _serial(moment: datetime, is_1904: bool) -> float:
    passed = moment - (EPOCH_1904 if is_1904 else EPOCH_1900)
    return passed.days + (passed.seconds * 1_000_000 + passed.microseconds) / DAY_MICROSECONDS


def is_date_format(code: str) -> bool:
    """Returns True if a number format shows a day; a time alone, or a duration, is a number."""
    if DURATION.search(code):
        return False
    plain = BRACKETS.sub("", LITERAL.sub("", code)).lower()
    return "d" in plain or "y" in plain
