"""JSON from clients: what Python's parser lets pass or raises differently is a ValueError."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from core.errors import InvalidBody


class RepeatedName(ValueError):
    """An object has a name twice; which of the values counts, nobody could say (RFC 8259, section 4)."""


def loads(text: str | bytes) -> Any:
    """Decode JSON.

    Raises:
        RepeatedName: an object has a name twice.
        ValueError: it is malformed, or nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_repetition)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def check_members(body: Collection[str], allowed: Collection[str]) -> None:
    """Check that an object from a client has no other members than these.

    Raises:
        InvalidBody: it has; the text names them.
    """
    if unknown := sorted(set(body) - set(allowed)):
        raise InvalidBody(f"Unknown: {', '.join(unknown)[:100]}. Allowed: {', '.join(allowed)}.")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise RepeatedName
    return found
