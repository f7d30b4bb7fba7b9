"""Alembic's environment: the app's own database and models, one transaction for each migration."""

from alembic import context
from flask import current_app

from plain_errors import plain_errors

db = current_app.extensions["migrate"].db


def run() -> None:
    """Bring the database to the wanted revision; SQLite alters a table by copying it."""
    with plain_errors():
        connection = db.engine.connect()
    with connection:
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            render_as_batch=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()


run()
