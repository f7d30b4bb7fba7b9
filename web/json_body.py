"""Reads a small JSON object from a request's body."""

from __future__ import annotations

from typing import Any

from flask import Request, request
from werkzeug.exceptions import ClientDisconnected
from werkzeug.wsgi import get_input_stream

from core import strict_json
from core.errors import EncodedUpload, InvalidBody, TooSlow, UnsupportedUpload, UploadTooLarge

MAX_BODY_BYTES = 64 * 1024


def json_object(*media_types: str, most_bytes: int = MAX_BODY_BYTES) -> dict[str, Any]:
    """Return the JSON object in the request's body; without a body an empty one.

    Args:
        media_types: those that are read, besides application/json.
        most_bytes: how long it may be.

    Raises:
        UnsupportedUpload: the body is not JSON, or compressed.
        UploadTooLarge: it is longer.
        InvalidBody: it is malformed, or no object.
        TooSlow: the client stalls.
    """
    body = _read(most_bytes)
    if not body:
        return {}
    refuse_encoding(request)
    if request.mimetype not in ("application/json", *media_types):
        raise UnsupportedUpload("Send the body as application/json.")
    return _object(body)


def refuse_encoding(request: Request) -> None:
    """Refuse a request whose body is compressed or otherwise encoded.

    Raises:
        EncodedUpload: it is.
    """
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise EncodedUpload("The body must not be compressed; send it without Content-Encoding.")


def _read(most_bytes: int) -> bytes:
    stream, body = get_input_stream(request.environ), b""
    try:
        while len(body) <= most_bytes and (chunk := stream.read(most_bytes + 1 - len(body))):
            body += chunk
    except TimeoutError as error:
        raise TooSlow("The request body arrived too slowly.") from error
    except (ClientDisconnected, OSError, ValueError) as error:
        raise InvalidBody("The request's body is not complete.") from error
    if len(body) > most_bytes:
        raise UploadTooLarge(f"The request body must not exceed {most_bytes} bytes.")
    return body


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = strict_json.loads(body)
    except strict_json.RepeatedName:
        raise InvalidBody("A JSON object must not have a name twice.") from None
    except ValueError:
        raise InvalidBody("The body is not well-formed JSON.") from None
    if not isinstance(found, dict):
        raise InvalidBody("Send a JSON object.")
    return found
