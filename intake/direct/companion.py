"""The five addresses of Companion that an unchanged @uppy/aws-s3 asks, below a ticket or with a credential.

Uppy retries none of them, and shows of an error only the reason phrase.

Source: @uppy/aws-s3 6.3.1, src/s3-client/CompanionS3.ts, and https://uppy.io/docs/companion
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import NotFound

from access import auth
from access.principal import Grant
from core.errors import InvalidBody, UploadGone
from core.services import services
from intake.direct import creation
from intake.direct.arrival import sent_parts
from intake.direct.creation import Wanted
from intake.direct.outcome import finish, refuse
from intake.direct.reach import own, require_open
from intake.direct.rows import FORM, PARTS, DirectRow
from intake.options import FIELDS
from intake.raw import usual_name
from intake.upload_rows import GONE
from storage.parts import S3_MOST_PARTS
from web.json_body import json_object

bp = Blueprint("companion", __name__)

View = TypeVar("View", bound=Callable[..., Response])

META = re.compile(r"metadata\[(\w{1,64})\]", re.ASCII)
MOST_BODY_BYTES = 1024 * 1024  # 10,000 parts with an ETag each


def _routes(rest: str, method: str) -> Callable[[View], View]:
    """Add an address below a ticket, and one without."""

    def mark(view: View) -> View:
        name, methods = view.__name__, [method]
        bp.add_url_rule(f"/direct/<ticket>/s3{rest}", name, view, methods=methods)
        bp.add_url_rule(f"/direct/s3{rest}", f"{name}_by_key", view, methods=methods, defaults={"ticket": None})
        return view

    return mark


@bp.after_request
def keep_secret(response: Response) -> Response:
    """Keep the ticket, which stands in the address, out of what a browser tells other sites."""
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


@_routes("/params", "GET")
@auth.needs(Grant.UPLOAD)
def params(ticket: str | None) -> Response:
    """Begin a direct upload by a form; it becomes a file by itself once its bytes are in S3.
    ---
    get:
      operationId: companionParams
      tags: [Direct uploads]
      parameters: [Ticket, CompanionName, CompanionType]
      x-direct: true
      responses: {200: CompanionForm, 400: InvalidUpload, 415: Unsupported, 501: NotConfigured, 502: StoreError}
    """
    asked = request.args
    named = {found[1]: value for name, value in asked.items() if (found := META.fullmatch(name))}
    row = _begin(asked.get("filename"), asked.get("type", ""), named, FORM)
    form = creation.form(row)
    seconds = services().config.DIRECT_EXPIRES_SECONDS
    return jsonify({"method": "POST", "url": form.url, "fields": form.fields, "expires": seconds})


@_routes("/multipart", "POST")
@auth.needs(Grant.UPLOAD)
def create_multipart(ticket: str | None) -> Response:
    """Begin a direct upload in parts.
    ---
    post:
      operationId: companionCreate
      tags: [Direct uploads]
      parameters: [Ticket]
      x-direct: true
      requestBody:
        required: true
        content: {application/json: {schema: CompanionRequest, example: {filename: a.pdf, type: application/pdf}}}
      responses:
        200: CompanionUpload
        400: InvalidUpload
        413: BodyTooLarge
        415: Unsupported
        501: NotConfigured
        502: StoreError
    """
    require_open()
    body = json_object()
    named = {} if body.get("metadata") is None else body["metadata"]
    if not isinstance(named, dict):
        raise InvalidBody("metadata must be an object.")
    row = _begin(body.get("filename"), body.get("type"), named, PARTS)
    return jsonify({"key": row.key, "uploadId": row.id, "bucket": services().config.S3_BUCKET_NAME})


@_routes("/multipart/<id:upload_id>/<int:number>", "GET")
@auth.needs(Grant.UPLOAD)
@auth.uncounted
def sign_part(ticket: str | None, upload_id: str, number: int) -> Response:
    """Return the address of one part.
    ---
    get:
      operationId: companionPart
      tags: [Direct uploads]
      parameters: [Ticket, UploadId, PartNumber, CompanionKey]
      x-direct: true
      responses: {200: CompanionAddress, 400: InvalidQuery, 410: Gone}
    """
    row = _unfinished(upload_id)
    url = creation.part_address(row, number).url
    return jsonify({"url": url, "expires": services().config.DIRECT_EXPIRES_SECONDS})


@_routes("/multipart/<id:upload_id>", "GET")
@auth.needs(Grant.UPLOAD)
def list_parts(ticket: str | None, upload_id: str) -> Response:
    """Return the parts that S3 has.
    ---
    get:
      operationId: companionParts
      tags: [Direct uploads]
      parameters: [Ticket, UploadId, CompanionKey]
      x-direct: true
      responses: {200: CompanionParts, 410: Gone, 502: StoreError}
    """
    parts = sent_parts(_unfinished(upload_id))
    return jsonify(
        [{"PartNumber": one.entry["PartNumber"], "ETag": one.entry["ETag"], "Size": one.size} for one in parts]
    )


@_routes("/multipart/<id:upload_id>/complete", "POST")
@auth.needs(Grant.UPLOAD)
def complete(ticket: str | None, upload_id: str) -> Response:
    """Make a file of a direct upload in parts; repeating it changes nothing.
    ---
    post:
      operationId: companionComplete
      tags: [Direct uploads]
      parameters: [Ticket, UploadId, CompanionKey]
      x-direct: true
      requestBody:
        required: true
        content: {application/json: {schema: CompanionComplete}}
      responses:
        200: CompanionCompleted
        400: InvalidBody
        409: NothingThere
        410: Gone
        413: BodyTooLarge
        415: NotJson
        422: NotAsAnnounced
        423: Locked
        502: StoreError
    """
    row = _own(upload_id)
    if row.gone_at:
        raise UploadGone(GONE)
    file = finish(row, _parts(json_object(most_bytes=MOST_BODY_BYTES).get("parts")))
    location = services().store.url(file.key)
    return jsonify({"location": location, "key": file.key, "bucket": services().config.S3_BUCKET_NAME})


@_routes("/multipart/<id:upload_id>", "DELETE")
@auth.needs(Grant.UPLOAD)
def abort(ticket: str | None, upload_id: str) -> Response:
    """End a direct upload in parts, and remove them.
    ---
    delete:
      operationId: companionAbort
      tags: [Direct uploads]
      parameters: [Ticket, UploadId, CompanionKey]
      x-direct: true
      responses: {200: CompanionAborted, 410: Gone}
    """
    if not refuse(_unfinished(upload_id)):
        raise UploadGone(GONE)
    return jsonify({})


def _begin(name: Any, content_type: Any, named: dict[str, Any], kind: str) -> DirectRow:
    require_open()
    if not isinstance(name, str) or not isinstance(content_type, str | None):
        raise InvalidBody("filename and type must be texts.")
    options = {field: named[field] for field in FIELDS if isinstance(named.get(field), str)}
    wanted = Wanted(name or usual_name(content_type or ""), content_type or None, None, kind, options=options)
    return creation.begin(wanted, None)


def _own(upload_id: str) -> DirectRow:
    """Return an upload of the principal, whose key the client must know too."""
    row = own(upload_id)
    if row.kind != PARTS or request.args.get("key") != row.key:
        raise NotFound("Upload not found.")
    return row


def _unfinished(upload_id: str) -> DirectRow:
    row = _own(upload_id)
    if row.gone_at or row.finished_at or row.promised:
        raise UploadGone(GONE)
    return row


def _parts(given: Any) -> list[tuple[int, str]]:
    """Return the numbers and ETags of the parts that a client names, in their order.

    Raises:
        InvalidBody: they are no such list.
    """
    try:
        found = {int(one["PartNumber"]): str(one["ETag"]).strip('"') for one in given}
    except (TypeError, ValueError, KeyError, OverflowError):
        found = {}
    is_list = isinstance(given, list) and 0 < len(given) == len(found) <= S3_MOST_PARTS
    if not is_list or not all(1 <= number <= S3_MOST_PARTS for number in found):
        raise InvalidBody("parts must be a list of objects with a PartNumber and an ETag each, every number once.")
    return sorted(found.items())
