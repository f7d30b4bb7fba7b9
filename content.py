"""GET /files/<id>/content: the bytes, by a short-lived address in S3 or through this service."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, redirect, request
from sqlalchemy import Row
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.http import dump_options_header, http_date
from werkzeug.wrappers import Response as BaseResponse

from errors import Conflict, InvalidQuery
from models import UploadStatus
from representation import own_file
from services import services

bp = Blueprint("content", __name__)

REDIRECT_SECONDS = 60
# Whatever the bytes are, a browser must neither show nor run them at our address.
SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}


@bp.get("/files/<file_id>/content")
def content(file_id: str) -> BaseResponse:
    """Give a file's bytes, always as a download.
    ---
    get:
      operationId: getContent
      tags: [Files]
      parameters: [FileId, Proxy, Range, IfRange, IfNoneMatch]
      responses:
        200: Bytes
        206: SomeBytes
        302: Redirect
        304: NotModified
        400: InvalidQuery
        404: NotFound
        409: Conflict
        416: NoSuchBytes
        502: StoreError
    """
    row, proxy = own_file(file_id), request.args.getlist("proxy")
    if proxy not in ([], ["1"]):
        raise InvalidQuery("proxy can only be 1.")
    if row.upload_status != UploadStatus.COMPLETE:
        raise Conflict("The file is not in S3.", row.id)
    if proxy:
        return _stream(row)
    address = services().store.presigned_url(row.key, _disposition(row.name), REDIRECT_SECONDS)
    response = redirect(address, HTTPStatus.FOUND)
    response.headers["Cache-Control"] = "no-store"
    return response


def _stream(row: Row[Any]) -> Response:
    response = Response(content_type=row.content_type, headers=SAFE)
    response.headers["Content-Disposition"] = _disposition(row.name)
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Last-Modified"] = http_date(row.completed_at)
    response.set_etag(row.id)  # the bytes of an id never change
    start, stop = _span(row.size, response)
    if response.make_conditional(request).status_code == HTTPStatus.NOT_MODIFIED:
        return response
    response.content_length = stop - start
    if request.method != "HEAD" and stop > start:
        response.response = services().store.read(row.key, start, stop)
    return response


def _span(size: int, response: Response) -> tuple[int, int]:
    """The bytes that are asked for, which the answer then says; several ranges are answered with the whole.

    Raises:
        RequestedRangeNotSatisfiable: there are no such bytes.

    Source: RFC 9110, section 14.
    """
    asked, condition = request.range, request.if_range
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return 0, size
    if condition.date or (condition.etag and condition.etag != response.get_etag()[0]):
        return 0, size
    span = asked.range_for_length(size)
    if span is None:
        raise RequestedRangeNotSatisfiable(size)
    response.status_code = HTTPStatus.PARTIAL_CONTENT
    response.headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{size}"
    return span


def _disposition(name: str) -> str:
    """Name the download as it was uploaded, without what a header cannot hold (RFC 6266)."""
    printable = "".join(letter if letter.isprintable() else "_" for letter in name)
    return dump_options_header("attachment", {"filename": printable})
