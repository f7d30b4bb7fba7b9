"""File names in the form in which searches compare them."""

from __future__ import annotations

from unicodedata import normalize


def fold(name: str) -> str:
    """Return a name in the form for comparisons: composed, and case-folded.

    Source: the Unicode Standard, section 3.13, canonical caseless matching; UAX #15.
    """
    folded = normalize("NFD", name).casefold()
    return normalize("NFC", folded)
