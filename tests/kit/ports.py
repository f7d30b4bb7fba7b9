"""Ports for the servers of the tests: each worker of pytest-xdist has a range of its own."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from itertools import cycle

from local import servers as local_servers

RANGE = 1200  # SeaweedFS opens further ports 10,000 above its own, so all ranges lie below 30,000
FIRST = 20_000
SEAWEED_STEP = 10

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_first = FIRST + _worker * RANGE


def _from_anywhere(numbers: range) -> Iterator[int]:
    """Go through the numbers again and again, not from the first, which another run of the tests may use now."""
    start = random.randrange(len(numbers))
    return cycle([*numbers[start:], *numbers[:start]])


_singles = _from_anywhere(range(_first, _first + RANGE // 2))
_blocks = _from_anywhere(range(_first + RANGE // 2, _first + RANGE, SEAWEED_STEP))


def free_port() -> int:
    """Return a free port that no other test was given lately."""
    return next(filter(local_servers.is_free, _singles))


def seaweed_port() -> int:
    """Return the first of the free ports that a SeaweedFS needs."""
    return local_servers.seaweed_port(next(_blocks))
