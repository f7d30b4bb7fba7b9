"""The row of an upload in progress, and its moves. With its last byte it becomes a File of the same id."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Index,
    Row,
    String,
    Text,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from access.principal import Principal, load_limits
from core.database import UtcDateTime, db, transaction, utcnow

KEPT = timedelta(days=1)
"""How long the row outlives the upload, for a client that has not seen the last answer."""
UNFINISHED = text("finished_at IS NULL AND gone_at IS NULL")
PARTIAL, FINAL = "partial", "final"
NO_BYTES = "AAAAAAAAAAA="
"""The CRC64NVME of nothing."""


class Upload(db.Model):  # type: ignore[name-defined,misc]
    """An upload in progress. Its row is a checkpoint: the truth is its file, which may be further.

    `offset` only ever grows. Each move is one conditional UPDATE, so that of two requests one wins.
    """

    __tablename__ = "uploads"
    __table_args__ = (
        Index("ix_uploads_expires_at", "expires_at"),
        Index("ix_uploads_owner", "owner", postgresql_where=UNFINISHED, sqlite_where=UNFINISHED),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str | None] = mapped_column(String(255))
    token_id: Mapped[str | None] = mapped_column(String(32))
    limits: Mapped[str] = mapped_column(Text)
    """Those of the credential that created it, as JSON."""
    way: Mapped[str] = mapped_column(String(8))
    mode: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(Text)
    content_type: Mapped[str] = mapped_column(String(255))
    detected_type: Mapped[str] = mapped_column(String(255), default="")
    key: Mapped[str] = mapped_column(String(255))
    options: Mapped[str] = mapped_column(Text)
    """The texts of what is asked for besides, as JSON."""
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
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    gone_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


UploadRow = Row[tuple[Any, ...]]


def insert_row(connection: Connection, values: dict[str, Any]) -> UploadRow:
    """Write a new row, in the transaction of the caller. Returns it."""
    return cast(UploadRow, connection.execute(_INSERT, values).one())


def find(upload_id: str) -> UploadRow | None:
    """Return the row, or None; holds no connection afterwards."""
    with db.engine.connect() as connection:
        return cast(UploadRow | None, connection.execute(_BY_ID, {"upload": upload_id}).first())


def is_own(row: Row[Any], principal: Principal) -> bool:
    """Returns True if a principal may see the upload, as it may see the File that comes of it."""
    return row.owner == principal.owner and principal.subject in (None, row.subject)


def principal_of(row: Row[Any]) -> Principal:
    """Return for whom an upload was created, with the limits of then."""
    return Principal(row.owner, row.subject, limits=load_limits(row.limits), token_id=row.token_id)


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


def end(connection: Connection, upload_ids: Sequence[str]) -> int:
    """End unfinished uploads for good, in the transaction of the caller. Returns how many it has ended."""
    now = utcnow()
    ending = update(Upload).where(Upload.id.in_(upload_ids), UNFINISHED)
    return connection.execute(ending.values(gone_at=now, updated_at=now)).rowcount


def count_unfinished(connection: Connection, owner: str) -> int:
    """Return how many uploads of an owner are in progress."""
    return connection.execute(_COUNT, {"owner": owner}).scalar_one()


def among(ids: Sequence[str]) -> Sequence[UploadRow]:
    """Return the rows with these ids."""
    return _read(select(_TABLE).where(Upload.id.in_(ids))) if ids else []


def finals(owner: str) -> Sequence[UploadRow]:
    """Return an owner's final uploads that are not joined yet."""
    return _read(select(_TABLE).where(Upload.owner == owner, Upload.parts.is_not(None), UNFINISHED))


def quiet(spool_id: str, since: timedelta) -> Sequence[UploadRow]:
    """Return the unfinished uploads of a spool that no request has changed for a time."""
    before = utcnow() - since
    return _read(select(_TABLE).where(Upload.spool_id == spool_id, Upload.updated_at <= before, UNFINISHED))


def expired(spool_ids: Sequence[str], limit: int) -> Sequence[UploadRow]:
    """Return unfinished uploads of spools whose time is over, the oldest first."""
    is_over = select(_TABLE).where(Upload.spool_id.in_(spool_ids), Upload.expires_at <= utcnow(), UNFINISHED)
    return _read(is_over.order_by(Upload.expires_at).limit(limit))


def unfinished(limit: int) -> Sequence[UploadRow]:
    """Return the uploads in progress, those first that expire first."""
    return _read(select(_TABLE).where(UNFINISHED).order_by(Upload.expires_at).limit(limit))


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


def _read(statement: Any) -> Sequence[UploadRow]:
    with db.engine.connect() as connection:
        return connection.execute(statement).all()


_TABLE = Upload.__table__
# What every request runs is made once: building a statement takes as long as running it.
_BY_ID = select(_TABLE).where(Upload.id == bindparam("upload"))
_INSERT = insert(_TABLE).returning(_TABLE)
_COUNT = select(func.count()).select_from(Upload).where(Upload.owner == bindparam("owner"), UNFINISHED)
