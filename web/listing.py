"""GET /files: an owner's files, newest first, page by page."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any, NamedTuple

from flask import Blueprint, jsonify, request, url_for
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as BaseResponse

from access import auth
from core.errors import InvalidQuery
from models import Mode, UploadStatus
from storage import file_queries
from web.representation import file_json, rfc3339

bp = Blueprint("listing", __name__)

PAGE = 50
MAX_PAGE = 200
MAX_NAME = 255
PARAMETERS = ("limit", "cursor", "status", "mode", "name")


class Query(NamedTuple):
    """A parsed query."""

    limit: int
    before: tuple[datetime, str] | None
    status: UploadStatus | None
    mode: Mode | None
    name: str | None


@bp.get("/files")
def list_files() -> BaseResponse:
    """List your files, newest first, page by page.
    ---
    get:
      operationId: listFiles
      tags: [Files]
      parameters: [Limit, Cursor, Status, Mode, Name, IfNoneMatch]
      responses: {200: Page, 304: NotModified, 400: InvalidQuery}
    """
    query = _parse(request.args)
    rows = file_queries.page(auth.owner(), query.limit + 1, *query[1:])
    shown, following = rows[: query.limit], None
    if len(rows) > query.limit:
        cursor = _encode(shown[-1].created_at, shown[-1].id)
        same: dict[str, Any] = request.args.to_dict() | {"cursor": cursor}
        following = url_for("listing.list_files", **same)
    response = jsonify(files=[file_json(row) for row in shown], next=following)
    response.headers["Cache-Control"] = "private, no-cache"
    response.add_etag()
    return response.make_conditional(request)


def _parse(arguments: MultiDict[str, str]) -> Query:
    unknown = set(arguments) - set(PARAMETERS)
    if unknown or any(len(values) > 1 for _, values in arguments.lists()):
        raise InvalidQuery(f"Unknown or repeated parameter. Allowed: {', '.join(PARAMETERS)}.")
    limit, cursor = arguments.get("limit", str(PAGE)), arguments.get("cursor")
    if not (limit.isascii() and limit.isdecimal() and 0 < len(limit) < 5 and 1 <= int(limit) <= MAX_PAGE):
        raise InvalidQuery(f"limit must be a number from 1 to {MAX_PAGE}.")
    status, mode, name = arguments.get("status"), arguments.get("mode"), arguments.get("name")
    if status is not None and status not in UploadStatus.__members__:
        raise InvalidQuery(f"status must be one of {', '.join(UploadStatus)}.")
    if mode is not None and mode not in list(Mode):
        raise InvalidQuery(f"mode must be one of {', '.join(Mode)}.")
    if name is not None and (len(name) > MAX_NAME or "\0" in name):
        raise InvalidQuery(f"name must not exceed {MAX_NAME} characters or contain NUL.")
    before = None if cursor is None else _decode(cursor)
    return Query(int(limit), before, UploadStatus(status) if status else None, Mode(mode) if mode else None, name)


def _encode(created_at: datetime, file_id: str) -> str:
    return base64.urlsafe_b64encode(f"{rfc3339(created_at)} {file_id}".encode()).decode()


def _decode(cursor: str) -> tuple[datetime, str]:
    try:
        created_at, _, file_id = base64.b64decode(cursor, "-_", validate=True).decode("ascii").partition(" ")
        moment = datetime.fromisoformat(created_at)
        moment.utctimetuple()
    except (ValueError, OverflowError):
        raise InvalidQuery("The cursor is invalid.") from None
    if moment.tzinfo is None or not file_id:
        raise InvalidQuery("The cursor is invalid.")
    return moment, file_id
