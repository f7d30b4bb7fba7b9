"""The spools of all hosts, with the time of their last use, which tells lost hosts from living ones."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Row, Select, String, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from core.database import UtcDateTime, db, transaction, utcnow

LOST_AFTER = timedelta(minutes=10)
"""A host that was silent for so long is taken for gone; it tells of itself every ten seconds."""
MAX_HOST = 255


class SpoolRecord(db.Model):  # type: ignore[name-defined,misc]
    """A spool, and the host that used it last."""

    __tablename__ = "spools"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    host: Mapped[str] = mapped_column(String(MAX_HOST))
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)


def record_use(spool_id: str) -> None:
    """Record that a process with this spool lives. A spool without its disk is not lost while its host lives.

    Args:
        spool_id: the identity; an empty one, of a spool that was never there, tells nothing.
    """
    if not spool_id:
        return
    now = {"host": socket.gethostname()[:MAX_HOST], "seen_at": utcnow()}
    with transaction() as connection:
        mine = update(SpoolRecord).where(SpoolRecord.id == spool_id)
        if connection.execute(mine.values(**now)).rowcount:
            return
    try:
        with transaction() as connection:
            connection.execute(insert(SpoolRecord), {"id": spool_id, **now})
    except IntegrityError:  # another process of this host was faster
        pass


def lost(silent_for: timedelta = LOST_AFTER) -> Sequence[Row[tuple[SpoolRecord]]]:
    """Return the lost spools, those without a living process, the longest silent first."""
    statement = (
        select(SpoolRecord).where(SpoolRecord.seen_at < utcnow() - silent_for).order_by(SpoolRecord.seen_at)
    )
    with db.engine.connect() as connection:
        return connection.execute(statement).all()


def find(spool_id: str) -> Row[tuple[SpoolRecord]] | None:
    """Return a spool's record, or None."""
    with db.engine.connect() as connection:
        return connection.execute(select(SpoolRecord).where(SpoolRecord.id == spool_id)).first()


def is_lost(spool_id: str) -> bool:
    """Returns True if the spool has a record, and its host is gone."""
    spool = find(spool_id)
    return spool is not None and spool.seen_at < lost_before()


def is_alive(spool_id: str) -> bool:
    """Returns True if a living host uses the spool."""
    spool = find(spool_id)
    return spool is not None and spool.seen_at >= utcnow() - LOST_AFTER


def lost_before() -> datetime:
    """Return the time since which a living host has told of itself."""
    return utcnow() - LOST_AFTER


def lost_ids(before: ColumnElement[datetime]) -> Select[str]:
    """Return the query for the ids of the spools whose host is gone; `before` is `lost_before`."""
    return select(SpoolRecord.id).where(SpoolRecord.seen_at < before)
