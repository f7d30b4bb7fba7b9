"""The event log: written in the transaction of every change of a file, read by watchers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, cast

from flask import Flask
from sqlalchemy import (
    BigInteger,
    Connection,
    Index,
    Integer,
    Select,
    String,
    Text,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from core.database import BATCH, UtcDateTime, db, transaction, utcnow
from models import File, file_changed

EVENTS_KEPT = timedelta(days=1)
SETTLED = timedelta(seconds=2)  # a transaction that took its number before another ends within that time


DERIVED = text("parent_id IS NOT NULL")


class Event(db.Model):  # type: ignore[name-defined,misc]
    """One change of a file. Of two files' events, the one with the higher number may be committed first."""

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_file_id", "file_id", "id"),
        Index("ix_events_parent_id", "parent_id", "id", postgresql_where=DERIVED, sqlite_where=DERIVED),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    file_id: Mapped[str] = mapped_column(String(32))
    parent_id: Mapped[str | None] = mapped_column(String(32))
    """The original, of an event of a derivative."""
    owner: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str | None] = mapped_column(String(255))
    kind: Mapped[str] = mapped_column(String(16))
    upload_status: Mapped[str] = mapped_column(String(16))
    bytes_sent: Mapped[int] = mapped_column(BigInteger)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class EventRow(Protocol):
    """An Event, with the columns of its file that watchers see."""

    id: int
    file_id: str
    parent_id: str | None
    owner: str
    subject: str | None
    kind: str
    upload_status: str
    bytes_sent: int
    error: str | None
    created_at: datetime
    name: str | None
    """None, as are `mode`, `size`, `url` and the metadata, once the file's row is gone."""
    mode: str | None
    size: int | None
    url: str | None
    user_metadata: str | None


_COPIED = (File.id, File.parent_id, File.owner, File.subject, File.upload_status, File.bytes_sent, File.error)
_RECORD = insert(Event).from_select(
    ["file_id", "parent_id", "owner", "subject", "upload_status", "bytes_sent", "error", "kind", "created_at"],
    select(
        *_COPIED,
        bindparam("kind", type_=String),
        bindparam("created_at", type_=UtcDateTime),
    ).where(File.id == bindparam("file_id", type_=String)),
)
_READ = (
    select(Event, File.name, File.mode, File.size, File.url, File.user_metadata)
    .outerjoin(File, File.id == Event.file_id)
    .order_by(Event.id)
)


def init_app(app: Flask) -> None:
    """Record every change of a file of the app."""
    file_changed.connect(_record, sender=app)


def read(
    after: int,
    up_to: int | None = None,
    owner: str | None = None,
    file_id: str | None = None,
    subject: str | None = None,
) -> list[EventRow]:
    """Return a batch of events in order, with the columns of their file that watchers see.

    Args:
        after: the number after which to begin.
        up_to: the last number wanted.
        owner: only of this owner.
        file_id: only of this file, and of what is derived from it.
        subject: only of this user of the owner.
    """
    statement = _READ.where(Event.id > after)
    if up_to is not None:
        statement = statement.where(Event.id <= up_to)
    if owner is not None:
        statement = statement.where(Event.owner == owner)
    if subject is not None:
        statement = statement.where(Event.subject == subject)
    if file_id is not None:
        statement = statement.where(or_(Event.file_id == file_id, Event.parent_id == file_id))
    return list(_rows(statement.limit(BATCH)))


def latest(file_id: str) -> EventRow | None:
    """Return the last event of a file, or None."""
    newest = select(func.max(Event.id)).where(Event.file_id == file_id).scalar_subquery()
    return next(iter(_rows(_READ.where(Event.id == newest))), None)


def settled(rows: Sequence[EventRow], after: int) -> Sequence[EventRow]:
    """Return the leading rows without a gap in their numbers.

    A transaction that took the missing number may still be committing. A gap before a row older than SETTLED was
    rolled back: no transaction lasts that long.
    """
    number, overdue = after, utcnow() - SETTLED
    for count, row in enumerate(rows):
        if row.id > number + 1 and row.created_at > overdue:
            return rows[:count]
        number = row.id
    return rows


def begin() -> int:
    """Return the number of the last event that is surely settled."""
    with db.engine.connect() as connection:
        old = select(func.max(Event.id)).where(Event.created_at < utcnow() - SETTLED)
        return connection.scalar(old) or 0


def newest() -> int:
    """Return the number of the last event."""
    with db.engine.connect() as connection:
        return connection.scalar(select(func.max(Event.id))) or 0


def forget_old() -> None:
    """Delete the events older than a day."""
    with transaction() as connection:
        connection.execute(delete(Event).where(Event.created_at < utcnow() - EVENTS_KEPT))


def _record(app: Flask, connection: Connection, file_id: str, kind: str) -> None:
    """Copy what the row has become, in the transaction that changed it."""
    connection.execute(_RECORD, {"file_id": file_id, "kind": kind, "created_at": utcnow()})


def _rows(statement: Select[*tuple[Any, ...]]) -> Sequence[EventRow]:
    with db.engine.connect() as connection:
        return cast(Sequence[EventRow], connection.execute(statement).all())
