"""Cleaning: steps that a preset asks for, each counted, with examples."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

MOST_EXAMPLES = 1000
TOTALS = re.compile(
    r"\s*(?:grand\s+)?(?:totals?|sum|summe|gesamt|insgesamt|total\s+g[eé]n[eé]ral|totale|suma)\b", re.I
)


class Cleaning:
    """The steps of one table.

    Args:
        values: of the recipe.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}
        self._trim = bool(values.get("trim"))
        self._nulls = {*values.get("null_words", ())}
        self._seen: set[bytes] | None = set() if values.get("drop_duplicates") else None
        self._footer = values.get("footer") == "drop"
        self._held: list[list[str]] = []
        self._is_needed = self._trim or bool(self._nulls) or self._seen is not None or self._footer

    def rows(self, rows: list[list[str]]) -> list[list[str]]:
        """Return the rows as they shall be written."""
        if not self._is_needed:
            return rows
        cleaned = [self._cells(row) for row in rows] if self._trim or self._nulls else rows
        cleaned = [row for row in cleaned if self._is_new(row)] if self._seen is not None else cleaned
        return self._without_totals(cleaned) if self._footer else cleaned

    def end(self) -> list[list[str]]:
        """Return the rows that were held back and belong to the table after all; totals at its end do not."""
        kept = []
        for row in self._held:
            if _is_total(row):
                self._count("footer", " | ".join(row))
            else:
                kept.append(row)
        self._held = []
        return kept

    def report(self) -> dict[str, Any]:
        """Return what the steps have done."""
        return {name: {"count": count, "examples": self.examples[name]} for name, count in self.counts.items()}

    def _count(self, step: str, example: str) -> None:
        self.counts[step] = self.counts.get(step, 0) + 1
        kept = self.examples.setdefault(step, [])
        if len(kept) < MOST_EXAMPLES:
            kept.append(example[:100])

    def _cells(self, row: Sequence[str]) -> list[str]:
        cleaned = []
        for cell in row:
            text = cell.strip() if self._trim else cell
            if text != cell:
                self._count("trim", cell)
            if text in self._nulls:
                self._count("null_words", text)
                text = ""
            cleaned.append(text)
        return cleaned

    def _is_new(self, row: Sequence[str]) -> bool:
        text = "\0".join(f"{len(cell)}:{cell}" for cell in row)
        name = hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
        if self._seen is None or name in self._seen:
            self._count("drop_duplicates", " | ".join(row))
            return False
        self._seen.add(name)
        return True

    def _without_totals(self, rows: list[list[str]]) -> list[list[str]]:
        """Hold back rows of totals until it is known that a full row follows."""
        found: list[list[str]] = []
        for row in rows:
            if _is_total(row) or (self._held and not all(row)):
                self._held.append(row)
            else:
                found += [*self._held, row]
                self._held = []
        return found


def _is_total(row: Sequence[str]) -> bool:
    return TOTALS.match(next(filter(None, row), "")) is not None
