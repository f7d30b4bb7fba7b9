"""Looks at direct uploads whose clients do not come back, and forgets those that ended long ago."""

from __future__ import annotations

import time
from contextlib import suppress

from core.background import for_each
from core.errors import StoreError
from core.services import services
from intake.direct import rows
from intake.direct.outcome import look, remove

AT_ONCE, FORGOTTEN_AT_ONCE = 20, 200
TURN_SECONDS = 10.0


def look_at_due() -> bool:
    """Look at the uploads that are due. Returns True if more may be waiting."""
    if services().config.takes_direct:
        with suppress(StoreError):  # the first client need not wait for the probe
            services().door.abilities()
    found = rows.due(AT_ONCE)
    for_each(look, found)
    return len(found) == AT_ONCE


def make_room(owner: str) -> None:
    """Look at some uploads of an owner before it is told that it has too many: they may be files by now."""
    for_each(look, rows.due(AT_ONCE, owner))


def forget_old() -> None:
    """Forget the uploads that ended a day ago, and remove what has come since then of those that are no files."""
    deadline = time.monotonic() + TURN_SECONDS
    while time.monotonic() < deadline and (found := rows.ended_long_ago(FORGOTTEN_AT_ONCE)):
        for row in found:
            if row.gone_at:
                remove(row)
            elif row.landing_key != row.key:
                services().store.delete(row.landing_key)
        rows.forget([row.id for row in found])
