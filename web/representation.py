"""A File as clients see it: found by its owner, shown as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from werkzeug.exceptions import NotFound

from access import auth
from core import metadata
from core.file_row import FileRow
from models import File


def own_file(file_id: str) -> FileRow:
    """Return a File of the current principal.

    Raises:
        NotFound: there is none, or it is another's.
    """
    row = File.find_own(file_id, *auth.principal().scope)
    if row is None:
        raise NotFound("File not found.")
    return row


def file_json(row: FileRow) -> dict[str, Any]:
    """Return a File as all responses show it."""
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
    }


def rfc3339(moment: datetime | None) -> str | None:
    """Return a time in UTC in the format of RFC 3339."""
    if moment is None:
        return None
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
