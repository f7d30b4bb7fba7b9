"""Resumable Uploads for HTTP: its requests and answers.

Any upload address takes a request with Upload-Complete, and the upload can be resumed at /uploads/<id>.

Source: draft-ietf-httpbis-resumable-upload, interop version 8; versions 6 and 7 differ in nothing that matters.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from flask import Response, after_this_request, request

from core.database import utcnow
from core.errors import (
    Busy,
    ChecksumMismatch,
    Interrupted,
    InvalidUpload,
    OffsetMismatch,
    UnsupportedUpload,
    UploadError,
    UploadLocked,
    UploadTooLarge,
)
from core.file_row import FileRow
from core.services import services
from intake import body, raw
from intake.answers import answer_upload
from intake.digests import Digests
from intake.protocols import rufh_fields
from intake.protocols.body_digest import body_digest
from intake.protocols.rufh_fields import COMPLETE, INTEROP, LENGTH, LIMIT, OFFSET, boolean
from intake.uploads import creation
from intake.uploads.creation import Wanted
from intake.uploads.outcome import hand_off, location, settle
from intake.uploads.rows import UploadRow
from intake.uploads.turns import Turn, check_length, hold, most_bytes
from models import Mode
from web.json_body import refuse_encoding
from web.representation import own_file

log = logging.getLogger(__name__)

BODY = "application/partial-upload"
PROBLEM = "https://iana.org/assignments/http-problem-types#"


class WrongOffset(OffsetMismatch):
    """The client wants to go on elsewhere than where the upload is."""

    def __init__(self, offset: int, provided: int) -> None:
        super().__init__(offset)
        kind = f"{PROBLEM}mismatching-upload-offset"
        self.more = {"type": kind, "expected-offset": offset, "provided-offset": provided}


class WrongLength(InvalidUpload):
    """The client has told two lengths."""

    more = {"type": f"{PROBLEM}inconsistent-upload-length"}  # noqa: RUF012


class Completed(InvalidUpload):
    """The upload is complete, and takes no more."""

    more = {"type": f"{PROBLEM}completed-upload"}  # noqa: RUF012


def is_asked() -> bool:
    """Returns True if the request for an upload address shall be resumable."""
    is_form = request.mimetype == raw.FORM
    return not is_form and rufh_fields.is_complete(request.headers) is not None


def create(mode: Mode) -> Response:
    """Answer a request for an upload address that is resumable."""
    with _explained():
        row, turn = creation.begin(_wanted(mode), request.headers.get("Idempotency-Key"))
        if turn is None:
            return _repeated(row)
        with turn:
            is_announced = _announce(row)
            try:
                file = _taken(turn)
            except Interrupted:
                if is_announced:  # only after a closed connection does a client that knows the address resume
                    body.shut(body.connection_of(request), socket.SHUT_RDWR)
                raise
            row = turn.row
        return _answer(row, file, HTTPStatus.CREATED)


def _wanted(mode: Mode) -> Wanted:
    is_last = bool(rufh_fields.is_complete(request.headers))
    length, here = rufh_fields.number(request.headers, LENGTH), request.content_length
    if length is not None:
        check_length(length)
    if is_last and here is not None:
        if length not in (None, here):
            raise WrongLength("Upload-Length is not the length of this body, which is said to be all.")
        length = here
    described = raw.describe(request, services().config, Digests(lambda name: None))
    return Wanted(
        way="rufh",
        mode=mode,
        name=described.name,
        content_type=described.content_type,
        length=length,
        closing=is_last,
        options=raw.option_texts(request),
        digest=request.headers.get("Repr-Digest"),
    )


def patch(row: UploadRow) -> Response:
    """Answer PATCH: append the body at the offset."""
    with _explained():
        if request.mimetype != BODY:
            raise UnsupportedUpload(f"Send the bytes as {BODY}.")
        refuse_encoding(request)
        offset, is_last = rufh_fields.number(request.headers, OFFSET), rufh_fields.is_complete(request.headers)
        if offset is None or is_last is None:
            raise InvalidUpload("Send both Upload-Offset and Upload-Complete.")
        with hold(row) as turn:
            if turn.is_finished:
                return _again(turn.row, offset, is_last)
            if offset != turn.offset:
                raise WrongOffset(turn.offset, offset)
            file = _appended(turn, is_last)
            row = turn.row
        return _answer(row, file, HTTPStatus.NO_CONTENT)


def _appended(turn: Turn, is_last: bool) -> FileRow | None:
    here, length = request.content_length, rufh_fields.number(request.headers, LENGTH)
    whole = turn.offset + here if is_last and here is not None else None
    known = {one for one in (length, whole, turn.row.length) if one is not None}
    if turn.row.length is not None and here is not None and turn.offset + here > turn.row.length:
        turn.end()
        raise WrongLength("There is more than the upload's length, so it has ended.")
    if len(known) > 1:
        raise WrongLength("The upload has another length.")
    if known:
        turn.set_length(known.pop())
    if is_last:
        turn.close()
    return _taken(turn)


def _taken(turn: Turn) -> FileRow | None:
    """Append the request's body. Returns the File, if that was all."""
    try:
        turn.receive(request, body_digest(request))
    except ChecksumMismatch as error:
        raise InvalidUpload(error.detail) from error
    except UploadTooLarge:
        if turn.row.length is not None:
            turn.end()
            raise WrongLength("There is more than the upload's length, so it has ended.") from None
        raise
    if turn.row.closing and turn.row.length is None:  # the body had no length, and has ended as it should
        turn.set_length(turn.offset)
    if turn.row.closing and not turn.is_whole:
        raise WrongLength("These were not all bytes of the upload.")
    return turn.finish() if turn.is_whole else None


def head(row: UploadRow) -> Response:
    """Answer HEAD and GET: where the upload is. Whoever writes to it is stopped first."""
    with _explained():
        if OFFSET in request.headers or COMPLETE in request.headers:
            raise InvalidUpload("A question for the offset carries neither Upload-Offset nor Upload-Complete.")
        return _state(Response(status=HTTPStatus.NO_CONTENT), settle(row))


def limits(seconds: float | None = None) -> str:
    """Return an Upload-Limit.

    Args:
        seconds: until an upload expires; by default those of a new one.
    """
    config = services().config
    age = int(config.UPLOAD_EXPIRES_SECONDS if seconds is None else max(0, seconds))
    return f"max-size={most_bytes()}, min-size=0, max-age={age}"


def _answer(row: UploadRow, file: FileRow | None, status: HTTPStatus) -> Response:
    hand_off(file, row)
    response = answer_upload(file) if file else Response(status=status)
    if file is None and status == HTTPStatus.CREATED:
        response.location = location(row.id)
    return _state(response, row)


def _again(row: UploadRow, offset: int, is_last: bool) -> Response:
    """Answer a request for a complete upload: as before, if it is the last request again."""
    if offset != row.offset or not is_last or request.content_length:
        after_this_request(_complete)
        raise Completed("The upload is complete.")
    return _state(answer_upload(own_file(row.id)), row)


def _repeated(row: UploadRow) -> Response:
    """Answer a creation that repeats an earlier one, whose body is not read again."""
    if row.finished_at:
        return _state(answer_upload(own_file(row.id)), row)
    return _answer(row, None, HTTPStatus.CREATED)


def _state(response: Response, row: UploadRow) -> Response:
    """Say in an answer how far the upload is."""
    response.headers[COMPLETE] = boolean(row.finished_at is not None)
    response.headers[OFFSET] = str(row.offset)
    if row.length is not None:
        response.headers[LENGTH] = str(row.length)
    response.headers[LIMIT] = limits((row.expires_at - utcnow()).total_seconds())
    response.headers["Cache-Control"] = "no-store"
    return response


@contextmanager
def _explained() -> Iterator[None]:
    """Say with every error whether it is worth going on, and echo the client's version of the draft."""
    version = rufh_fields.interop_version(request.headers)
    if version:
        after_this_request(lambda response: _with(response, INTEROP, str(version)))
    try:
        yield
    except UploadLocked as error:
        after_this_request(lambda response: _with(response, COMPLETE, boolean(False)))
        raise Busy(error.detail) from error
    except UploadError as error:
        is_refused = error.ends_upload or (isinstance(error, UnsupportedUpload) and request.method != "PATCH")
        if not isinstance(error, Completed):
            after_this_request(lambda response: _with(response, COMPLETE, boolean(is_refused)))
        if isinstance(error, UploadTooLarge):
            after_this_request(lambda response: _with(response, LIMIT, limits()))
        raise


def _complete(response: Response) -> Response:
    return _with(response, COMPLETE, boolean(True))


def _with(response: Response, name: str, value: str) -> Response:
    response.headers[name] = value
    return response


def _announce(row: UploadRow) -> bool:
    """Tell the upload's address before its bytes are read, where nobody stands between that would not pass it on.

    Returns:
        True if it was told.

    Source: section "104 (Upload Resumption Supported)" of the draft.
    """
    connection, version = body.connection_of(request), rufh_fields.interop_version(request.headers)
    is_old = request.environ.get("SERVER_PROTOCOL") != "HTTP/1.1"
    if version is None or services().config.TRUSTED_PROXIES or connection is None or is_old:
        return False
    address = location(row.id)
    if address.startswith("/"):
        address = f"{request.scheme}://{request.host}{address}"
    lines = [
        "HTTP/1.1 104 Upload Resumption Supported",
        f"Location: {address}",
        f"{LIMIT}: {limits()}",
        f"{INTEROP}: {version}",
    ]
    try:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
    except OSError:
        log.info("a client was gone before its upload began")
    return True
