"""The endpoints: request -> File -> runner -> JSON."""

from __future__ import annotations

from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, jsonify, request, url_for
from werkzeug.exceptions import NotFound

from errors import StoreError
from models import File, UploadStatus, db, new_id, utcnow
from receive import receive_file
from tasks import RUNNERS, services

bp = Blueprint("files", __name__)


@bp.get("/")
def index() -> Response:
    """Say what this is and where to go."""
    return jsonify(
        name="Ferryman",
        description="Takes a file, answers at once, and lands it in S3 exactly once.",
        endpoints={
            "POST /normal_upload": "upload inside the request; 201 when the file is in S3",
            "POST /async_upload": "upload by a background thread; 202 at once",
            "POST /celery_upload": "upload by a Celery worker; 202 at once",
            "GET /files/<id>": "the file and its status: PENDING, PROCESSING, COMPLETE or ERROR",
            "GET /healthz": "whether the process lives",
            "GET /readyz": "whether database, bucket and broker answer",
        },
    )


@bp.post("/normal_upload")
def normal_upload() -> Response:
    """Take a file and answer when it is in S3."""
    accepted = _accept("normal")
    row = File.find(accepted.id)
    if row is None or row.upload_status != UploadStatus.COMPLETE:
        raise StoreError((row and row.error) or "The file is not in S3.", accepted.id)
    return _answer(row, HTTPStatus.CREATED)


@bp.post("/async_upload")
def async_upload() -> Response:
    """Take a file, hand it to a background thread and answer at once."""
    return _answer(_accept("async"), HTTPStatus.ACCEPTED)


@bp.post("/celery_upload")
def celery_upload() -> Response:
    """Take a file, hand it to a Celery worker and answer at once."""
    return _answer(_accept("celery"), HTTPStatus.ACCEPTED)


@bp.get("/files/<file_id>")
def file_status(file_id: str) -> Response:
    """Tell a file's status."""
    row = db.session.get(File, file_id)
    if row is None:
        raise NotFound("There is no such file.")
    return jsonify(file_json(row))


def file_json(row: File) -> dict[str, Any]:
    """Shape a File as every answer shows it."""
    return {
        "id": row.id,
        "name": row.name,
        "upload_status": row.upload_status,
        "mode": row.mode,
        "url": row.url,
        "key": row.key,
        "size": row.size,
        "content_type": row.content_type,
        "sha256": row.sha256,
        "attempts": row.attempts,
        "error": row.error,
        "created_at": _rfc3339(row.created_at),
        "updated_at": _rfc3339(row.updated_at),
        "completed_at": _rfc3339(row.completed_at),
    }


def _accept(mode: str) -> File:
    """Bytes in the spool, then the row committed, then the hand-off: in this order nothing accepted is lost."""
    ferry = services()
    config = ferry.config
    with ferry.spool.receive(new_id()) as incoming:
        received = receive_file(request, incoming, config.MAX_CONTENT_LENGTH, config.ALLOWED_CONTENT_TYPES)
        incoming.keep()
        row = File(
            id=incoming.file_id,
            name=received.name,
            key=received.key,
            mode=mode,
            size=incoming.size,
            content_type=received.content_type,
            crc64nvme=incoming.crc64nvme,
            spool_id=ferry.spool.id,
            due_at=utcnow() + timedelta(seconds=config.LEASE_SECONDS),
        )
        db.session.add(row)
        db.session.flush()
    # Outside the block: a commit whose answer is lost may have happened, so its bytes must stay.
    db.session.commit()
    RUNNERS[mode](row)
    return row


def _answer(row: File, status: HTTPStatus) -> Response:
    response = jsonify(file_json(row))
    response.status_code = status
    response.location = url_for("files.file_status", file_id=row.id)
    return response


def _rfc3339(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
