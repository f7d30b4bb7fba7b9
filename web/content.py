"""GET /files/<id>/content: the bytes, by a short-lived link to S3 or through this service."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus

from flask import Blueprint, Response, redirect, request
from werkzeug.http import http_date
from werkzeug.wrappers import Response as BaseResponse

from access import auth
from access.principal import Grant
from core.errors import Conflict, InvalidQuery
from core.file_row import FileRow
from core.services import services
from models import UploadStatus
from web.disposition import disposition
from web.ranges import asked_span, is_not_modified
from web.representation import own_file

bp = Blueprint("content", __name__)

REDIRECT_SECONDS = 60
# Whatever the bytes are, a browser must neither show nor run them at our address.
SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}


@bp.get("/files/<file_id>/content")
@auth.needs(Grant.READ)
def content(file_id: str) -> BaseResponse:
    """Download a file's bytes.
    ---
    get:
      operationId: getContent
      tags: [Files]
      parameters: [FileId, Proxy, Range, IfRange, IfMatch, IfNoneMatch, IfModifiedSince, IfUnmodifiedSince]
      responses:
        200: Bytes
        206: SomeBytes
        302: Redirect
        304: NotModified
        400: InvalidQuery
        404: NotFound
        409: Conflict
        412: PreconditionFailed
        416: NoSuchBytes
        502: StoreError
    """
    row, proxy = own_file(file_id), request.args.getlist("proxy")
    if proxy not in ([], ["1"]):
        raise InvalidQuery("proxy must be 1.")
    if row.upload_status != UploadStatus.COMPLETE or row.completed_at is None:
        raise Conflict("The file is not in S3.", row.id)
    if proxy:
        return _stream(row, row.completed_at)
    if request.method == "HEAD":
        return _outline(row)
    address = services().store.presigned_url(row.key, disposition("attachment", row.name), REDIRECT_SECONDS)
    response = redirect(address, HTTPStatus.FOUND)
    response.headers["Cache-Control"] = "no-store"
    return response


def _stream(row: FileRow, completed_at: datetime) -> Response:
    response = Response(headers=SAFE)
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Last-Modified"] = http_date(completed_at)
    response.set_etag(row.id)  # the bytes of an id never change
    if is_not_modified(request, row.id, completed_at):
        response.status_code = HTTPStatus.NOT_MODIFIED
        return response
    _describe(response, row)
    span = asked_span(request, row.size, row.id, completed_at)
    start, stop = span or (0, row.size)
    if span:
        response.status_code = HTTPStatus.PARTIAL_CONTENT
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{row.size}"
    response.content_length = stop - start
    if request.method != "HEAD" and stop > start:
        response.response = services().store.read(row.key, start, stop)
    return response


def _outline(row: FileRow) -> Response:
    """Answer a HEAD whose GET would redirect to S3.

    A link is signed for one method, and who asks by HEAD often goes on by GET where HEAD ended: so that is here.
    ETag and Last-Modified are left out, since those that come with the bytes are S3's.
    """
    response = Response(headers=SAFE)
    _describe(response, row)
    response.headers["Cache-Control"] = "no-store"
    return response


def _describe(response: Response, row: FileRow) -> None:
    response.headers["Content-Type"] = row.content_type
    response.headers["Content-Disposition"] = disposition("attachment", row.name)
    response.headers["Accept-Ranges"] = "bytes"
    response.content_length = row.size
