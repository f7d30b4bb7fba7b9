"""The endpoints: request -> File -> runner -> JSON."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, jsonify, request, url_for
from sqlalchemy import Row
from werkzeug.exceptions import NotFound

from errors import Busy, Conflict, StoreError
from idempotency import Scope, fingerprint, scope
from models import File, UploadStatus, db, new_id, utcnow, writing
from receive import Received, declared_length, receive_file
from services import services
from spool import Incoming
from tasks import RUNS, Run, submit

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
            "POST /files/<id>/retry": "try again to deliver a file that ended in ERROR",
            "GET /healthz": "whether the process lives",
            "GET /readyz": "whether database, bucket and broker answer",
        },
    )


@bp.post("/normal_upload")
def normal_upload() -> Response:
    """Take a file and answer when it is in S3."""
    row = _found(_accept("normal").id)
    if row.upload_status == UploadStatus.ERROR:
        raise StoreError(row.error or "The file is not in S3.", row.id)
    if row.upload_status != UploadStatus.COMPLETE:  # another run has it, or had it when it was asked again
        raise Conflict("The file is still on its way to S3.", row.id)
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
    return jsonify(file_json(_found(file_id)))


@bp.post("/files/<file_id>/retry")
def retry(file_id: str) -> Response:
    """Deliver a file again that ended in ERROR, if its bytes are still there."""
    ferry = services()
    row = _found(file_id)
    if row.spool_id != ferry.spool.id or not ferry.spool.has(file_id):
        raise Conflict("The file's bytes are no longer here.", file_id)
    if not File.retry(file_id, ferry.config.RETRY_WINDOW_SECONDS):
        raise Conflict("Only a file in ERROR can be tried again.", file_id)
    submit(file_id)
    return _answer(_found(file_id), HTTPStatus.ACCEPTED)


def file_json(row: File | Row[Any]) -> dict[str, Any]:
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
        "detected_type": row.detected_type,
        "sha256": row.sha256,
        "attempts": row.attempts,
        "error": row.error,
        "created_at": _rfc3339(row.created_at),
        "updated_at": _rfc3339(row.updated_at),
        "completed_at": _rfc3339(row.completed_at),
    }


def _accept(mode: str) -> File | Row[Any]:
    """Bytes in the spool, then the row committed, then the hand-off: so nothing accepted is lost."""
    ferry = services()
    if mode == "async" and ferry.pool.is_full:
        raise Busy("Too many files wait for S3; try again later.")
    run = RUNS[mode]()
    try:
        row, is_new = _take_in(mode, run)
    except BaseException:
        run.give_up()
        raise
    if is_new:
        run.hand_off(row)
    return row


def _take_in(mode: str, run: Run) -> tuple[File | Row[Any], bool]:
    """Receive a file and commit its row; or find the row of an equal request that came earlier."""
    ferry = services()
    length = declared_length(request, ferry.config.MAX_CONTENT_LENGTH)
    key = request.headers.get("Idempotency-Key")
    with scope(key, ferry.config.LEASE_SECONDS) as held:
        with ferry.spool.receive(new_id(), length) as incoming:

            def on_chunk(received: Received) -> None:
                held.renew()
                run.arrived(received, incoming)

            received = receive_file(request, incoming, ferry.config, on_chunk, ("sha256",) if key else ())
            facts = [mode, received.name, received.content_type]
            facts += [received.digests.hexdigest("sha256")] if key else []
            if earlier := held.match(fingerprint(*facts)):
                incoming.discard()
                run.give_up()
                return _found(earlier), False
            incoming.keep()
        row = _new_row(mode, received, incoming)
        _commit(row, held, fingerprint(*facts))
    return row, True


def _commit(row: File, held: Scope, request_fingerprint: str) -> None:
    with ExitStack() as if_it_fails:
        if_it_fails.callback(services().spool.drop, row.id)
        with writing(), db.engine.connect() as connection:
            row.insert(connection)
            held.finish(connection, request_fingerprint, row.id)
            # A commit whose answer is lost may have happened, so from here on the bytes must stay.
            if_it_fails.pop_all()
            connection.commit()


def _found(file_id: str) -> Row[Any]:
    row = File.find(file_id)
    if row is None:
        raise NotFound("There is no such file.")
    return row


def _new_row(mode: str, received: Received, incoming: Incoming) -> File:
    ferry = services()
    now = utcnow()
    return File(
        id=incoming.file_id,
        name=received.name,
        key=received.key,
        mode=mode,
        size=incoming.size,
        content_type=received.content_type,
        detected_type=received.detected_type,
        crc64nvme=incoming.crc64nvme,
        spool_id=ferry.spool.id,
        upload_status=UploadStatus.PENDING,
        attempts=0,
        created_at=now,
        updated_at=now,
        due_at=now + timedelta(seconds=ferry.config.LEASE_SECONDS),
        retry_until=now + timedelta(seconds=ferry.config.RETRY_WINDOW_SECONDS),
    )


def _answer(row: File | Row[Any], status: HTTPStatus) -> Response:
    response = jsonify(file_json(row))
    response.status_code = status
    response.location = url_for("files.file_status", file_id=row.id)
    return response


def _rfc3339(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
