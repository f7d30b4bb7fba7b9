"""Queries over many File rows: pages of an owner, what is due, what is left of lost spools, counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
)
from sqlalchemy.orm import aliased

from core import metadata
from core.database import BATCH, UtcDateTime, batched, db, utcnow
from core.file_row import FileRow
from core.metadata import Metadata
from core.names import fold
from models import (
    ERASED,
    EXPIRES,
    IS_READY,
    ORIGINAL,
    UNDELIVERED,
    UNMADE,
    File,
    MetadataEntry,
    Mode,
    UploadStatus,
    is_due,
    read_rows,
)
from storage import spools


def page(
    owner: str,
    limit: int,
    before: tuple[datetime, str] | None = None,
    status: UploadStatus | None = None,
    mode: Mode | None = None,
    name: str | None = None,
    subject: str | None = None,
    words: Metadata | None = None,
    parent: str | None = None,
) -> Sequence[FileRow]:
    """Return a page of an owner's rows, newest first.

    Args:
        owner: the owner.
        limit: the size of the page, in rows.
        before: creation time and id of the last row of the page before.
        status: only rows with this status.
        mode: only rows with this mode.
        name: only rows whose name contains this, in any case and Unicode form.
        subject: only rows of this user.
        words: only rows whose metadata has all of these.
        parent: only what was derived from this original; None for originals.
    """
    is_of_parent = File.parent_id == parent if parent else ORIGINAL
    statement = select(File).where(File.owner == owner, File.erased_at.is_(None), is_of_parent)
    order = File.created_at, File.id
    for count, pair in enumerate((words or {}).items()):
        entry = aliased(MetadataEntry)
        is_pair = and_(entry.owner == owner, entry.digest == metadata.digest(*pair))
        if count:  # by the whole primary key
            is_same = entry.created_at == order[0], entry.file_id == order[1]
            statement = statement.where(exists().where(is_pair, *is_same))
        else:  # the index of the entries has the order, so a page is read from its start
            statement = statement.join(entry, and_(is_pair, entry.file_id == File.id))
            order = entry.created_at, entry.file_id
    if subject is not None:
        statement = statement.where(File.subject == subject)
    if before:
        statement = statement.where(tuple_(*order) < tuple_(*before))
    if status:
        statement = statement.where(File.upload_status == status)
    if mode:
        statement = statement.where(File.mode == mode)
    if name:
        # A version before revision 0008, which runs on during an upgrade, writes rows without it.
        is_older = and_(File.name_search == "", File.name.icontains(name, autoescape=True))
        statement = statement.where(or_(File.name_search.contains(fold(name), autoescape=True), is_older))
    return read_rows(statement.order_by(*(column.desc() for column in order)).limit(limit))


def count_in_flight(connection: Connection, holders: Sequence[Mapping[str, str]]) -> Sequence[int]:
    """Return the numbers of files that a host still delivers, in the transaction of the caller.

    Args:
        connection: the transaction.
        holders: whose files, each by `owner` and perhaps `subject`; the first includes the others. Other names in
            them are passed over.
    """
    names = tuple(tuple(name for name in ("owner", "subject") if name in holder) for holder in holders)
    values = {name: value for holder in holders for name, value in holder.items()}
    return connection.execute(_in_flight_of(names), {**values, "lost_before": spools.lost_before()}).one()


def is_of(table: type[Any], columns: Iterable[str]) -> ColumnElement[bool]:
    """Return the condition that rows have in these columns what the parameters of the same names say."""
    return and_(*(getattr(table, column) == bindparam(column) for column in columns))


@cache
def _in_flight_of(holders: tuple[tuple[str, ...], ...]) -> Select[*tuple[int, ...]]:
    """Return the statement for holders with these names; building it takes as long as running it."""
    owns = [is_of(File, names) for names in holders]
    counts = [func.count(case((is_its, 1))) for is_its in owns[1:]]
    has_host = File.spool_id.not_in(spools.lost_ids(bindparam("lost_before", type_=UtcDateTime)))
    return select(func.count(), *counts).where(owns[0], UNDELIVERED, ORIGINAL, has_host)


def among(ids: Iterable[str]) -> Iterator[FileRow]:
    """Yield the rows that exist of these ids; read in batches."""
    for batch in batched(ids):
        yield from read_rows(select(File).where(File.id.in_(batch)))


def due(spool_id: str, limit: int) -> Sequence[str]:
    """Return the ids of a spool's undelivered rows that no run holds, the longest due first."""
    statement = select(File.id).where(UNDELIVERED, IS_READY, File.spool_id == spool_id, is_due())
    with db.engine.connect() as connection:
        return connection.scalars(statement.order_by(File.due_at).limit(limit)).all()


def to_make(spool_id: str, limit: int) -> Sequence[FileRow]:
    """Return due derivatives of a spool, and of lost ones, that are not made yet; quick ones, images, first."""
    lost = spools.lost_ids(literal(spools.lost_before(), UtcDateTime))
    statement = select(File).where(UNMADE, or_(File.spool_id == spool_id, File.spool_id.in_(lost)), is_due())
    return read_rows(statement.order_by(File.output.desc(), File.due_at).limit(limit))


def is_needed(file_id: str) -> bool:
    """Returns True if a derivative is still to be made of this original."""
    statement = select(exists().where(UNMADE, File.parent_id == file_id))
    with db.engine.connect() as connection:
        return bool(connection.scalar(statement))


def processing_seconds(owner: str, since: datetime) -> float:
    """Return the computing of the children that have made derivatives of an owner's files since a time."""
    statement = select(func.sum(File.cpu_seconds)).where(
        File.owner == owner, File.created_at >= since, File.parent_id.is_not(None)
    )
    with db.engine.connect() as connection:
        return connection.scalar(statement) or 0.0


def derivatives(parent_ids: Sequence[str], connection: Connection | None = None) -> Sequence[FileRow]:
    """Return what was derived from some originals, in the order of its making.

    Args:
        parent_ids: the originals.
        connection: the transaction of the caller, if it has one.
    """
    statement = select(File).where(File.parent_id.in_(parent_ids), File.erased_at.is_(None))
    statement = statement.order_by(File.created_at, File.sheet_no, File.id)
    if connection is None:
        return read_rows(statement)
    return cast(Sequence[FileRow], connection.execute(statement).all())


def expired(spool_ids: Sequence[str]) -> Sequence[str]:
    """Return the ids of due rows of these spools whose retry window is over."""
    statement = select(File.id).where(UNDELIVERED, IS_READY, File.spool_id.in_(spool_ids), is_due())
    with db.engine.connect() as connection:
        return connection.scalars(statement.where(File.retry_until < utcnow()).limit(BATCH)).all()


def erased(spool_ids: Sequence[str]) -> Sequence[FileRow]:
    """Return a batch of the erased rows of these spools whose lease, if any, has run out."""
    statement = select(File).where(ERASED, File.spool_id.in_(spool_ids), is_due()).limit(BATCH)
    return read_rows(statement)


def over() -> Sequence[str]:
    """Return a batch of the ids of rows whose time is over, the longest over first."""
    statement = select(File.id).where(EXPIRES, File.expires_at <= utcnow()).order_by(File.expires_at).limit(BATCH)
    with db.engine.connect() as connection:
        return connection.scalars(statement).all()


def ended(spool_ids: Sequence[str], status: UploadStatus, before: datetime) -> Sequence[str]:
    """Return a batch of the ids of these spools' rows that have been in a final status since a time."""
    statement = select(File.id).where(
        File.upload_status == status,
        File.created_at < before,
        File.updated_at < before,
        File.erased_at.is_(None),
        File.spool_id.in_(spool_ids),
    )
    with db.engine.connect() as connection:
        return connection.scalars(statement.order_by(File.created_at).limit(BATCH)).all()


def oldest_undelivered() -> datetime | None:
    """Return when the oldest PENDING or PROCESSING row was created; None without one."""
    # One question for each status, because each is answered by the first entry of an index.
    statuses = (UploadStatus.PENDING, UploadStatus.PROCESSING)
    first = select(func.min(File.created_at))
    with db.engine.connect() as connection:
        oldest = [connection.scalar(first.where(File.upload_status == status, ORIGINAL)) for status in statuses]
    return min((moment for moment in oldest if moment), default=None)


def count_undelivered() -> dict[str, int]:
    """Return the number of PENDING and of PROCESSING rows."""
    statement = select(File.upload_status, func.count()).where(UNDELIVERED, ORIGINAL).group_by(File.upload_status)
    counts = {str(status): 0 for status in (UploadStatus.PENDING, UploadStatus.PROCESSING)}
    with db.engine.connect() as connection:
        return counts | {str(status): count for status, count in connection.execute(statement)}
