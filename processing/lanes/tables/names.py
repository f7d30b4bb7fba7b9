"""The names of columns: none empty, none twice, none that the lake needs itself."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

LONGEST = 200
RESERVED = {"ingest_date"}
"""The folder of a part says it; a column of the same name would hide it."""


def column_names(header: Sequence[str] | None, width: int, is_snake: bool) -> Iterator[tuple[str, str]]:
    """Yield the name of every column, and what its header says.

    Args:
        header: the cells of the header; None without one.
        width: the number of columns.
        is_snake: write them in lower case, with `_` for everything but letters and digits.
    """
    taken = set(RESERVED)
    for number in range(width):
        source = header[number] if header and number < len(header) else ""
        text = " ".join(source.replace("\0", " ").split())
        name = (snake(text) if is_snake else text)[:LONGEST] or f"column_{number + 1}"
        unique, count = name, 1
        while unique.casefold() in taken:
            count += 1
            unique = f"{name}_{count}"
        taken.add(unique.casefold())
        yield unique, source


def snake(text: str) -> str:
    """Return a text in lower case, with `_` for everything but letters and digits."""
    plain = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return re.sub(r"[^0-9a-z]+", "_", plain.casefold()).strip("_")


def identifier(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'
