"""Reads what a client wants to send to the bucket from the JSON of its request."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from access.tokens import MAX_NUMBER, whole_number
from core.errors import InvalidBody
from core.strict_json import check_members
from intake.direct.creation import Wanted, kind_for
from intake.options import FIELDS

DIGEST_BYTES = {"crc64nvme": 8, "sha256": 32, "md5": 16}
MEMBERS = ("name", "size", "content_type", *DIGEST_BYTES, "multipart", *FIELDS)


def read(body: Mapping[str, Any]) -> Wanted:
    """Read what is wanted from a decoded JSON object.

    Raises:
        InvalidBody: a member is unknown, missing or wrong; the text names it.
        StoreError: S3 does not answer.
    """
    check_members(body, MEMBERS)
    if "size" not in body:
        raise InvalidBody("size is missing: the file's bytes.")
    size = whole_number("size", body["size"], 0, MAX_NUMBER)
    in_parts = body.get("multipart", False)
    if not isinstance(in_parts, bool):
        raise InvalidBody("multipart must be true or false.")
    return Wanted(
        name=_text(body, "name"),
        content_type=_text(body, "content_type") if "content_type" in body else None,
        size=size,
        kind=kind_for(size, in_parts),
        digests={name: digest(name, body[name]) for name in DIGEST_BYTES if name in body},
        options=_options(body),
    )


def digest(name: str, value: Any) -> str:
    """Return a digest in base64.

    Raises:
        InvalidBody: it is none.
    """
    try:
        found = base64.b64decode(value if isinstance(value, str) else "", validate=True)
    except ValueError:  # also of text that is not ASCII
        found = b""
    if len(found) != DIGEST_BYTES[name]:
        raise InvalidBody(f"{name} must be base64 of {DIGEST_BYTES[name]} bytes.")
    return base64.b64encode(found).decode()


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise InvalidBody(f"{name} must be a text.")
    return value


def _options(body: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of what is asked for besides, as a form has them."""
    found = {}
    if "metadata" in body:
        if not isinstance(body["metadata"], dict):
            raise InvalidBody("metadata must be an object of texts.")
        found["metadata"] = json.dumps(body["metadata"])
    if "expires_in" in body:
        found["expires_in"] = str(whole_number("expires_in", body["expires_in"], 1, MAX_NUMBER))
    if "process" in body:
        found["process"] = _text(body, "process")
    return found
