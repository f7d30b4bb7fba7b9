"""The database: its connection pool, its types, and how writers take turns."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Connection, DateTime, Dialect, TypeDecorator, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import DeclarativeBase

POOL_SECONDS = 5
KEPT_CONNECTIONS = 10
MAX_CONNECTIONS = 40  # two processes fit into PostgreSQL's 100; a thread holds one for milliseconds, or waits
BUSY_SECONDS = 5
BATCH = 500

Item = TypeVar("Item")


class Base(DeclarativeBase):
    """Declarative base of all tables."""


# Rows stay readable after a commit, so that no connection is held while bytes travel to S3.
db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})


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
        # PgBouncer gives each transaction another connection, which does not know what an earlier one prepared.
        "connect_args": {} if sqlite else {"prepare_threshold": None},
        "hide_parameters": True,  # an error is logged, what clients sent is not
    }
    db.init_app(app)
    if sqlite:
        with app.app_context():
            event.listen(db.engine, "connect", _tune_sqlite(survive_power_loss))


def _tune_sqlite(survive_power_loss: bool) -> Callable[[DBAPIConnection, object], None]:
    """Let readers work beside one writer, and writers wait for each other.

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


@contextmanager
def transaction() -> Iterator[Connection]:
    """Open a transaction that writes; it commits at the end of the block, or rolls back if the block raises.

    SQLite has one writer, and whoever meets it busy sleeps longer than a turn takes, so its writers take turns.
    """
    turn = _turn if db.engine.dialect.name == "sqlite" else nullcontext()
    with turn, db.engine.begin() as connection:
        yield connection


def batched(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield the items in lists that fit one statement."""
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def utcnow() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """Return a new, unguessable File id."""
    return secrets.token_hex(16)
