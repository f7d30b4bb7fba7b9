"""The rows of derivatives: written by the very transaction that completes their original."""

from __future__ import annotations

from collections.abc import Sequence

from flask import Flask
from sqlalchemy import Connection, select, update

from core.database import new_id, transaction
from core.errors import Conflict
from core.file_row import FileRow
from models import File, UploadStatus, file_completed
from processing import recipes
from processing.outputs import draft_values
from processing.recipes import Recipe
from storage import file_queries


def init_app(app: Flask) -> None:
    """Write the rows of what is to be made of every file that becomes COMPLETE."""
    file_completed.connect(_begin, sender=app)


def _begin(app: Flask, connection: Connection, file_id: str) -> None:
    parent = connection.execute(select(File).where(File.id == file_id)).one()
    for recipe in recipes.load(parent.process):
        _insert(connection, parent, recipe)


def add(parent: FileRow, wanted: Sequence[Recipe]) -> bool:
    """Write the rows of what is to be made of a COMPLETE file besides.

    Args:
        parent: the original.
        wanted: the recipes; those that it has already are passed over.

    Returns:
        True if there is anything new to make.

    Raises:
        Conflict: the file was deleted meanwhile.
    """
    with transaction() as connection:
        lock = update(File).where(
            File.id == parent.id, File.upload_status == UploadStatus.COMPLETE, File.erased_at.is_(None)
        )
        if connection.execute(lock.values(updated_at=File.updated_at)).rowcount != 1:
            raise Conflict("Only a file that is COMPLETE can be processed.", parent.id)
        known = recipes.load(connection.scalar(select(File.process).where(File.id == parent.id)))
        there = {row.recipe_digest for row in file_queries.derivatives([parent.id], connection)}
        new = [recipe for recipe in wanted if recipe.digest not in there]
        listed = {recipe.digest: recipe for recipe in (*known, *new)}
        connection.execute(
            update(File).where(File.id == parent.id).values(process=recipes.dump(list(listed.values())))
        )
        keys = [recipes.key(recipe, parent, "", recipe.output) for recipe in new if recipe.output != recipes.PART]
        if connection.scalar(select(File.id).where(File.key.in_(keys)).limit(1)):
            raise Conflict("An earlier one of these is still being deleted; try again.", parent.id)
        for recipe in new:
            _insert(connection, parent, recipe)
        return bool(new)


def _insert(connection: Connection, parent: FileRow, recipe: Recipe) -> None:
    values = draft_values(parent, recipe, new_id())
    File.insert(connection, File.draft(values.pop("name"), **values))
