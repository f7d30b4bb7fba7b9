"""A File as clients see it: found by its owner, shown as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection
from werkzeug.exceptions import NotFound

from access import auth
from core import metadata
from core.file_row import FileRow
from models import File, UploadStatus
from storage import file_queries

DERIVATIVE = (
    *("id", "preset", "output", "upload_status", "name", "url", "key", "size", "content_type", "error", "summary"),
)
"""What a File shows of each of its derivatives."""
NOT_DELIVERED = "The original was not delivered."


def own_file(file_id: str) -> FileRow:
    """Return a File of the current principal.

    Raises:
        NotFound: there is none, or it is another's.
    """
    row = File.find_own(file_id, *auth.principal().scope)
    if row is None:
        raise NotFound("File not found.")
    return row


def file_json(row: FileRow, connection: Connection | None = None) -> dict[str, Any]:
    """Return a File as all responses show it.

    Args:
        row: the file.
        connection: the transaction of the caller, if it has one.
    """
    return files_json([row], connection)[0]


def files_json(rows: Sequence[FileRow], connection: Connection | None = None) -> list[dict[str, Any]]:
    """Return Files as all responses show them, with what was derived from them; else as `file_json`."""
    made: dict[str, list[FileRow]] = {row.id: [] for row in rows if row.process}
    for child in file_queries.derivatives(list(made), connection) if made else ():
        made[child.parent_id or ""].append(child)
    return [_file_json(row, _derivatives(row, made.get(row.id, []))) for row in rows]


def _file_json(row: FileRow, derivatives: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "upload_status": row.upload_status,
        "mode": row.mode,
        "url": row.url,
        "key": row.key,
        "size": row.size,
        "content_type": row.content_type,
        "detected_type": row.detected_type,
        "sha256": row.sha256,
        "bytes_sent": row.bytes_sent,
        "attempts": row.attempts,
        "error": row.error,
        "created_at": rfc3339(row.created_at),
        "updated_at": rfc3339(row.updated_at),
        "completed_at": rfc3339(row.completed_at),
        "subject": row.subject,
        "metadata": metadata.load(row.user_metadata),
        "expires_at": rfc3339(row.expires_at),
        "process": [recipe["preset"] for recipe in json.loads(row.process or "[]")],
        "derivatives_status": derivatives_status(derivatives),
        "derivatives": derivatives,
        "parent_id": row.parent_id,
        "preset": _preset(row),
        "output": row.output,
        "summary": json.loads(row.summary or "null"),
    }


def is_being_processed(row: FileRow) -> bool:
    """Returns True if anything is still to be made of a file, or on its way."""
    made = file_queries.derivatives([row.id]) if row.process else ()
    return derivatives_status(_derivatives(row, made)) in (UploadStatus.PENDING, UploadStatus.PROCESSING)


def derivatives_status(derivatives: Sequence[dict[str, Any]]) -> UploadStatus | None:
    """Return the status of all derivatives of a file together; None without any."""
    found = {one["upload_status"] for one in derivatives}
    order = (UploadStatus.PROCESSING, UploadStatus.PENDING, UploadStatus.ERROR, UploadStatus.COMPLETE)
    return next((status for status in order if status in found), None)


def _derivatives(row: FileRow, made: Sequence[FileRow]) -> list[dict[str, Any]]:
    """Return what was derived from a file; before it is COMPLETE, what will be."""
    if row.upload_status == UploadStatus.COMPLETE:
        return [_derivative(child) for child in made]
    failed = row.upload_status == UploadStatus.ERROR
    nothing = dict.fromkeys(DERIVATIVE)
    return [
        {
            **nothing,
            "preset": recipe["preset"],
            "output": "part" if recipe["kind"] == "table" else "variant",
            "upload_status": UploadStatus.ERROR if failed else UploadStatus.PENDING,
            "error": NOT_DELIVERED if failed else None,
        }
        for recipe in json.loads(row.process or "[]")
    ]


def _derivative(child: FileRow) -> dict[str, Any]:
    shown = {name: getattr(child, name, None) for name in DERIVATIVE}
    return {**shown, "preset": _preset(child), "summary": json.loads(child.summary or "null")}


def _preset(row: FileRow) -> str | None:
    return json.loads(row.recipe)["preset"] if row.recipe else None


def rfc3339(moment: datetime | None) -> str | None:
    """Return a time in UTC in the format of RFC 3339."""
    if moment is None:
        return None
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
