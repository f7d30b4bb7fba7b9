"""Tickets: short-lived keys for clients that send no headers, so that they stand in an address.

An address is in logs and histories, so a ticket begins direct uploads and does nothing else.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import delete

from access.keys import DIRECT, ApiKey, find_key, write_key
from access.principal import Grant, Principal, dump_limits, load_limits
from core.database import transaction, utcnow
from core.errors import Unauthorized

TICKET_SECONDS = 3600


def create(principal: Principal, seconds: int = TICKET_SECONDS) -> tuple[str, datetime]:
    """Create a ticket for a principal, with its limits; its credential's end ends it too.

    Args:
        principal: for whom.
        seconds: how long it is good.

    Returns:
        The ticket and the time of its end.
    """
    ends = utcnow() + timedelta(seconds=seconds)
    if principal.expires_at is not None:
        ends = min(ends, datetime.fromtimestamp(principal.expires_at, UTC))
    ticket = write_key(
        owner=principal.owner,
        role=DIRECT,
        subject=principal.subject,
        token_id=principal.token_id,
        limits=dump_limits(principal.limits),
        expires_at=ends,
    )
    return ticket, ends


def read(ticket: str) -> Principal:
    """Return the principal of a ticket.

    Raises:
        Unauthorized: it is not valid, or has expired.
    """
    key = find_key(ticket)
    if key is None or key.role != DIRECT:
        raise Unauthorized("The ticket is not valid, or has expired; fetch a new one.")
    limits = load_limits(key.limits or "{}")
    return Principal(key.owner, key.subject, frozenset({Grant.UPLOAD}), limits, key.token_id)


def forget_old() -> None:
    """Delete the tickets that have expired."""
    with transaction() as connection:
        connection.execute(delete(ApiKey).where(ApiKey.expires_at <= utcnow() - timedelta(seconds=TICKET_SECONDS)))
