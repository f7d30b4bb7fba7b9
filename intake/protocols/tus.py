"""tus 1.0.0 with all its extensions: its requests and answers.

Source: https://tus.io/protocols/resumable-upload; where that is silent, what tusd and tus-js-client do.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from flask import Response, request
from werkzeug.http import http_date

from access import auth
from core.errors import (
    Busy,
    Forbidden,
    Interrupted,
    InvalidQuery,
    InvalidUpload,
    OffsetMismatch,
    SpoolUnavailable,
    UnsupportedUpload,
    UploadError,
    UploadGone,
    UploadLocked,
)
from core.file_row import FileRow
from core.services import services
from intake.options import FIELDS
from intake.protocols import tus_fields
from intake.protocols.body_digest import body_digest
from intake.raw import usual_name
from intake.upload_rows import GONE, is_own
from intake.uploads import creation, rows
from intake.uploads.creation import Wanted
from intake.uploads.outcome import hand_off, location, settle
from intake.uploads.rows import FINAL, PARTIAL, UploadRow
from intake.uploads.turns import Check, Turn, hold, most_bytes
from models import Mode
from web.json_body import refuse_encoding

VERSION = "1.0.0"
EXTENSIONS = (
    *("creation", "creation-with-upload", "creation-defer-length", "expiration", "checksum", "checksum-trailer"),
    *("termination", "concatenation", "concatenation-unfinished"),
)
BODY = "application/offset+octet-stream"
MODES = (Mode.ASYNC, Mode.CELERY)
"""Never normal: a client takes its last PATCH for done once all bytes are here, whatever is answered."""


def describe() -> Response:
    """Answer OPTIONS: what is spoken here."""
    response = Response(status=HTTPStatus.NO_CONTENT)
    response.headers["Tus-Version"] = VERSION
    response.headers["Tus-Extension"] = ",".join(EXTENSIONS)
    response.headers["Tus-Max-Size"] = str(most_bytes())
    response.headers["Tus-Checksum-Algorithm"] = ",".join(tus_fields.ALGORITHMS)
    return response


def create() -> Response:
    """Answer POST: begin an upload, perhaps with its first bytes."""
    wanted = _wanted()
    row, turn = creation.begin(wanted, request.headers.get("Idempotency-Key"))
    response = Response(status=HTTPStatus.CREATED)
    response.location = location(row.id)
    if turn:
        with turn:
            file = _begun(turn)
            row = turn.row
        hand_off(file, row)
    if request.mimetype == BODY:
        response.headers["Upload-Offset"] = str(row.offset)
    return _with_end(response, row)


def _wanted() -> Wanted:
    mode = request.args.get("mode", Mode.ASYNC)
    if mode not in MODES:
        raise InvalidQuery(f"mode must be one of {', '.join(MODES)}.")
    pairs = tus_fields.metadata(request.headers.get("Upload-Metadata"))
    content_type = tus_fields.text_of(pairs, "filetype", "type", "contentType") or None
    concat = request.headers.get("Upload-Concat")
    parts = _parts(concat) if concat not in (None, PARTIAL) else None
    return Wanted(
        way="tus",
        mode=Mode(mode),
        name=tus_fields.text_of(pairs, "filename", "name") or usual_name(content_type or ""),
        content_type=content_type,
        length=_length() if parts is None else _whole_length(parts),
        options={name: tus_fields.text_of(pairs, name) for name in FIELDS if name in pairs},
        upload_metadata=request.headers.get("Upload-Metadata"),
        digest=request.headers.get("Repr-Digest"),
        concat=concat,
        parts=parts,
    )


def _length() -> int | None:
    length, deferred = (
        tus_fields.number(request.headers, "Upload-Length"),
        request.headers.get("Upload-Defer-Length"),
    )
    if (length is None) == (deferred is None) or deferred not in (None, "1"):
        raise InvalidUpload("Send either Upload-Length, or Upload-Defer-Length with the value 1.")
    return length


def _parts(concat: str | None) -> Sequence[UploadRow]:
    """Return the uploads that a final upload joins, in their order."""
    if concat is None or not concat.startswith(f"{FINAL};"):
        raise InvalidUpload("Upload-Concat must be `partial`, or `final;` with the addresses of its parts.")
    tus_fields.check_plain(concat, "Upload-Concat")
    if "Upload-Length" in request.headers or "Upload-Defer-Length" in request.headers:
        raise InvalidUpload("A final upload has the length of its parts.")
    ids = tus_fields.part_ids(concat)
    found = {row.id: row for row in rows.among(sorted(set(ids)))}
    for part in ids:
        if part not in found or not is_own(found[part], auth.principal()):
            raise InvalidUpload("Upload-Concat names an upload that does not exist.")
        if found[part].concat != PARTIAL or found[part].gone_at:
            raise InvalidUpload("Upload-Concat names an upload that is no part, or has ended.")
        if found[part].spool_id != services().spool.id:
            raise UploadLocked("Another host has a part of this upload.")
    return [found[part] for part in ids]


def _whole_length(parts: Sequence[UploadRow]) -> int | None:
    lengths = [part.length for part in parts]
    return None if None in lengths else sum(lengths)


def _begun(turn: Turn) -> FileRow | None:
    """Take the first bytes of a new upload, if it has any here already. Returns the File, if that is all."""
    if turn.row.parts is not None:
        return None
    if request.mimetype == BODY:
        try:
            turn.receive(request, _check())
        except (Interrupted, Busy, SpoolUnavailable):
            pass  # the answer says what was kept, and the client goes on there
        except UploadError:
            turn.end()  # of whose address the client has not heard
            raise
    return turn.finish() if _is_file(turn) else None


def patch(row: UploadRow) -> Response:
    """Answer PATCH: append the body at the offset."""
    if request.mimetype != BODY:
        raise UnsupportedUpload(f"Send the bytes as {BODY}.")
    offset = tus_fields.number(request.headers, "Upload-Offset")
    if offset is None:
        raise InvalidUpload("Send the Upload-Offset at which these bytes begin.")
    if row.parts is not None:
        raise Forbidden("A final upload takes no bytes of its own.")
    check, length = _check(), tus_fields.number(request.headers, "Upload-Length")
    with hold(row) as turn:
        if offset != turn.offset:
            raise OffsetMismatch(turn.offset)
        file = None if turn.is_finished else _appended(turn, length, check)
        row = turn.row
    hand_off(file, row)
    response = Response(status=HTTPStatus.NO_CONTENT)
    response.headers["Upload-Offset"] = str(row.offset)
    return _with_end(response, row)


def _check() -> Check | None:
    """Return what verifies the request's body, by tus's own checksum or by a digest of HTTP; None without any."""
    refuse_encoding(request)
    return tus_fields.checksum(request) or body_digest(request)


def _appended(turn: Turn, length: int | None, check: Check | None) -> FileRow | None:
    if length is not None:
        turn.set_length(length)
    turn.receive(request, check)
    return turn.finish() if _is_file(turn) else None


def _is_file(turn: Turn) -> bool:
    return turn.is_whole and not turn.row.concat


def head(row: UploadRow) -> Response:
    """Answer HEAD: where the upload is. Whoever writes to it is stopped first."""
    if row.gone_at:
        raise UploadGone(GONE)
    if row.parts is not None and not row.finished_at:
        return _shown(row)
    return _shown(settle(row))


def _shown(row: UploadRow) -> Response:
    """Return the headers that tell an upload's state."""
    response = Response(status=HTTPStatus.OK)
    if row.length is not None:
        response.headers["Upload-Length"] = str(row.length)
    elif row.parts is None:
        response.headers["Upload-Defer-Length"] = "1"
    if row.parts is None or row.finished_at:
        response.headers["Upload-Offset"] = str(row.offset)
    for name, value in (("Upload-Metadata", row.upload_metadata), ("Upload-Concat", row.concat)):
        if value is not None:
            response.headers[name] = value
    return _with_end(response, row)


def _with_end(response: Response, row: UploadRow) -> Response:
    """Say when the upload will expire, or which file has come of it."""
    if row.finished_at:
        response.headers["Content-Location"] = f"/files/{row.id}"
    else:
        response.headers["Upload-Expires"] = http_date(row.expires_at)
    return response
