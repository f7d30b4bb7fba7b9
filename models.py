"""The File row: the only truth about an upload, and every legal move of its status."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

from blinker import NamedSignal, Namespace
from flask import current_app
from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    Double,
    Enum,
    Index,
    Select,
    String,
    Text,
    TextClause,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    not_,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.sql.dml import ReturningUpdate

from core import metadata
from core.database import UtcDateTime, db, transaction, utcnow
from core.file_row import FileRow
from core.names import fold

LONGEST_DELAY = timedelta(seconds=600)  # no lease and no pause between attempts lasts longer

STATUS, PROGRESS = "status", "progress"

# The app sends each signal in the transaction of the change, with its `connection` and the `file_id`.
_signals = Namespace()

file_changed = _signals.signal("file-changed")
"""A file is new, or has another status (`kind` STATUS), or more of it was sent (`kind` PROGRESS)."""

file_completed = _signals.signal("file-completed")
"""A file that asks for processing has become COMPLETE; sent before `file_ended`."""

file_ended = _signals.signal("file-ended")
"""A file has become COMPLETE or ERROR."""

file_settled = _signals.signal("file-settled")
"""A COMPLETE file has its SHA-256, or will never have one; or a file was deleted."""

file_expired = _signals.signal("file-expired")
"""A file was deleted because its time was over."""


class Mode(enum.StrEnum):
    """How a file goes to S3: in the request, by a background thread, by a Celery worker, or from its client."""

    NORMAL = "normal"
    ASYNC = "async"
    CELERY = "celery"
    DIRECT = "direct"


PROXIED = (Mode.NORMAL, Mode.ASYNC, Mode.CELERY)
"""The modes in which this service has the bytes."""
IN_BUCKET = "s3"
"""Stands for the spool of a file that its client has sent to the bucket."""


class UploadStatus(enum.StrEnum):
    """The status of an upload. COMPLETE is final."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETE = "COMPLETE"
    ERROR = "ERROR"

    @property
    def is_final(self) -> bool:
        """True if no run works on the file any more: COMPLETE, or ERROR unless its owner retries it."""
        return self in (UploadStatus.COMPLETE, UploadStatus.ERROR)


# Literal, not bound: only so SQLite sees that it is the condition of a partial index.
UNDELIVERED = text("upload_status IN ('PENDING', 'PROCESSING')")
ERASED = text("erased_at IS NOT NULL")
EXPIRES = text("expires_at IS NOT NULL AND erased_at IS NULL")
OF_USER = text("subject IS NOT NULL")
ORIGINAL = text("parent_id IS NULL")
DERIVED = text("parent_id IS NOT NULL AND erased_at IS NULL")
UNMADE = text("parent_id IS NOT NULL AND made_at IS NULL AND upload_status IN ('PENDING', 'PROCESSING')")
UNDELIVERED_OF_USER = text("subject IS NOT NULL AND upload_status IN ('PENDING', 'PROCESSING')")


class MetadataEntry(db.Model):  # type: ignore[name-defined,misc]
    """One name of a file's metadata with its value, for searches."""

    __tablename__ = "file_metadata"
    __table_args__ = (Index("ix_file_metadata_file_id", "file_id"),)

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    digest: Mapped[str] = mapped_column(String(32), primary_key=True)
    """Of the name and the value."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True)
    """The file's, so that the index gives the newest first."""
    file_id: Mapped[str] = mapped_column(String(32), primary_key=True)

    @classmethod
    def write(cls, connection: Connection, row: FileRow, words: metadata.Metadata) -> None:
        """Write the entries of a row's metadata, in the transaction of the caller."""
        same = {"owner": row.owner, "created_at": row.created_at, "file_id": row.id}
        entries = [{**same, "digest": metadata.digest(*pair)} for pair in words.items()]
        if entries:
            connection.execute(insert(cls), entries)


class File(db.Model):  # type: ignore[name-defined,misc]
    """One upload. Its status changes only by the moves below, each one conditional UPDATE.

    PENDING -> PROCESSING -> COMPLETE | ERROR; PROCESSING -> PENDING when a lease has run out or a retry is due.
    """

    __tablename__ = "files"
    __table_args__ = (
        Index(
            "ix_files_spool_id_due_at",
            "spool_id",
            "due_at",
            postgresql_where=UNDELIVERED,
            sqlite_where=UNDELIVERED,
        ),
        Index("ix_files_owner", "owner", postgresql_where=UNDELIVERED, sqlite_where=UNDELIVERED),
        Index("ix_files_owner_created_at", "owner", "created_at", "id"),
        Index(
            "ix_files_subject_created_at",
            "owner",
            "subject",
            "created_at",
            "id",
            postgresql_where=OF_USER,
            sqlite_where=OF_USER,
        ),
        Index(
            "ix_files_subject",
            "owner",
            "subject",
            postgresql_where=UNDELIVERED_OF_USER,
            sqlite_where=UNDELIVERED_OF_USER,
        ),
        Index("ix_files_expires_at", "expires_at", postgresql_where=EXPIRES, sqlite_where=EXPIRES),
        Index("ix_files_upload_status_created_at", "upload_status", "created_at", "id"),
        Index("ix_files_erased_at", "erased_at", postgresql_where=ERASED, sqlite_where=ERASED),
        Index("ix_files_unmade", "spool_id", "due_at", postgresql_where=UNMADE, sqlite_where=UNMADE),
        Index(
            "ix_files_parent_id",
            "parent_id",
            "recipe_digest",
            "output",
            "sheet_no",
            unique=True,
            postgresql_where=DERIVED,
            sqlite_where=DERIVED,
        ),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str | None] = mapped_column(String(255))
    name: Mapped[str] = mapped_column(Text)
    name_search: Mapped[str] = mapped_column(Text, server_default="")
    key: Mapped[str] = mapped_column(String(255), unique=True)
    mode: Mapped[str] = mapped_column(String(16))
    size: Mapped[int] = mapped_column(BigInteger)
    content_type: Mapped[str] = mapped_column(String(255))
    detected_type: Mapped[str] = mapped_column(String(255), server_default="")
    crc64nvme: Mapped[str] = mapped_column(String(12))
    user_metadata: Mapped[str | None] = mapped_column(Text)
    spool_id: Mapped[str] = mapped_column(String(32))
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
    retry_until: Mapped[datetime] = mapped_column(UtcDateTime)
    upload_status: Mapped[UploadStatus] = mapped_column(
        Enum(UploadStatus, native_enum=False, length=16, create_constraint=False),
        default=UploadStatus.PENDING,
    )
    url: Mapped[str | None] = mapped_column(Text)
    sha256: Mapped[str | None] = mapped_column(String(64))
    bytes_sent: Mapped[int] = mapped_column(BigInteger, default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(Text)
    lease_owner: Mapped[str | None] = mapped_column(String(32))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow, onupdate=utcnow)
    completed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    erased_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    process: Mapped[str | None] = mapped_column(Text)
    parent_id: Mapped[str | None] = mapped_column(String(32))
    recipe: Mapped[str | None] = mapped_column(Text)
    recipe_digest: Mapped[str | None] = mapped_column(String(16))
    output: Mapped[str | None] = mapped_column(String(16))
    sheet_no: Mapped[int | None] = mapped_column()
    made_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    summary: Mapped[str | None] = mapped_column(Text)
    cpu_seconds: Mapped[float | None] = mapped_column(Double)

    @classmethod
    def draft(cls, name: str, **values: Any) -> FileRow:
        """Return a row that is about to be written; columns that are not given are None."""
        # Not an ORM object, which takes longer to make than the statement to run.
        return cast(FileRow, SimpleNamespace(**_NO_VALUES | values | {"name": name, "name_search": fold(name)}))

    @classmethod
    def insert(cls, connection: Connection, draft: FileRow) -> None:
        """Write a new row, in the transaction of the caller."""
        connection.execute(_INSERT, vars(draft))
        MetadataEntry.write(connection, draft, metadata.load(draft.user_metadata))
        _send(file_changed, connection, draft.id, kind=STATUS)

    @classmethod
    def insert_complete(cls, connection: Connection, draft: FileRow) -> None:
        """Write a new row of a file that is in S3 already, in the transaction of the caller."""
        cls.insert(connection, draft)
        if draft.process:
            _send(file_completed, connection, draft.id)
        _send(file_ended, connection, draft.id)

    @classmethod
    def find(cls, file_id: str) -> FileRow | None:
        """Return the row, or None; holds no connection afterwards."""
        with db.engine.connect() as connection:
            return cast(FileRow | None, connection.execute(_BY_ID, {"file_id": file_id}).first())

    @classmethod
    def find_own(cls, file_id: str, owner: str, subject: str | None = None) -> FileRow | None:
        """Return the owner's row, or None if it is missing, deleted or somebody else's.

        Args:
            file_id: the row.
            owner: whose it must be.
            subject: the user of the owner whose it must be; None for anybody's.
        """
        of_owner = {"file_id": file_id, "owner": owner}
        own = (_OWN_BY_ID, of_owner) if subject is None else (_USERS_BY_ID, {**of_owner, "subject": subject})
        with db.engine.connect() as connection:
            return cast(FileRow | None, connection.execute(*own).first())

    @classmethod
    def claim(
        cls,
        file_id: str,
        run_id: str,
        lease_seconds: float,
        spool_id: str | None = None,
        to_make: bool = False,
    ) -> FileRow | None:
        """Claim the row for one run, if it is PENDING, or PROCESSING with an expired lease.

        Args:
            file_id: the row.
            run_id: a name that is new for every run.
            lease_seconds: how long the run may stay silent.
            spool_id: the spool in which the bytes must be; None for a run that brings them itself.
            to_make: whether the run makes a derivative that has no bytes yet; only such a run can claim one.

        Returns:
            The claimed row, or None if another run has it, or there is nothing left to do.
        """
        now = utcnow()
        claim = {
            "of_file": file_id,
            "run": run_id,
            "in_spool": spool_id,
            "now": now,
            "far": now + LONGEST_DELAY,
            "until": now + timedelta(seconds=lease_seconds),
        }
        with transaction() as connection:
            claimed = connection.execute(_CLAIM_TO_MAKE if to_make else _CLAIM, claim).first()
            if claimed:
                _send(file_changed, connection, file_id, kind=STATUS)
            return cast(FileRow | None, claimed)

    @classmethod
    def renew(cls, file_id: str, run_id: str, lease_seconds: float, bytes_sent: int | None = None) -> bool:
        """Renew the run's lease, and record its progress. Returns False if the run has lost the lease."""
        progress: dict[str, Any] = {} if bytes_sent is None else {"bytes_sent": bytes_sent}
        due_at = utcnow() + timedelta(seconds=lease_seconds)
        kind = PROGRESS if progress else None
        return cls._move(file_id, cls._held_by(run_id), kind, due_at=due_at, **progress)

    @classmethod
    def complete(cls, file_id: str, run_id: str, url: str, sha256: str | None) -> bool:
        """PROCESSING -> COMPLETE, with the SHA-256 if known. Returns False if the run has lost its lease."""
        return cls._end(_COMPLETE, of_file=file_id, run=run_id, to_url=url, to_sha256=sha256, now=utcnow())

    @classmethod
    def verified(cls, file_id: str, run_id: str, url: str, **facts: Any) -> bool:
        """PROCESSING -> COMPLETE of a file of which little was known. Returns False if the run has lost its lease.

        Args:
            file_id: the row.
            run_id: the run that holds it.
            url: the object's address.
            facts: the columns that are known now.
        """
        with transaction() as connection:
            connection.execute(update(cls).where(cls.id == file_id, *cls._held_by(run_id)).values(**facts))
            ending = {"run": run_id, "to_url": url, "to_sha256": None, "now": utcnow()}
            return cls._end_in(connection, _COMPLETE, of_file=file_id, **ending)

    @classmethod
    def made(
        cls,
        run_id: str,
        values: Mapping[str, Mapping[str, Any]],
        further: Sequence[FileRow],
        nothing: str,
    ) -> Collection[str] | None:
        """Record what a run has made of an original, in one transaction; the rows wait for their delivery.

        Args:
            run_id: the run that holds the rows.
            values: the columns of what was made, by the ids of the derivatives; none where nothing was. The first
                stays the run's, the others become PENDING.
            further: new rows of what was made besides.
            nothing: the reason where nothing was made.

        Returns:
            The ids of the derivatives that have their bytes now; None if the run has lost the first, and nothing
            is recorded.
        """
        now, taken, first = utcnow(), {row.id for row in further}, next(iter(values))
        free = {"upload_status": UploadStatus.PENDING, "lease_owner": None, "due_at": now}
        with transaction() as connection:
            held = select(cls.id).where(cls.id.in_(values), *cls._held_by(run_id)).order_by(cls.id)
            ours = connection.scalars(held.with_for_update()).all()
            if first not in ours:
                return None
            for one in ours:
                if columns := values[one]:
                    changed = {**columns, "made_at": now, **({} if one == first else free)}
                    connection.execute(update(cls).where(cls.id == one).values(**changed))
                    taken.add(one)
                else:
                    cls._end_in(connection, _FAIL, of_file=one, run=run_id, reason=nothing)
            for row in further:
                cls.insert(connection, row)
            return taken

    @classmethod
    def unmake(cls, file_id: str, run_id: str) -> bool:
        """PROCESSING -> PENDING, to be made again: its bytes are lost. Returns False if the lease is lost."""
        return cls._move(
            file_id,
            cls._held_by(run_id),
            upload_status=UploadStatus.PENDING,
            made_at=None,
            lease_owner=None,
            due_at=utcnow(),
        )

    @classmethod
    def digested(cls, file_id: str, sha256: str | None) -> bool:
        """Record a COMPLETE row's SHA-256, or that it has none. Returns False for any other row."""
        lacks_it = [cls.upload_status == UploadStatus.COMPLETE, cls.sha256.is_(None)]
        return cls._move(file_id, lacks_it, None, file_settled, sha256=sha256)

    @classmethod
    def fail(cls, file_id: str, run_id: str, error: str) -> bool:
        """PROCESSING -> ERROR, with a reason for the client. Returns False if the run has lost its lease."""
        return cls._end(_FAIL, of_file=file_id, run=run_id, reason=error)

    @classmethod
    def give_back(cls, file_id: str, run_id: str, delay_seconds: float, error: str | None = None) -> bool:
        """PROCESSING -> PENDING, with an attempt after a delay. Returns False if the run has lost its lease."""
        return cls._move(
            file_id,
            cls._held_by(run_id),
            upload_status=UploadStatus.PENDING,
            error=error,
            lease_owner=None,
            due_at=utcnow() + timedelta(seconds=delay_seconds),
        )

    @classmethod
    def put_forward(cls, file_id: str, delay_seconds: float = 0) -> bool:
        """Make a PENDING row due now, because its hand-off failed; or after a delay, because another has it."""
        due_at = utcnow() + timedelta(seconds=delay_seconds)
        return cls._move(file_id, [cls.upload_status == UploadStatus.PENDING], None, due_at=due_at)

    @classmethod
    def retry(cls, file_id: str, window_seconds: float, make: bool = False) -> bool:
        """ERROR -> PENDING, as if the file were new. Returns False if the row is not in ERROR.

        Args:
            file_id: the row.
            window_seconds: for how long its delivery is tried.
            make: whether the bytes must be made again first.
        """
        now = utcnow()
        return cls._move(
            file_id,
            [cls.upload_status == UploadStatus.ERROR, cls.erased_at.is_(None)],
            upload_status=UploadStatus.PENDING,
            error=None,
            attempts=0,
            due_at=now,
            retry_until=now + timedelta(seconds=window_seconds),
            **({"made_at": None} if make else {}),
        )

    @classmethod
    def edit(cls, row: FileRow, name: str, words: metadata.Metadata) -> bool:
        """Change the shown name and the metadata. Returns False if they are not as in `row` any more."""
        known = metadata.load(row.user_metadata)
        is_same = [cls.name == row.name, cls.user_metadata.is_not_distinct_from(row.user_metadata)]
        values = {
            "name": name,
            "name_search": fold(name),
            "user_metadata": metadata.dump(words) if words else None,
        }
        changed = update(cls).where(cls.id == row.id, cls.erased_at.is_(None), *is_same).values(**values)
        with transaction() as connection:
            if connection.execute(changed).rowcount != 1:
                return False
            if words != known:
                connection.execute(delete(MetadataEntry).where(MetadataEntry.file_id == row.id))
                MetadataEntry.write(connection, row, words)
            _send(file_changed, connection, row.id, kind=STATUS)
            return True

    @classmethod
    def erase(cls, file_id: str, owner: str) -> bool:
        """Any status -> ERROR, hidden; a run loses its lease. Returns False if the owner has no such row."""
        return cls._hide(file_id, cls.owner == owner, "Deleted.", file_settled)

    @classmethod
    def expire(cls, file_id: str) -> bool:
        """As `erase`, for a row whose time is over. Returns False if it is not, or another sweep has done it."""
        return cls._hide(file_id, cls.expires_at <= utcnow(), "Expired.", file_settled, file_expired)

    @classmethod
    def _hide(cls, file_id: str, where: ColumnElement[bool], error: str, *signals: NamedSignal) -> bool:
        """Hide a row and all that was derived from it."""
        now = utcnow()
        is_running = cls.upload_status == UploadStatus.PROCESSING
        hide = (
            update(cls)
            .where(cls.erased_at.is_(None))
            .values(
                # What a run is sending now may still arrive until its lease is over.
                due_at=case((is_running, cls.due_at), else_=now),
                upload_status=UploadStatus.ERROR,
                error=error,
                lease_owner=None,
                erased_at=now,
            )
        )
        derived = select(cls.id).where(cls.parent_id == file_id, cls.erased_at.is_(None)).order_by(cls.id)
        with transaction() as connection:
            # Locked as by all others who lock several: first what is derived, by its id, then the original.
            children = connection.scalars(derived.with_for_update()).all()
            if connection.execute(hide.where(cls.id == file_id, where)).rowcount != 1:
                return False
            if children:
                connection.execute(hide.where(cls.id.in_(children)))
            for one in (file_id, *children):
                _send(file_changed, connection, one, kind=STATUS)
                for signal in signals:
                    _send(signal, connection, one)
            return True

    @classmethod
    def remove(cls, file_ids: Collection[str], where: ColumnElement[bool] | TextClause = ERASED) -> None:
        """Delete rows, by default erased ones whose object and bytes are gone, with what is kept beside them."""
        with transaction() as connection:
            gone = connection.scalars(delete(cls).where(cls.id.in_(file_ids), where).returning(cls.id)).all()
            connection.execute(delete(MetadataEntry).where(MetadataEntry.file_id.in_(gone)))

    @classmethod
    def _held_by(cls, run_id: str | BindParameter[str]) -> list[ColumnElement[bool]]:
        return [cls.lease_owner == run_id, cls.upload_status == UploadStatus.PROCESSING]

    @classmethod
    def _move(
        cls,
        file_id: str,
        where: Sequence[ColumnElement[bool]],
        kind: str | None = STATUS,
        *signals: NamedSignal,
        **values: Any,
    ) -> bool:
        with transaction() as connection:
            moved = connection.execute(update(cls).where(cls.id == file_id, *where).values(**values)).rowcount == 1
            if moved and kind:
                _send(file_changed, connection, file_id, kind=kind)
            for signal in signals if moved else ():
                _send(signal, connection, file_id)
            return moved

    @classmethod
    def _end(cls, move: ReturningUpdate[*tuple[Any, ...]], of_file: str, **values: Any) -> bool:
        with transaction() as connection:
            return cls._end_in(connection, move, of_file=of_file, **values)

    @classmethod
    def _end_in(
        cls, connection: Connection, move: ReturningUpdate[*tuple[Any, ...]], of_file: str, **values: Any
    ) -> bool:
        ended = connection.execute(move, {"of_file": of_file, **values}).first()
        if ended is None:
            return False
        if ended.process and ended.upload_status == UploadStatus.COMPLETE:
            _send(file_completed, connection, of_file)
        _send(file_changed, connection, of_file, kind=STATUS)
        _send(file_ended, connection, of_file)
        return True


def _send(signal: NamedSignal, connection: Connection, file_id: str, **facts: Any) -> None:
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    signal.send(app, connection=connection, file_id=file_id, **facts)


def awaits_digest(row: FileRow) -> bool:
    """Returns True if a COMPLETE file will have a SHA-256 later; one that its client has sent to S3 need not."""
    return row.upload_status == UploadStatus.COMPLETE and row.sha256 is None and row.mode != Mode.DIRECT


def is_due() -> ColumnElement[bool]:
    """Return the condition that a row's lease or pause is over by now."""
    now = utcnow()
    return _is_due(now, now + LONGEST_DELAY)


def read_rows(statement: Select[*tuple[Any, ...]]) -> Sequence[FileRow]:
    """Return the rows that a SELECT of Files finds; holds no connection afterwards."""
    with db.engine.connect() as connection:
        return cast(Sequence[FileRow], connection.execute(statement).all())


def _is_due(now: Any, far: Any) -> ColumnElement[bool]:
    """The row is due, or due so far ahead that a wrong clock must have written it."""
    return or_(File.due_at <= now, File.due_at > far)


# What every upload runs is made once: building a statement takes as long as running it.
_BY_ID = select(File).where(File.id == bindparam("file_id"))
_OWN_BY_ID = _BY_ID.where(File.owner == bindparam("owner"), File.erased_at.is_(None))
_USERS_BY_ID = _OWN_BY_ID.where(File.subject == bindparam("subject"))
_INSERT = insert(File.__table__)
_NO_VALUES = dict.fromkeys(column.key for column in File.__table__.columns)
_LEASE_IS_OVER = and_(File.upload_status == UploadStatus.PROCESSING, _is_due(bindparam("now"), bindparam("far")))
IS_READY = or_(File.parent_id.is_(None), File.made_at.is_not(None))
"""The row has bytes to deliver; a derivative first has to be made."""
_CLAIM_ANY = (
    update(File)
    .where(
        File.id == bindparam("of_file"),
        or_(File.upload_status == UploadStatus.PENDING, _LEASE_IS_OVER),
        File.spool_id == func.coalesce(bindparam("in_spool", type_=String), File.spool_id),
    )
    .values(
        upload_status=UploadStatus.PROCESSING,
        lease_owner=bindparam("run"),
        due_at=bindparam("until"),
        attempts=File.attempts + 1,
        bytes_sent=0,
    )
    .returning(File)
)
_CLAIM, _CLAIM_TO_MAKE = _CLAIM_ANY.where(IS_READY), _CLAIM_ANY.where(not_(IS_READY))
_ENDING = (
    update(File)
    .where(
        File.id == bindparam("of_file"),
        *File._held_by(bindparam("run")),
    )
    .values(lease_owner=None)
    .returning(File.process, File.upload_status)
)
_FAIL = _ENDING.values(upload_status=UploadStatus.ERROR, error=bindparam("reason"))
_COMPLETE = _ENDING.values(
    upload_status=UploadStatus.COMPLETE,
    url=bindparam("to_url"),
    sha256=func.coalesce(bindparam("to_sha256", type_=String), File.sha256),
    error=None,
    completed_at=bindparam("now"),
    bytes_sent=File.size,
)
