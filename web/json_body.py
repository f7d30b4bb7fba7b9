"""Reads a small JSON object from a request's body."""

from __future__ import annotations

import json
from typing import Any

from flask import request
from werkzeug.exceptions import ClientDisconnected

from core.errors import InvalidBody, TooSlow, UnsupportedUpload

MAX_BODY_BYTES = 64 * 1024


def json_object(*media_types: str) -> dict[str, Any]:
    """Return the JSON object in the request's body; without a body an empty one.

    Args:
        media_types: those that are read, besides application/json.

    Raises:
        UnsupportedUpload: the body is not JSON.
        InvalidBody: it is malformed, or no object.
        TooSlow: the client stalls.
        RequestEntityTooLarge: it is longer than 64 KiB.
    """
    request.max_content_length = MAX_BODY_BYTES
    try:
        body = request.get_data(cache=False)
    except TimeoutError as error:
        raise TooSlow("The request body arrived too slowly.") from error
    except (ClientDisconnected, OSError, ValueError) as error:
        raise InvalidBody("The request's body is not complete.") from error
    if not body:
        return {}
    if request.mimetype not in ("application/json", *media_types):
        raise UnsupportedUpload("Send the body as application/json.")
    return _object(body)


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError):
        raise InvalidBody("The body is not well-formed JSON.") from None
    if not isinstance(found, dict):
        raise InvalidBody("Send a JSON object.")
    return found


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InvalidBody("A JSON object must not have a name twice.")
    return found
