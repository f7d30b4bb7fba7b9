"""The endpoints: request -> File -> runner -> JSON."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as BaseResponse

from access import auth
from access.principal import Grant
from core.errors import Conflict
from core.file_row import FileRow
from core.services import services
from delivery.erase import erase
from delivery.submit import submit
from events.long_poll import changed, preferred_wait
from intake.accept import accept
from intake.answers import answer_file, answer_upload
from intake.direct import rows as direct_rows
from intake.protocols import rufh
from models import IN_BUCKET, PROXIED, File, Mode
from storage import spools
from web.representation import file_json, own_file

bp = Blueprint("files", __name__)


@bp.post("/normal_upload")
@auth.needs(Grant.UPLOAD)
def normal_upload() -> Response:
    """Upload a file and answer when it is in S3.
    ---
    post:
      operationId: uploadNormal
      tags: [Upload]
      x-upload: true
      requestBody: File
      responses: {201: Created, 502: StoreError}
    """
    return upload(Mode.NORMAL)


@bp.post("/async_upload")
@auth.needs(Grant.UPLOAD)
def async_upload() -> Response:
    """Upload a file and answer at once; a background thread delivers it.
    ---
    post:
      operationId: uploadAsync
      tags: [Upload]
      x-upload: true
      requestBody: File
      responses: {202: Accepted}
    """
    return upload(Mode.ASYNC)


@bp.post("/celery_upload")
@auth.needs(Grant.UPLOAD)
def celery_upload() -> Response:
    """Upload a file and answer at once; a Celery worker delivers it.
    ---
    post:
      operationId: uploadCelery
      tags: [Upload]
      x-upload: true
      requestBody: File
      responses: {202: Accepted}
    """
    return upload(Mode.CELERY)


@auth.needs(Grant.UPLOAD)
def put(mode: Mode) -> Response:
    """Upload a file whose bytes are the whole body.
    ---
    put:
      operationId: put
      tags: [Upload]
      x-upload: true
      parameters: [GivenName, ContentDisposition, FerrymanMetadata, FerrymanExpiresIn, FerrymanProcess]
      requestBody: Bytes
      responses: {201: Created, 202: Accepted, 502: StoreError}
    """
    return upload(mode)


@auth.needs(Grant.UPLOAD)
def put_named(mode: Mode, name: str) -> Response:
    """Upload a file whose bytes are the whole body, as `curl -T` does.
    ---
    put:
      operationId: putNamed
      tags: [Upload]
      x-upload: true
      parameters: [FileName, FerrymanMetadata, FerrymanExpiresIn, FerrymanProcess]
      requestBody: Bytes
      responses: {201: Created, 202: Accepted, 502: StoreError}
    """
    return upload(mode)


# curl -T adds the name to an address that ends in a slash. Each has its endpoint, or werkzeug would redirect.
for _endpoint, _rest, _view in (
    ("put", "", put),
    ("put_at_slash", "/", put),
    ("put_named", "/<path:name>", put_named),
):
    for _mode in PROXIED:
        _address = f"/{_mode}_upload{_rest}"
        bp.add_url_rule(_address, _endpoint, _view, methods=["PUT"], defaults={"mode": _mode})


@bp.get("/files/<file_id>")
@auth.needs(Grant.READ)
def file_status(file_id: str) -> BaseResponse:
    """Return a file's status, or 304 if it has not changed; with `Prefer: wait`, as soon as it changes.
    ---
    get:
      operationId: getFile
      tags: [Files]
      parameters: [FileId, IfNoneMatch, Prefer]
      responses: {200: Status, 304: NotModified, 404: NotFound}
    """
    row, seconds = own_file(file_id), preferred_wait()
    shown = file_json(row)
    response = _status(shown)
    if request.method == "HEAD":  # which clients of resumable uploads ask at the end
        response.headers["Upload-Complete"], response.headers["Upload-Offset"] = "?1", str(row.size)
    is_known = not request.if_none_match or request.if_none_match.contains(response.get_etag()[0] or "")
    if seconds and is_known:
        response = _status(changed(row, shown, seconds))
    if seconds:
        response.headers["Preference-Applied"] = f"wait={seconds}"
    return response.make_conditional(request)


@bp.delete("/files/<file_id>")
@auth.needs(Grant.DELETE)
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
        raise NotFound("File not found.")
    return "", HTTPStatus.NO_CONTENT


@bp.post("/files/<file_id>/retry")
@auth.needs(Grant.UPLOAD)
def retry(file_id: str) -> Response:
    """Retry the delivery of a file in ERROR, if its bytes are still available.
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
    is_lost = not ferry.spool.has(file_id) if is_here else _is_lost(row)
    if is_lost and not row.parent_id:
        raise Conflict("The file's bytes are no longer available.", file_id)
    if not File.retry(file_id, ferry.config.RETRY_WINDOW_SECONDS, make=is_lost):
        raise Conflict("Only a file in ERROR can be retried.", file_id)
    if is_lost and row.parent_id:
        ferry.slots.hand_off(row.parent_id)
    elif is_here:
        submit(file_id)
    return answer_file(own_file(file_id), HTTPStatus.ACCEPTED)


def _is_lost(row: FileRow) -> bool:
    """Returns True if no other host can deliver a file."""
    return not (direct_rows.is_waiting(row.id) if row.spool_id == IN_BUCKET else spools.is_alive(row.spool_id))


def upload(mode: Mode) -> Response:
    """Accept the request's file, perhaps the first bytes of one, and answer as its mode does."""
    return rufh.create(mode) if rufh.is_asked() else answer_upload(accept(mode))


def _status(shown: dict[str, Any]) -> Response:
    response = jsonify(shown)
    response.headers["Cache-Control"] = "private, no-cache"
    response.add_etag()
    return response
