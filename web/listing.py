"""GET /files: an owner's files, newest first, page by page."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from flask import Blueprint, jsonify, request, url_for
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as BaseResponse

from access import auth
from access.principal import Grant
from core import metadata
from core.errors import InvalidMetadata, InvalidQuery
from core.file_row import FileRow
from models import Mode, UploadStatus
from storage import file_queries
from web.representation import files_json, rfc3339

bp = Blueprint("listing", __name__)

PAGE = 50
MAX_PAGE = 200
MAX_NAME = 255
FILE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


class Parameter(NamedTuple):
    """A query parameter: how its text is read, and its JSON schema for the API document."""

    name: str
    parse: Callable[[str], Any]
    """Returns the value, or raises InvalidQuery."""
    schema: dict[str, Any]


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 5 and 1 <= int(text) <= MAX_PAGE):
        raise InvalidQuery(f"limit must be a number from 1 to {MAX_PAGE}.")
    return int(text)


def _cursor(text: str) -> tuple[datetime, str]:
    try:
        created_at, _, file_id = base64.b64decode(text, "-_", validate=True).decode("ascii").partition(" ")
        moment = datetime.fromisoformat(created_at)
        moment.utctimetuple()
    except (ValueError, OverflowError):
        raise InvalidQuery("The cursor is invalid.") from None
    if moment.tzinfo is None or not file_id:
        raise InvalidQuery("The cursor is invalid.")
    return moment, file_id


def _status(text: str) -> UploadStatus:
    if text not in list(UploadStatus):
        raise InvalidQuery(f"status must be one of {', '.join(UploadStatus)}.")
    return UploadStatus(text)


def _mode(text: str) -> Mode:
    if text not in list(Mode):
        raise InvalidQuery(f"mode must be one of {', '.join(Mode)}.")
    return Mode(text)


def _subject(text: str) -> str:
    if not 0 < len(text) <= MAX_NAME or "\0" in text:
        raise InvalidQuery(f"subject must have 1 to {MAX_NAME} characters, and no NUL.")
    return text


def _parent(text: str) -> str:
    if not FILE_ID.fullmatch(text):
        raise InvalidQuery("parent must be the id of a file.")
    return text


def _name(text: str) -> str:
    if len(text) > MAX_NAME or "\0" in text:
        raise InvalidQuery(f"name must not exceed {MAX_NAME} characters or contain NUL.")
    return text


PARAMETERS = {
    parameter.name: parameter
    for parameter in (
        Parameter(
            "limit",
            _limit,
            {
                "type": "integer",
                "description": "The size of the page, in files.",
                "minimum": 1,
                "maximum": MAX_PAGE,
                "default": PAGE,
            },
        ),
        Parameter(
            "cursor",
            _cursor,
            {
                "type": "string",
                "description": "Where the page begins: take the whole address from `next`.",
                "format": "cursor",
            },
        ),
        Parameter(
            "status",
            _status,
            {"type": "string", "description": "Only files with this status.", "enum": list(UploadStatus)},
        ),
        Parameter(
            "mode", _mode, {"type": "string", "description": "Only files of this mode.", "enum": list(Mode)}
        ),
        Parameter(
            "name",
            _name,
            {
                "type": "string",
                "description": "Only files with this in their name, in any case and Unicode form.",
                "pattern": r"^[^\x00]*$",
                "maxLength": MAX_NAME,
            },
        ),
        Parameter(
            "parent",
            _parent,
            {
                "type": "string",
                "description": "Only what was derived from the file with this id; else only originals are listed.",
                "pattern": "^[0-9a-f]{32}$",
            },
        ),
        Parameter(
            "subject",
            _subject,
            {
                "type": "string",
                "description": "Only files of this user, as the token named them.",
                "pattern": r"^[^\x00]+$",
                "minLength": 1,
                "maxLength": MAX_NAME,
            },
        ),
    )
}
METADATA = "metadata."
"""What a parameter begins with that looks for metadata: `metadata.order=17`."""
MAX_METADATA = 3


@bp.get("/files")
@auth.needs(Grant.READ)
def list_files() -> BaseResponse:
    """List your files, newest first, page by page.
    ---
    get:
      operationId: listFiles
      description: Three names of the metadata at most may be looked for, as in `metadata.order=17`.
      tags: [Files]
      parameters: [Limit, Cursor, Status, Mode, Name, Parent, Subject, IfNoneMatch]
      responses: {200: Page, 304: NotModified, 400: InvalidQuery}
    """
    query, principal = _parse(request.args), auth.principal()
    limit = query.pop("limit", PAGE)
    rows: Sequence[FileRow] = ()
    if principal.subject in (None, query.setdefault("subject", principal.subject)):
        rows = file_queries.page(principal.owner, limit + 1, query.pop("cursor", None), **query)
    shown, following = rows[:limit], None
    if len(rows) > limit:
        cursor = _encode(shown[-1].created_at, shown[-1].id)
        same: dict[str, Any] = request.args.to_dict() | {"cursor": cursor}
        following = url_for("listing.list_files", **same)
    response = jsonify(files=files_json(shown), next=following)
    response.headers["Cache-Control"] = "private, no-cache"
    response.add_etag()
    return response.make_conditional(request)


def _parse(arguments: MultiDict[str, str]) -> dict[str, Any]:
    words = {name: value for name, value in arguments.items() if name.startswith(METADATA)}
    unknown = set(arguments) - set(PARAMETERS) - set(words)
    if unknown or any(len(values) > 1 for _, values in arguments.lists()):
        raise InvalidQuery(f"Unknown or repeated parameter. Allowed: {', '.join(PARAMETERS)}, metadata.NAME.")
    query = {name: PARAMETERS[name].parse(value) for name, value in arguments.items() if name in PARAMETERS}
    return {**query, "words": _words(words)}


def _words(found: dict[str, str]) -> dict[str, str]:
    if len(found) > MAX_METADATA:
        raise InvalidQuery(f"At most {MAX_METADATA} names of the metadata can be looked for.")
    try:
        return metadata.check({name.removeprefix(METADATA): value for name, value in found.items()})
    except InvalidMetadata as error:
        raise InvalidQuery(error.detail) from error


def _encode(created_at: datetime, file_id: str) -> str:
    return base64.urlsafe_b64encode(f"{rfc3339(created_at)} {file_id}".encode()).decode()
