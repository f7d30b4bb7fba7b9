"""Reads a file that is the whole body of a request, as `curl -T` sends it."""

from __future__ import annotations

import mimetypes

from flask import Request

from config import Config
from core.errors import InvalidUpload, UnsupportedUpload
from intake import body, options
from intake.digests import Digests
from intake.forms import disposition
from intake.received import OnChunk, ReceivedFile
from storage.spool_file import SpoolFile
from web.json_body import refuse_encoding

FORM = "multipart/form-data"
URL_ENCODED = "application/x-www-form-urlencoded"
HEADERS = {"metadata": "Ferryman-Metadata", "expires_in": "Ferryman-Expires-In", "process": "Ferryman-Process"}
"""The headers that say what a form's fields say."""


def is_raw(request: Request) -> bool:
    """Returns True if the body is the file itself: that of a PUT, and that of a POST with a type of a file."""
    return request.method == "PUT" or request.mimetype not in (FORM, URL_ENCODED, "")


def read_raw(
    request: Request,
    incoming: SpoolFile,
    config: Config,
    on_chunk: OnChunk,
    also_digest: tuple[str, ...] = (),
) -> ReceivedFile:
    """Write the request's body into the spool while it arrives.

    Args:
        request: a request with an unread body.
        incoming: the spool file.
        config: the limits.
        on_chunk: called with each chunk once it is written, and at the end with no bytes.
        also_digest: names of further digests to compute, as in hashlib.

    Raises:
        UnsupportedUpload: the body is a form or compressed, or the file's type is not accepted.
        InvalidUpload: the body is part of a file, its name or an option is malformed, or it does not match a
            digest from the client.
        UploadTooLarge: it exceeds the limit.
        Busy: the spool is full.
        TooSlow: the client stalls, or sends too slowly.

    Source: RFC 9110, section 9.3.4.
    """
    received = describe(request, config, Digests(request.headers.get, also_digest))
    for chunk in body.chunks(request, config.MAX_CONTENT_LENGTH):
        incoming.write(chunk)
        received.update(chunk, config)
        on_chunk(received, chunk)
    received.update(None, config)
    on_chunk(received, b"")
    received.digests.verify()
    return received


def describe(request: Request, config: Config, digests: Digests) -> ReceivedFile:
    """Return what the headers tell of the file in a request's body.

    Raises:
        UnsupportedUpload: the body is a form, or compressed.
        InvalidUpload: the body is part of a file, or its name or an option is malformed.
    """
    if request.mimetype in (FORM, URL_ENCODED):
        raise UnsupportedUpload("Post a form as multipart/form-data; otherwise the body must be the file itself.")
    refuse_encoding(request)
    if "Content-Range" in request.headers:  # RFC 9110, section 14.5: that a server must not pass over
        raise InvalidUpload(
            "Send the whole file, without Content-Range; parts of it can be sent with tus to /uploads."
        )
    name = _given_name(request) or usual_name(request.mimetype)
    asked = options.read(option_texts(request))
    return ReceivedFile.begin(name, request.headers.get("Content-Type"), config, digests, options=asked)


def option_texts(request: Request) -> dict[str, str]:
    """Return what the headers ask for besides, by the names of a form's fields."""
    given = {field: request.headers.get(header, "") for field, header in HEADERS.items()}
    return {field: utf8(text) for field, text in given.items() if text}


def utf8(text: str) -> str:
    """Return a header's value as UTF-8, if that is what it is; WSGI gives its bytes as Latin-1 (PEP 3333)."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _given_name(request: Request) -> str:
    """Return the name in the address, in Content-Disposition, or in the query; empty without one."""
    if (request.view_args or {}).get("name"):
        try:
            path = request.environ["PATH_INFO"].encode("latin-1").decode()
        except UnicodeDecodeError:
            raise InvalidUpload("The file's name in the address must be UTF-8.") from None
        return str(path.split("/", 2)[2])
    if value := request.headers.get("Content-Disposition"):
        try:
            return disposition.parse(utf8(value)).filename or ""
        except ValueError as error:
            raise InvalidUpload("The Content-Disposition is malformed.") from error
    return request.args.get("name", "")


def usual_name(mimetype: str) -> str:
    """Return the name of a file that came without one."""
    return f"upload{mimetypes.guess_extension(mimetype) or '.bin'}"
