"""Alembic's environment: the app's own database and models, and one transaction that others wait for."""

import sqlalchemy as sa
from alembic import context
from flask import current_app

from ops.plain_errors import plain_errors

db = current_app.extensions["migrate"].db
LOCK = 0x6665727279  # any number, as long as nobody else locks it
WAIT_MS = 60_000


def run() -> None:
    """Bring the database to the wanted revision; SQLite alters a table by copying it."""
    with plain_errors():
        connection = db.engine.connect()
    with connection:
        _wait_for_turn(connection)  # before Alembic sees the connection, or it commits after each migration
        context.configure(connection=connection, target_metadata=db.metadata, render_as_batch=True)
        context.run_migrations()
        connection.commit()


def _wait_for_turn(connection: sa.Connection) -> None:
    """Begin a transaction that one process at a time has. It ends the turn as well, also behind PgBouncer."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA busy_timeout={WAIT_MS}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


run()
