"""Names as people mean them: how two that look the same are told to be the same."""

from __future__ import annotations

from unicodedata import normalize


def fold(name: str) -> str:
    """Bring a name into the form in which names are compared: composed, and without case.

    Source: the Unicode Standard, section 3.13, canonical caseless matching; UAX #15.
    """
    folded = normalize("NFD", name).casefold()
    return normalize("NFC", folded)
