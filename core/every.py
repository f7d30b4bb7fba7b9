"""A clock for work that is worth doing only now and then."""

from __future__ import annotations

import time


class Every:
    """Says when an interval has passed, counted from its making.

    Args:
        seconds: the interval.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    def due(self) -> bool:
        """Returns True if the interval has passed since the last time this returned True."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
