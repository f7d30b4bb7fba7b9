"""The File row: the only truth about an upload, and every legal move of its status."""

from __future__ import annotations

import enum
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    DateTime,
    Dialect,
    Enum,
    Index,
    Row,
    String,
    Text,
    TypeDecorator,
    and_,
    bindparam,
    event,
    func,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

POOL_SECONDS = 5
KEPT_CONNECTIONS = 10
MAX_CONNECTIONS = 40  # two processes fit into PostgreSQL's 100; a thread holds one for milliseconds, or waits
BUSY_SECONDS = 5
BATCH = 500
LONGEST_WAIT = timedelta(seconds=600)  # no lease and no pause between attempts lasts longer


class Base(DeclarativeBase):
    """Declarative base of all tables."""


# Rows stay readable after a commit, so that no connection is held while bytes travel to S3.
db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})


class UploadStatus(enum.StrEnum):
    """Where an upload stands. COMPLETE is final."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETE = "COMPLETE"
    ERROR = "ERROR"


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, in UTC on both sides; SQLite itself keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is not None:
            return value and value.astimezone(UTC)
        return value.replace(tzinfo=UTC)


def init_app(app: Flask, uri: str, survive_power_loss: bool, threads: int = 20) -> None:
    """Bind the database to the app; connects on first use.

    Args:
        app: the app.
        uri: SQLAlchemy's address of the database.
        survive_power_loss: whether SQLite must reach the disk on every commit.
        threads: how many may need a connection at the same moment.
    """
    sqlite = uri.startswith("sqlite")
    app.config["SQLALCHEMY_DATABASE_URI"] = uri
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
        "pool_size": KEPT_CONNECTIONS,
        "max_overflow": min(threads, MAX_CONNECTIONS) - KEPT_CONNECTIONS,
        "pool_timeout": POOL_SECONDS,
        "pool_pre_ping": not sqlite,
    }
    db.init_app(app)
    if sqlite:
        with app.app_context():
            event.listen(db.engine, "connect", _tune_sqlite(survive_power_loss))


def _tune_sqlite(survive_power_loss: bool) -> Callable[[DBAPIConnection, object], None]:
    """Let readers and one writer work at once, and writers wait for each other.

    Source: https://www.sqlite.org/wal.html; in WAL mode, synchronous=NORMAL survives a killed process but may
    lose the last commits to a power loss.
    """

    def tune(connection: DBAPIConnection, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
        cursor.execute(f"PRAGMA synchronous={'FULL' if survive_power_loss else 'NORMAL'}")
        cursor.close()

    return tune


_turn = threading.Lock()


def writing() -> AbstractContextManager[Any]:
    """Hold this to write: SQLite has one writer, and whoever meets it busy sleeps longer than a turn takes."""
    return _turn if db.engine.dialect.name == "sqlite" else nullcontext()


def batched(ids: Iterable[str]) -> Iterator[list[str]]:
    """Cut ids into lists that fit one statement."""
    iterator = iter(ids)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def utcnow() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """Make a File id that nobody can guess."""
    return secrets.token_hex(16)


# Literal, not bound: only so SQLite sees that it is the condition of the partial index.
UNDELIVERED = text("upload_status IN ('PENDING', 'PROCESSING')")


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
        Index("ix_files_upload_status_created_at", "upload_status", "created_at", "id"),
        Index("ix_files_created_at", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    key: Mapped[str] = mapped_column(String(255), unique=True)
    mode: Mapped[str] = mapped_column(String(16))
    size: Mapped[int] = mapped_column(BigInteger)
    content_type: Mapped[str] = mapped_column(String(255))
    """As the client declares it."""
    detected_type: Mapped[str] = mapped_column(String(255), server_default="")
    """As the first bytes tell it; empty in rows from before it was looked at."""
    crc64nvme: Mapped[str] = mapped_column(String(12))
    """Base64 of the CRC64NVME of what was received, as S3 writes it."""
    spool_id: Mapped[str] = mapped_column(String(32))
    """Identity of the spool in which the bytes rest."""
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
    """When the sweep may take the row: the end of a lease while PROCESSING, the next try while PENDING."""
    retry_until: Mapped[datetime] = mapped_column(UtcDateTime)
    """When a failed delivery is given up."""
    upload_status: Mapped[UploadStatus] = mapped_column(
        Enum(UploadStatus, native_enum=False, length=16, create_constraint=False),
        default=UploadStatus.PENDING,
    )
    url: Mapped[str | None] = mapped_column(Text)
    sha256: Mapped[str | None] = mapped_column(String(64))
    attempts: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(Text)
    lease_owner: Mapped[str | None] = mapped_column(String(32))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow, onupdate=utcnow)
    completed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    def insert(self, connection: Connection) -> None:
        """Write a new row, in the transaction of the caller; every value must be set."""
        # Not through a session, which would take longer than the statement.
        connection.execute(_INSERT, {name: getattr(self, name) for name in _COLUMNS})

    @classmethod
    def find(cls, file_id: str) -> Row[Any] | None:
        """Read the row as it is now; holds no connection afterwards."""
        with db.engine.connect() as connection:
            return connection.execute(_BY_ID, {"file_id": file_id}).first()

    @classmethod
    def claim(cls, file_id: str, owner: str, lease_seconds: float, spool_id: str | None = None) -> Row[Any] | None:
        """Take the row for one run: PENDING, or PROCESSING with a lease that has run out.

        Args:
            file_id: the row.
            owner: a name that is new for every run.
            lease_seconds: how long the run may stay silent.
            spool_id: the spool in which the bytes must be; None for a run that brings them itself.

        Returns:
            The claimed row, or None if another run has it, or there is nothing left to do.
        """
        now = utcnow()
        lease_is_over = and_(cls.upload_status == UploadStatus.PROCESSING, cls._is_due())
        claimed = cls._move(
            [
                cls.id == file_id,
                or_(cls.upload_status == UploadStatus.PENDING, lease_is_over),
                cls.spool_id == (spool_id or cls.spool_id),
            ],
            upload_status=UploadStatus.PROCESSING,
            lease_owner=owner,
            due_at=now + timedelta(seconds=lease_seconds),
            attempts=cls.attempts + 1,
        )
        return cls.find(file_id) if claimed else None

    @classmethod
    def renew(cls, file_id: str, owner: str, lease_seconds: float) -> bool:
        """Prolong the run's lease from now; False if the run has lost it."""
        return cls._move(cls._held_by(file_id, owner), due_at=utcnow() + timedelta(seconds=lease_seconds))

    @classmethod
    def complete(cls, file_id: str, owner: str, url: str, sha256: str) -> bool:
        """PROCESSING -> COMPLETE; False if the run has lost its lease."""
        return cls._move(
            cls._held_by(file_id, owner),
            upload_status=UploadStatus.COMPLETE,
            url=url,
            sha256=sha256,
            error=None,
            lease_owner=None,
            completed_at=utcnow(),
        )

    @classmethod
    def fail(cls, file_id: str, owner: str, error: str) -> bool:
        """PROCESSING -> ERROR, with a reason a client may read; False if the run has lost its lease."""
        return cls._move(
            cls._held_by(file_id, owner),
            upload_status=UploadStatus.ERROR,
            error=error,
            lease_owner=None,
        )

    @classmethod
    def give_back(cls, file_id: str, owner: str, delay_seconds: float, error: str | None = None) -> bool:
        """PROCESSING -> PENDING, to be tried again after a delay; False if the run has lost its lease."""
        return cls._move(
            cls._held_by(file_id, owner),
            upload_status=UploadStatus.PENDING,
            error=error,
            lease_owner=None,
            due_at=utcnow() + timedelta(seconds=delay_seconds),
        )

    @classmethod
    def put_forward(cls, file_id: str) -> bool:
        """Let the sweep take a PENDING row at once, because its hand-off came to nothing."""
        return cls._move([cls.id == file_id, cls.upload_status == UploadStatus.PENDING], due_at=utcnow())

    @classmethod
    def retry(cls, file_id: str, window_seconds: float) -> bool:
        """ERROR -> PENDING, as if it were new; False if it is not in ERROR."""
        now = utcnow()
        return cls._move(
            [cls.id == file_id, cls.upload_status == UploadStatus.ERROR],
            upload_status=UploadStatus.PENDING,
            error=None,
            attempts=0,
            due_at=now,
            retry_until=now + timedelta(seconds=window_seconds),
        )

    @classmethod
    def due(cls, spool_id: str, limit: int) -> Sequence[str]:
        """Ids of the rows of a spool that anyone may take, the longest due first."""
        statement = select(cls.id).where(UNDELIVERED, cls.spool_id == spool_id, cls._is_due())
        with db.engine.connect() as connection:
            return connection.scalars(statement.order_by(cls.due_at).limit(limit)).all()

    @classmethod
    def among(cls, ids: Iterable[str]) -> Iterator[Row[Any]]:
        """The rows with these ids, as far as there are any; read in batches."""
        for batch in batched(ids):
            with db.engine.connect() as connection:
                found = connection.execute(select(cls).where(cls.id.in_(batch))).all()
            yield from found

    @classmethod
    def oldest_undelivered(cls) -> datetime | None:
        """When the oldest row that is still PENDING or PROCESSING was created."""
        # One question for each status, because each is answered by the first entry of an index.
        statuses = (UploadStatus.PENDING, UploadStatus.PROCESSING)
        first = select(func.min(cls.created_at))
        with db.engine.connect() as connection:
            oldest = [connection.scalar(first.where(cls.upload_status == status)) for status in statuses]
        return min((moment for moment in oldest if moment), default=None)

    @classmethod
    def _is_due(cls) -> ColumnElement[bool]:
        """Its time has come; or it lies so far ahead that a wrong clock must have written it."""
        now = utcnow()
        return or_(cls.due_at <= now, cls.due_at > now + LONGEST_WAIT)

    @classmethod
    def _held_by(cls, file_id: str, owner: str) -> list[ColumnElement[bool]]:
        return [
            cls.id == file_id,
            cls.lease_owner == owner,
            cls.upload_status == UploadStatus.PROCESSING,
        ]

    @classmethod
    def _move(cls, where: Sequence[ColumnElement[bool]], **values: Any) -> bool:
        with writing(), db.engine.begin() as connection:
            return connection.execute(update(cls).where(*where).values(**values)).rowcount == 1


# Made once: building a statement takes as long as running it.
_BY_ID = select(File).where(File.id == bindparam("file_id"))
_INSERT = insert(File.__table__)
_COLUMNS = tuple(column.key for column in File.__table__.columns)
