"""Errors of commands: one line that names the cause, and exit code 1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from flask.cli import AppGroup
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from core.errors import UploadError


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn errors that the operator can fix into one line without a traceback.

    Raises:
        click.ClickException: the database, S3, a file or a setting is not as it must be.
    """
    try:
        yield
    except UploadError as error:
        raise click.ClickException(error.detail) from error
    except SQLAlchemyError as error:
        raise click.ClickException(_about_database(error)) from error
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{named}{error.strerror or error}.") from error


class PlainCommand(click.Command):
    """A command that reports errors in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with plain_errors():
            return super().invoke(ctx)


class PlainGroup(AppGroup):
    """A group of such commands."""

    command_class = PlainCommand


def _about_database(error: SQLAlchemyError) -> str:
    said = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
    if "no such table" in said or ("does not exist" in said and not isinstance(error, OperationalError)):
        return f"The database is not up to date ({said}); run flask --app app db upgrade."
    if isinstance(error, OperationalError):
        return f"The database does not answer: {said}."
    return f"The database refuses: {said}."
