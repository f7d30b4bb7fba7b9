"""POST /files/<id>/links: a link to a file's bytes that an image tag or a mail can hold."""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus
from typing import Any, NamedTuple

from flask import Blueprint, Response, jsonify

from access import auth
from access.principal import Grant
from access.tokens import whole_number
from core.database import utcnow
from core.errors import Conflict, InvalidBody, UnsafeInline
from core.file_row import FileRow
from core.services import services
from core.strict_json import check_members
from models import UploadStatus
from web.disposition import disposition
from web.json_body import json_object
from web.representation import own_file, rfc3339

bp = Blueprint("links", __name__)

USUAL_SECONDS, MOST_SECONDS = 3600, 7 * 86_400
"""S3 signs for a week at most."""
DISPOSITIONS = ("attachment", "inline")
INLINE = {
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/avif",
    "application/pdf",
    "text/plain",
    "video/mp4",
    "audio/mpeg",
}
"""What browsers show and cannot run."""
TELLS_NOTHING = {"", "application/octet-stream", "application/x-empty", "text/plain", "text/csv"}
"""Detected types that contradict no declared one: no browser runs such bytes under a type of INLINE."""


class LinkRequest(NamedTuple):
    """What a new link shall be."""

    expires_in: int = USUAL_SECONDS
    disposition: str = DISPOSITIONS[0]


@bp.post("/files/<file_id>/links")
@auth.needs(Grant.READ)
def create_link(file_id: str) -> tuple[Response, HTTPStatus]:
    """Make a link to a file's bytes, for whoever has it.
    ---
    post:
      operationId: createLink
      tags: [Files]
      parameters: [FileId]
      requestBody: {content: {application/json: {schema: LinkRequest, example: {expires_in: 3600}}}}
      responses:
        201: Link
        400: InvalidBody
        404: NotFound
        409: Conflict
        413: BodyTooLarge
        415: NotJson
        422: UnsafeInline
        502: StoreError
    """
    row, wanted = own_file(file_id), _read_request(json_object())
    if row.upload_status != UploadStatus.COMPLETE:
        raise Conflict("The file is not in S3.", row.id)
    if wanted.disposition == "inline" and not is_safe_inline(row):
        raise UnsafeInline("Only pictures, PDF, plain text, MP4 and MP3 are shown inline; use attachment.", row.id)
    expires_at = utcnow() + timedelta(seconds=wanted.expires_in)
    address = services().store.presigned_url(
        row.key, disposition(wanted.disposition, row.name), wanted.expires_in, row.content_type
    )
    return jsonify(url=address, expires_at=rfc3339(expires_at)), HTTPStatus.CREATED


def is_safe_inline(row: FileRow) -> bool:
    """Returns True if neither the declared nor the detected type of a file can run anything in a browser."""
    declared = row.content_type.partition(";")[0].strip().lower()
    return declared in INLINE and row.detected_type in INLINE | TELLS_NOTHING


def _read_request(body: dict[str, Any]) -> LinkRequest:
    check_members(body, LinkRequest._fields)
    wanted = LinkRequest(**body)
    wanted = wanted._replace(expires_in=whole_number("expires_in", wanted.expires_in, 1, MOST_SECONDS))
    if wanted.disposition not in DISPOSITIONS:
        raise InvalidBody(f"disposition must be one of {', '.join(DISPOSITIONS)}.")
    return wanted
