"""PATCH /files/<id>: another shown name, other metadata."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify

from access import auth
from access.principal import Grant, check_metadata
from core import metadata
from core.errors import Conflict, InvalidBody
from core.file_row import FileRow
from file import check_name
from models import File
from web.json_body import json_object
from web.representation import file_json, own_file

bp = Blueprint("edits", __name__)

MEMBERS = ("name", "metadata")
TRIES = 10


@bp.patch("/files/<file_id>")
@auth.needs(Grant.UPLOAD)
def edit(file_id: str) -> Response:
    """Change a file's shown name or its metadata; key and bytes stay.
    ---
    patch:
      operationId: editFile
      tags: [Files]
      parameters: [FileId]
      requestBody:
        required: true
        content:
          application/json: {schema: Edit, example: {metadata: {order: "18"}}}
          application/merge-patch+json: {schema: Edit}
      responses:
        200: Edited
        400: InvalidBody
        404: NotFound
        409: Conflict
        413: BodyTooLarge
        415: NotJson
    """
    row, change = own_file(file_id), json_object("application/merge-patch+json")
    if not change or set(change) - set(MEMBERS):
        raise InvalidBody(f"Send {' or '.join(MEMBERS)}, and nothing else.")
    for _ in range(TRIES):
        if File.edit(row, *_changed(row, change)):
            return jsonify(file_json(own_file(file_id)))
        row = own_file(file_id)  # another request has changed it meanwhile
    raise Conflict("Other requests change this file; try again.", file_id)


def _changed(row: FileRow, change: dict[str, Any]) -> tuple[str, metadata.Metadata]:
    """Return the name and the metadata that a row gets by a merge patch (RFC 7396)."""
    name, known = change.get("name", row.name), metadata.load(row.user_metadata)
    if not isinstance(name, str):
        raise InvalidBody("name must be a string.")
    check_name(name)
    words = metadata.patch(known, change["metadata"]) if "metadata" in change else known
    changed = {one: words.get(one) for one in known.keys() | words.keys() if known.get(one) != words.get(one)}
    check_metadata(auth.principal(), changed)
    return name, words
