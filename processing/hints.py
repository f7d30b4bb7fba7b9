"""Hints: what a client knows of its table, as in `orders?encoding=windows-1253&delimiter=%3B`."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import Any, NamedTuple

WHOLE = re.compile(r"[1-9]\d{0,6}", re.ASCII)
LONGEST = 64
DATE_ORDERS = ("dmy", "mdy", "ymd")


class Hint(NamedTuple):
    """One hint: what it may be, in words, and how its text is read; None if it cannot be."""

    must: str
    read: Callable[[str], Any]

    def is_valid_value(self, value: Any) -> bool:
        """Returns True if a preset's value is one that the hint may have."""
        return bool(self.read(str(value)) == value)


def _encoding(text: str) -> str | None:
    try:
        codec = codecs.lookup(text)
    except (LookupError, ValueError):
        return None
    # Others turn bytes into bytes, or are Python's own.
    return text if codec._is_text_encoding and codec.name not in ("idna", "punycode", "undefined") else None


def _delimiter(text: str) -> str | None:
    return text if len(text) == 1 and text not in '"\r\n\0' and not text.isalnum() else None


def _one_of(*known: str) -> Callable[[str], str | None]:
    return lambda text: text if text in known else None


def _line(text: str) -> int | None:
    return int(text) if WHOLE.fullmatch(text) or text == "0" else None


HINTS = {
    "encoding": Hint("the name of an encoding, such as windows-1252", _encoding),
    "delimiter": Hint("one character", _delimiter),
    "header": Hint("the number of the header's line, or 0 without one", _line),
    "decimal": Hint(". or ,", _one_of(".", ",")),
    "date_order": Hint("dmy, mdy or ymd", _one_of(*DATE_ORDERS)),
    "sheet": Hint("the name of a sheet", lambda text: text if 0 < len(text) <= LONGEST else None),
}
