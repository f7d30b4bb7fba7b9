"""The row of an upload in progress, and its moves. With its last byte it becomes a File of the same id."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
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
    select,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from core.database import db, transaction, utcnow
from intake.upload_rows import KEPT, UNFINISHED, AnyRow, InProgress, Rows

PARTIAL, FINAL = "partial", "final"
NO_BYTES = "AAAAAAAAAAA="
"""The CRC64NVME of nothing."""


class Upload(InProgress, db.Model):  # type: ignore[name-defined,misc]
    """An upload in progress. Its row is a checkpoint: the truth is its file, which may be further.

    `offset` only ever grows. Each move is one conditional UPDATE, so that of two requests one wins.
    """

    __tablename__ = "uploads"
    __table_args__ = (
        Index("ix_uploads_expires_at", "expires_at"),
        Index("ix_uploads_owner", "owner", postgresql_where=UNFINISHED, sqlite_where=UNFINISHED),
    )

    way: Mapped[str] = mapped_column(String(8))
    mode: Mapped[str] = mapped_column(String(16))
    detected_type: Mapped[str] = mapped_column(String(255), default="")
    upload_metadata: Mapped[str | None] = mapped_column(Text)
    """Upload-Metadata as the client sent it."""
    digest: Mapped[str | None] = mapped_column(Text)
    """The Repr-Digest that the whole file must have."""
    concat: Mapped[str | None] = mapped_column(Text)
    """Upload-Concat as the client sent it."""
    parts: Mapped[str | None] = mapped_column(Text)
    """The ids of what a final upload joins, as JSON."""
    length: Mapped[int | None] = mapped_column(BigInteger)
    offset: Mapped[int] = mapped_column(BigInteger, default=0)
    crc64nvme: Mapped[str] = mapped_column(String(12), default=NO_BYTES)
    """Of the bytes before the offset."""
    closing: Mapped[bool] = mapped_column(Boolean, default=True)
    """False while the client may still say that more comes, even if its length is reached (RUFH)."""
    tentative: Mapped[bool] = mapped_column(Boolean, default=False)
    """True while bytes behind the offset are yet to be verified."""
    spool_id: Mapped[str] = mapped_column(String(32))


UploadRow = AnyRow
_TABLE = Upload.__table__
_ROWS = Rows(_TABLE)
insert_row, find, earlier, end = _ROWS.insert, _ROWS.find, _ROWS.earlier, _ROWS.end
count_unfinished, unfinished = _ROWS.count_unfinished, _ROWS.unfinished


def is_whole(row: UploadRow) -> bool:
    """Returns True if all its bytes are known to be here."""
    return bool(row.closing) and row.offset == row.length


def move(connection: Connection, row: UploadRow, **values: Any) -> UploadRow | None:
    """Change an unfinished upload, in the transaction of the caller.

    Args:
        connection: the transaction.
        row: as the caller has read it.
        values: what changes.

    Returns:
        The row as it is now; None if another request has changed it meanwhile, and nothing is written.
    """
    unchanged = [Upload.id == row.id, Upload.offset == row.offset, Upload.length.is_not_distinct_from(row.length)]
    changed = update(_TABLE).where(*unchanged, UNFINISHED).values(updated_at=utcnow(), **values)
    return cast(UploadRow | None, connection.execute(changed.returning(_TABLE)).first())


def among(ids: Sequence[str]) -> Sequence[UploadRow]:
    """Return the rows with these ids."""
    return _ROWS.read(select(_TABLE).where(Upload.id.in_(ids))) if ids else []


def finals(owner: str) -> Sequence[UploadRow]:
    """Return an owner's final uploads that are not joined yet."""
    return _ROWS.read(select(_TABLE).where(Upload.owner == owner, Upload.parts.is_not(None), UNFINISHED))


def quiet(spool_id: str, since: timedelta) -> Sequence[UploadRow]:
    """Return the unfinished uploads of a spool that no request has changed for a time."""
    before = utcnow() - since
    return _ROWS.read(select(_TABLE).where(Upload.spool_id == spool_id, Upload.updated_at <= before, UNFINISHED))


def expired(spool_ids: Sequence[str], limit: int) -> Sequence[UploadRow]:
    """Return unfinished uploads of spools whose time is over, the oldest first."""
    is_over = select(_TABLE).where(Upload.spool_id.in_(spool_ids), Upload.expires_at <= utcnow(), UNFINISHED)
    return _ROWS.read(is_over.order_by(Upload.expires_at).limit(limit))


def unfinished_keys(keys: Sequence[str]) -> set[str]:
    """Return those of these keys to which an upload in progress will go."""
    with db.engine.connect() as connection:
        return set(connection.scalars(select(Upload.key).where(Upload.key.in_(keys), UNFINISHED)))


def totals() -> tuple[int, int]:
    """Return the number of uploads in progress, and the bytes that they are known to have."""
    statement = select(func.count(), func.coalesce(func.sum(Upload.offset), 0)).where(UNFINISHED)
    with db.engine.connect() as connection:
        count, size = connection.execute(statement).one()
        return int(count), int(size)


def forget_old() -> None:
    """Delete the rows of uploads that ended a day ago."""
    before = utcnow() - KEPT
    with transaction() as connection:
        connection.execute(delete(Upload).where((Upload.finished_at <= before) | (Upload.gone_at <= before)))
