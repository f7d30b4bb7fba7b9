"""Reading one upload from a request, straight into the spool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from flask import Request
from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
)
from werkzeug.exceptions import ClientDisconnected
from werkzeug.wsgi import get_input_stream

from config import MIB
from errors import InvalidUpload, UnsupportedUpload, UploadTooLarge
from file import media_type, rename_file
from spool import Incoming

FIELD = "file"
CHUNK_BYTES = 1 * MIB
MAX_PARTS = 16
MAX_PART_HEADER_BYTES = 8 * 1024

Event: TypeAlias = MultipartSegment | bytes | None


class Received(NamedTuple):
    """What the client said of the file it sent, and the key that the file gets."""

    name: str
    content_type: str
    key: str


def receive_file(
    request: Request, incoming: Incoming, max_bytes: int, allowed_types: Sequence[str] = ()
) -> Received:
    """Write the request's one file into the spool while it arrives; other form fields are passed over.

    Args:
        request: a multipart/form-data request whose body nobody has read.
        incoming: the spool file.
        max_bytes: the largest request body that is taken.
        allowed_types: media type patterns; none allows everything.

    Raises:
        UnsupportedUpload: the body is not multipart/form-data, or the file's type is not taken.
        InvalidUpload: there is not exactly one file, in the field `file`, with a name, or the form is broken.
        UploadTooLarge: the request or a part's header is over its limit.
        Busy: the spool is full.

    Source: RFC 7578.
    """
    received: Received | None = None
    in_file = False
    for event in _form_events(request, max_bytes):
        if isinstance(event, MultipartSegment):
            in_file = event.filename is not None or event.name == FIELD
            if in_file:
                received = _accept(event, received, allowed_types)
        elif in_file and event:
            incoming.write(event)
    if received is None:
        raise InvalidUpload(f"The form has no file in the field '{FIELD}'.")
    return received


def _accept(part: MultipartSegment, earlier: Received | None, allowed_types: Sequence[str]) -> Received:
    """Judge a file by its header, before its bytes are read."""
    if part.name != FIELD or earlier is not None:
        raise InvalidUpload(f"Send exactly one file, in the field '{FIELD}'.")
    if part.filename is None:
        raise InvalidUpload(f"The field '{FIELD}' holds text, not a file.")
    key = rename_file(part.filename)
    declared = part.header("Content-Type")
    return Received(part.filename, media_type(declared, part.filename, allowed_types), key)


def _form_events(request: Request, max_bytes: int) -> Iterator[Event]:
    """Parse the body as it arrives, and see that it arrives whole."""
    if request.mimetype != "multipart/form-data":
        raise UnsupportedUpload("Send the file as multipart/form-data.")
    try:
        parser = PushMultipartParser(
            request.mimetype_params.get("boundary", ""),
            max_header_size=MAX_PART_HEADER_BYTES,
            max_segment_count=MAX_PARTS,
        )
        with parser:
            for chunk in _chunks(request, max_bytes):
                yield from parser.parse(chunk)
    except ParserLimitReached as error:
        raise UploadTooLarge(f"{error}.") from error
    except MultipartError as error:
        raise InvalidUpload("The form is malformed or was cut off.") from error


def _chunks(request: Request, max_bytes: int) -> Iterator[bytes]:
    """Read the body, as declared or to its end, but never more than is taken."""
    too_large = UploadTooLarge(f"A request may have {max_bytes} bytes at most.")
    if (request.content_length or 0) > max_bytes:
        raise too_large
    stream = get_input_stream(request.environ)
    received = 0
    try:
        while chunk := stream.read(CHUNK_BYTES):
            received += len(chunk)
            if received > max_bytes:
                raise too_large
            yield chunk
    except (ClientDisconnected, OSError) as error:
        raise InvalidUpload("The connection broke off.") from error
