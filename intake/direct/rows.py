"""The row of a direct upload, and its moves. Once its object is verified it becomes a File of the same id."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Index,
    String,
    Text,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from core.database import UtcDateTime, db, new_id, transaction, utcnow
from core.errors import UploadGone, UploadLocked
from core.services import services
from intake.upload_rows import GONE, KEPT, UNFINISHED, AnyRow, InProgress, Rows

PUT, FORM, PARTS = "put", "form", "parts"
"""How the bytes come: by one PUT, by a form, or in parts."""
PATIENCE_SECONDS = 10.0
LOOK_SECONDS = 0.05
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 2, 60


class DirectUpload(InProgress, db.Model):  # type: ignore[name-defined,misc]
    """A direct upload. One request or process at a time verifies it: the one whose `claim` it has."""

    __tablename__ = "direct_uploads"
    __table_args__ = (
        Index("ix_direct_uploads_look_at", "look_at", postgresql_where=UNFINISHED, sqlite_where=UNFINISHED),
        Index("ix_direct_uploads_updated_at", "updated_at"),
        Index("ix_direct_uploads_owner", "owner", postgresql_where=UNFINISHED, sqlite_where=UNFINISHED),
    )

    landing_key: Mapped[str] = mapped_column(String(255))
    """Where the client's bytes arrive; another one if they could still be replaced there."""
    kind: Mapped[str] = mapped_column(String(8))
    size: Mapped[int | None] = mapped_column(BigInteger)
    """In bytes; None if the client does not say."""
    most_bytes: Mapped[int] = mapped_column(BigInteger)
    digests: Mapped[str] = mapped_column(Text)
    """Those that the client gives of the whole file, in base64 by their names, as JSON."""
    part_bytes: Mapped[int | None] = mapped_column(BigInteger)
    s3_upload_id: Mapped[str | None] = mapped_column(Text)
    closing: Mapped[bool] = mapped_column(Boolean, default=False)
    """True once the client has said that all bytes are there."""
    promised: Mapped[bool] = mapped_column(Boolean, default=False)
    """True once there is a File of it that is yet to be verified."""
    parts: Mapped[str | None] = mapped_column(Text)
    """The numbers and ETags of the parts that the object shall have, as JSON; None for all."""
    claim: Mapped[str | None] = mapped_column(String(32))
    look_at: Mapped[datetime] = mapped_column(UtcDateTime)
    """When the sweep looks at it next; of a claimed row, the end of the lease."""


DirectRow = AnyRow
_TABLE = DirectUpload.__table__
_ROWS = Rows(_TABLE)
insert_row, find, earlier, end = _ROWS.insert, _ROWS.find, _ROWS.earlier, _ROWS.end
count_unfinished, unfinished = _ROWS.count_unfinished, _ROWS.unfinished


@contextmanager
def claimed(row: DirectRow, patience_seconds: float = PATIENCE_SECONDS, **values: Any) -> Iterator[DirectRow]:
    """Hold an unfinished upload, so that nobody else verifies it. If the block raises, it is let go.

    Otherwise the block has finished, ended or released it.

    Args:
        row: the upload.
        patience_seconds: how long another may take to let go.
        values: what changes with it.

    Raises:
        UploadGone: it was ended, or has become a File.
        UploadLocked: another does not let go.
    """
    held = _claim(row.id, patience_seconds, values)
    try:
        yield held
    except BaseException:
        release(held)
        raise


def _claim(upload_id: str, patience_seconds: float, values: dict[str, Any]) -> DirectRow:
    deadline, run = time.monotonic() + patience_seconds, new_id()
    while True:
        now = utcnow()
        is_free = or_(DirectUpload.claim.is_(None), DirectUpload.look_at <= now)
        free = update(_TABLE).where(DirectUpload.id == upload_id, UNFINISHED, is_free)
        mine = free.values(claim=run, look_at=now + _lease(), **values).returning(_TABLE)
        with transaction() as connection:
            found = connection.execute(mine).first()
        if found:
            return cast(DirectRow, found)
        there = find(upload_id)
        if there is None or there.gone_at or there.finished_at:
            raise UploadGone(GONE)
        if time.monotonic() >= deadline:
            raise UploadLocked("Another request verifies this upload; try again.")
        time.sleep(LOOK_SECONDS)


def _lease() -> timedelta:
    """Return how long whoever verifies an upload may stay silent."""
    return timedelta(seconds=services().config.LEASE_SECONDS)


def renew(row: DirectRow) -> None:
    """Keep an upload that is held.

    Raises:
        UploadGone: another has taken it, or it was ended.
    """
    with transaction() as connection:
        _change(connection, row, look_at=utcnow() + _lease())


def release(row: DirectRow) -> None:
    """Let an upload go that is held; if it is unfinished, the sweep looks at it again after a pause that grows."""
    now = utcnow()
    age = (now - row.created_at).total_seconds()
    pause = timedelta(seconds=min(max(age, FIRST_LOOK_SECONDS), LAST_LOOK_SECONDS))
    with transaction() as connection:
        mine = update(DirectUpload).where(DirectUpload.id == row.id, DirectUpload.claim == row.claim)
        connection.execute(mine.values(claim=None, look_at=now + pause))


def extend(connection: Connection, row: DirectRow, expires_at: datetime) -> None:
    """Let an upload in parts live longer, because its client goes on; in the transaction of the caller."""
    mine = update(DirectUpload).where(DirectUpload.id == row.id, UNFINISHED)
    connection.execute(mine.values(expires_at=expires_at, updated_at=utcnow()))


def finish(connection: Connection, row: DirectRow) -> None:
    """Note that an upload which is held has become a File, in the transaction of the caller.

    Raises:
        UploadGone: another has taken it, or it was ended.
    """
    now = utcnow()
    _change(connection, row, finished_at=now, updated_at=now)


def promise(connection: Connection, row: DirectRow) -> None:
    """Note that an upload which is held has a File that is yet to be verified; else as `finish`."""
    _change(connection, row, promised=True)


def _change(connection: Connection, row: DirectRow, **values: Any) -> None:
    mine = update(DirectUpload).where(DirectUpload.id == row.id, DirectUpload.claim == row.claim, UNFINISHED)
    if connection.execute(mine.values(**values)).rowcount != 1:
        raise UploadGone(GONE)


def due(limit: int, owner: str | None = None) -> Sequence[DirectRow]:
    """Return unfinished uploads that are to be looked at, the longest due first.

    Args:
        limit: how many.
        owner: only this owner's, and all that nobody holds, due or not; None for those of all.
    """
    statement = select(_TABLE).where(UNFINISHED).order_by(DirectUpload.look_at).limit(limit)
    is_due = DirectUpload.look_at <= utcnow()
    if owner is None:
        return _ROWS.read(statement.where(is_due))
    return _ROWS.read(statement.where(DirectUpload.owner == owner, or_(is_due, DirectUpload.claim.is_(None))))


def is_waiting(upload_id: str) -> bool:
    """Returns True if there is such an upload, and it is unfinished."""
    row = find(upload_id)
    return row is not None and not row.finished_at and not row.gone_at


def unfinished_keys(keys: Sequence[str]) -> set[str]:
    """Return those of these keys at which bytes of an upload in progress may be."""
    names = (DirectUpload.key, DirectUpload.landing_key)
    with db.engine.connect() as connection:
        found: set[str] = set()
        for name in names:
            found |= set(connection.scalars(select(name).where(name.in_(keys), UNFINISHED)))
        return found


def count() -> int:
    """Return the number of direct uploads in progress."""
    with db.engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(DirectUpload).where(UNFINISHED)) or 0


def ended_long_ago(limit: int) -> Sequence[DirectRow]:
    """Return uploads that ended a day ago."""
    has_ended = or_(DirectUpload.finished_at.is_not(None), DirectUpload.gone_at.is_not(None))
    return _ROWS.read(select(_TABLE).where(DirectUpload.updated_at <= utcnow() - KEPT, has_ended).limit(limit))


def forget(upload_ids: Sequence[str]) -> None:
    """Delete rows."""
    with transaction() as connection:
        connection.execute(delete(DirectUpload).where(DirectUpload.id.in_(upload_ids)))
