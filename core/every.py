"""A timer for work that is to be done at most once per interval."""

from __future__ import annotations

import time


class Every:
    """Tells when an interval has passed, counted from its creation.

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
