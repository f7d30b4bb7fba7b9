"""Direct uploads by an interface of our own: begin, addresses of parts, finish, end; and tickets for others."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, jsonify, request, url_for

from access import auth, tickets
from access.principal import Grant
from access.tokens import LEAST_SECONDS, MOST_SECONDS, whole_number
from core.errors import Conflict, InvalidBody, InvalidQuery, UploadGone
from core.services import services
from core.strict_json import check_members
from intake.answers import answer_file
from intake.direct import creation, wanted
from intake.direct.arrival import sent_parts
from intake.direct.outcome import finish, refuse
from intake.direct.reach import own, require_open
from intake.direct.rows import PARTS, DirectRow
from intake.upload_rows import GONE
from models import UploadStatus
from storage.s3.addresses import Address
from web.json_body import json_object
from web.representation import rfc3339

bp = Blueprint("direct", __name__)


@bp.post("/direct")
@auth.needs(Grant.UPLOAD)
def create() -> Response:
    """Begin an upload whose bytes go to S3 directly.
    ---
    post:
      operationId: createDirect
      tags: [Direct uploads]
      parameters: [IdempotencyKey]
      x-direct: true
      requestBody:
        required: true
        content: {application/json: {schema: DirectRequest, example: {name: report.pdf, size: 10485760}}}
      responses:
        201: DirectBegun
        400: InvalidBody
        409: Conflict
        410: Gone
        413: TooLarge
        415: Unsupported
        422: KeyReused
        501: NotConfigured
        502: StoreError
    """
    require_open()
    row = creation.begin(wanted.read(json_object()), request.headers.get("Idempotency-Key"))
    answer = jsonify({**_shown(row), **_addresses(row)})
    answer.status_code = HTTPStatus.CREATED
    answer.location = url_for("direct.show", upload_id=row.id)
    return answer


@bp.get("/direct/<id:upload_id>")
@auth.needs(Grant.UPLOAD)
def show(upload_id: str) -> Response:
    """Show a direct upload in progress, with the parts that S3 has.
    ---
    get:
      operationId: getDirect
      tags: [Direct uploads]
      parameters: [UploadId]
      x-direct: true
      responses: {200: DirectShown, 409: Conflict, 410: Gone, 502: StoreError}
    """
    row = _unfinished(upload_id)
    shown = _shown(row)
    if row.kind == PARTS:
        shown["sent"] = [{"number": part.entry["PartNumber"], "size": part.size} for part in sent_parts(row)]
    return jsonify(shown)


@bp.get("/direct/<id:upload_id>/parts/<int:number>")
@auth.needs(Grant.UPLOAD)
@auth.uncounted
def part(upload_id: str, number: int) -> Response:
    """Return the address of one part of a direct upload.
    ---
    get:
      operationId: getDirectPart
      tags: [Direct uploads]
      parameters: [UploadId, PartNumber, PartChecksum]
      x-direct: true
      responses: {200: PartAddress, 400: InvalidQuery, 409: Conflict, 410: Gone}
    """
    row = _unfinished(upload_id)
    if row.kind != PARTS:
        raise Conflict("This upload does not come in parts.")
    given = request.args.get("crc64nvme")
    try:
        crc64nvme = wanted.digest("crc64nvme", given) if given is not None else ""
    except InvalidBody as error:
        raise InvalidQuery(error.detail) from error
    return jsonify(_address(creation.part_address(row, number, crc64nvme)))


@bp.post("/direct/<id:upload_id>/finish")
@auth.needs(Grant.UPLOAD)
def end(upload_id: str) -> Response:
    """Make a file of a direct upload whose bytes are all in S3.
    ---
    post:
      operationId: finishDirect
      tags: [Direct uploads]
      parameters: [UploadId]
      x-direct: true
      responses:
        201: Created
        202: Accepted
        409: NothingThere
        410: Gone
        422: NotAsAnnounced
        423: Locked
        502: StoreError
    """
    row = own(upload_id)
    if row.gone_at:
        raise UploadGone(GONE)
    file = finish(row)
    is_complete = file.upload_status == UploadStatus.COMPLETE
    return answer_file(file, HTTPStatus.CREATED if is_complete else HTTPStatus.ACCEPTED)


@bp.delete("/direct/<id:upload_id>")
@auth.needs(Grant.UPLOAD)
def delete(upload_id: str) -> tuple[str, HTTPStatus]:
    """End a direct upload, and remove what has come of it.
    ---
    delete:
      operationId: deleteDirect
      tags: [Direct uploads]
      parameters: [UploadId]
      x-direct: true
      responses: {204: Ended, 409: Conflict, 410: Gone}
    """
    if not refuse(_unfinished(upload_id)):
        raise UploadGone(GONE)
    return "", HTTPStatus.NO_CONTENT


@bp.post("/direct/tickets")
@auth.needs(Grant.UPLOAD)
def create_ticket() -> tuple[Response, HTTPStatus]:
    """Make a ticket, with which Uppy can begin direct uploads.
    ---
    post:
      operationId: createTicket
      tags: [Direct uploads]
      requestBody:
        content: {application/json: {schema: TicketRequest, example: {expires_in: 3600}}}
      responses: {201: Ticket, 400: InvalidBody, 404: DirectIsOff, 413: BodyTooLarge, 415: NotJson}
    """
    require_open()
    body = json_object()
    check_members(body, ("expires_in",))
    seconds = whole_number(
        "expires_in", body.get("expires_in", tickets.TICKET_SECONDS), LEAST_SECONDS, MOST_SECONDS
    )
    ticket, expires_at = tickets.create(auth.principal(), seconds)
    address = f"{services().config.PUBLIC_URL.rstrip('/')}/direct/{ticket}"
    return jsonify(companionEndpoint=address, expires_at=rfc3339(expires_at)), HTTPStatus.CREATED


def _unfinished(upload_id: str) -> DirectRow:
    row = own(upload_id)
    if row.gone_at:
        raise UploadGone(GONE)
    if row.finished_at or row.promised:
        raise Conflict(f"The upload has become a file; see /files/{row.id}.", row.id)
    return row


def _shown(row: DirectRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "size": row.size,
        "content_type": row.content_type,
        "created_at": rfc3339(row.created_at),
        "expires_at": rfc3339(row.expires_at),
    }


def _addresses(row: DirectRow) -> dict[str, Any]:
    """Return where the bytes go."""
    if row.kind == PARTS:
        return {"part_size": row.part_bytes, "parts": creation.most_parts(row)}
    return {"put": _address(creation.put_address(row))}


def _address(address: Address) -> dict[str, Any]:
    return {"url": address.url, "headers": address.headers}
