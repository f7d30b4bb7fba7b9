"""The endpoints: request -> File -> runner -> JSON."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import timedelta
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

from flask import Blueprint, Response, jsonify, request, url_for
from sqlalchemy import Row
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as BaseResponse

import auth
import failed_bytes
import spools
from database import new_id, transaction, utcnow
from erase import erase
from errors import Busy, Conflict, StoreError
from idempotency import Scope, fingerprint, scope
from metrics import metrics
from models import File, FileRow, UploadStatus
from quota import Hold, hold
from receive import Received, declared_length, receive_file
from representation import file_json, own_file
from services import services
from spool import Incoming
from streams import preferred_wait, wait_for_change
from tasks import RUNS, Run, submit

bp = Blueprint("files", __name__)


@bp.post("/normal_upload")
def normal_upload() -> Response:
    """Take a file and answer when it is in S3.
    ---
    post:
      operationId: uploadNormal
      tags: [Upload]
      requestBody: {required: true, content: {multipart/form-data: {schema: Form}}}
      responses: {201: Created, 502: StoreError}
    """
    row = own_file(_accept("normal").id)
    if row.upload_status == UploadStatus.ERROR:
        raise StoreError(row.error or "The file is not in S3.", row.id)
    if row.upload_status != UploadStatus.COMPLETE:  # another run has it, or had it when it was asked again
        raise Conflict("The file is still on its way to S3.", row.id)
    return _answer(row, HTTPStatus.CREATED)


@bp.post("/async_upload")
def async_upload() -> Response:
    """Take a file, hand it to a background thread and answer at once.
    ---
    post:
      operationId: uploadAsync
      tags: [Upload]
      requestBody: {required: true, content: {multipart/form-data: {schema: Form}}}
      responses: {202: Accepted}
    """
    return _answer(_accept("async"), HTTPStatus.ACCEPTED)


@bp.post("/celery_upload")
def celery_upload() -> Response:
    """Take a file, hand it to a Celery worker and answer at once.
    ---
    post:
      operationId: uploadCelery
      tags: [Upload]
      requestBody: {required: true, content: {multipart/form-data: {schema: Form}}}
      responses: {202: Accepted}
    """
    return _answer(_accept("celery"), HTTPStatus.ACCEPTED)


@bp.get("/files/<file_id>")
def file_status(file_id: str) -> BaseResponse:
    """Tell a file's status, or that it has not changed; perhaps not before it has.
    ---
    get:
      operationId: getFile
      tags: [Files]
      parameters: [FileId, IfNoneMatch, Prefer]
      responses: {200: Status, 304: NotModified, 404: NotFound}
    """
    row, seconds = own_file(file_id), preferred_wait()
    response = _status(row)
    is_known = not request.if_none_match or request.if_none_match.contains(response.get_etag()[0] or "")
    if seconds and is_known:
        wait_for_change(row, seconds)
        response = _status(own_file(file_id))
    if seconds:
        response.headers["Preference-Applied"] = f"wait={seconds}"
    return response.make_conditional(request)


@bp.delete("/files/<file_id>")
def delete(file_id: str) -> tuple[str, HTTPStatus]:
    """Delete a file: row, object and spooled bytes.
    ---
    delete:
      operationId: deleteFile
      tags: [Files]
      parameters: [FileId]
      responses: {204: Deleted, 404: NotFound}
    """
    if not erase(own_file(file_id)):
        raise NotFound("There is no such file.")
    return "", HTTPStatus.NO_CONTENT


@bp.post("/files/<file_id>/retry")
def retry(file_id: str) -> Response:
    """Deliver a file again that ended in ERROR, if its bytes are still there.
    ---
    post:
      operationId: retryFile
      tags: [Files]
      parameters: [FileId]
      responses: {202: Accepted, 404: NotFound, 409: Conflict}
    """
    ferry = services()
    row = own_file(file_id)
    is_here = row.spool_id == ferry.spool.id  # else the host that has the bytes finds the row due
    if not ferry.spool.has(file_id) if is_here else not spools.is_alive(row.spool_id):
        raise Conflict("The file's bytes are no longer here.", file_id)
    if not File.retry(file_id, ferry.config.RETRY_WINDOW_SECONDS):
        raise Conflict("Only a file in ERROR can be tried again.", file_id)
    if is_here:
        submit(file_id)
    return _answer(own_file(file_id), HTTPStatus.ACCEPTED)


def _accept(mode: str) -> FileRow:
    """Bytes in the spool, then the row committed, then the hand-off: so nothing accepted is lost."""
    ferry, began = services(), time.perf_counter()
    if mode == "async" and ferry.pool.is_full:
        raise Busy("Too many files wait for S3; try again later.")
    run = RUNS[mode]()
    try:
        row, is_new = _take_in(mode, run)
    except BaseException:
        run.give_up()
        raise
    if is_new:
        metrics().accepted(mode, row.size, time.perf_counter() - began)
        run.hand_off(row)
    return row


def _take_in(mode: str, run: Run) -> tuple[FileRow, bool]:
    """Receive a file and commit its row; or find the row of an equal request that came earlier."""
    ferry = services()
    length = declared_length(request, ferry.config.MAX_CONTENT_LENGTH)
    key, owner, file_id = request.headers.get("Idempotency-Key"), auth.owner(), new_id()
    if not ferry.spool.has_room(length):
        failed_bytes.make_room()
    with scope(key, owner, ferry.config.LEASE_SECONDS) as held, hold(file_id, owner, length, ferry.config) as room:
        with ferry.spool.receive(file_id, length) as incoming:

            def on_chunk(received: Received, chunk: bytes) -> None:
                held.renew()
                room.renew()
                run.arrived(received, incoming, chunk)

            received = receive_file(request, incoming, ferry.config, on_chunk, ("sha256",) if key else ())
            request_fingerprint = ""
            if key:
                digest = received.digests.hexdigest("sha256")
                request_fingerprint = fingerprint(mode, received.name, received.content_type, digest)
            if earlier := held.match(request_fingerprint):
                incoming.discard()
                run.give_up()
                return own_file(earlier), False
            incoming.keep()
        row = _new_row(mode, owner, received, incoming)
        _commit(row, held, room, request_fingerprint)
    return row, True


def _commit(row: SimpleNamespace, held: Scope, room: Hold, request_fingerprint: str) -> None:
    with ExitStack() as if_it_fails:
        if_it_fails.callback(services().spool.drop, row.id)
        with transaction() as connection:
            File.insert(connection, row)
            room.settle(connection, row.size)
            held.finish(connection, request_fingerprint, row.id)
            # A commit whose answer is lost may have happened, so from here on the bytes must stay.
            if_it_fails.pop_all()


def _new_row(mode: str, owner: str, received: Received, incoming: Incoming) -> SimpleNamespace:
    ferry = services()
    now = utcnow()
    return File.draft(
        id=incoming.file_id,
        owner=owner,
        name=received.name,
        key=received.key,
        mode=mode,
        size=incoming.size,
        content_type=received.content_type,
        detected_type=received.detected_type,
        crc64nvme=incoming.crc64nvme,
        sha256=received.digests.known("sha256"),
        spool_id=ferry.spool.id,
        upload_status=UploadStatus.PENDING,
        attempts=0,
        bytes_sent=0,
        created_at=now,
        updated_at=now,
        due_at=now + timedelta(seconds=ferry.config.LEASE_SECONDS),
        retry_until=now + timedelta(seconds=ferry.config.RETRY_WINDOW_SECONDS),
    )


def _status(row: Row[Any]) -> Response:
    response = jsonify(file_json(row))
    response.headers["Cache-Control"] = "private, no-cache"
    response.add_etag()
    return response


def _answer(row: FileRow, status: HTTPStatus) -> Response:
    response = jsonify(file_json(row))
    response.status_code = status
    response.location = url_for("files.file_status", file_id=row.id)
    return response
