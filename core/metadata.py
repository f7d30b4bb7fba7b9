"""Metadata: the client's own words beside a file, a flat object of texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from core import strict_json
from core.errors import InvalidMetadata

Metadata = Mapping[str, str]

MAX_BYTES = 4 * 1024
MAX_NAMES = 32
MAX_NAME = 128
MAX_TEXT_BYTES = 8 * MAX_BYTES  # JSON may need up to six bytes for one: \u0001


def read(text: str) -> dict[str, str]:
    """Read metadata from the JSON that a client has sent.

    Raises:
        InvalidMetadata: it is no flat object of texts, has a name twice, or is too large.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_TEXT_BYTES:
        raise InvalidMetadata(f"metadata must not exceed {MAX_BYTES} bytes.")
    try:
        found = strict_json.loads(text)
    except strict_json.RepeatedName:
        raise InvalidMetadata("metadata must not have a name twice.") from None
    except ValueError:
        raise InvalidMetadata("metadata must be a JSON object.") from None
    return check(found)


def check(found: Any) -> dict[str, str]:
    """Return decoded metadata as it is kept.

    Raises:
        InvalidMetadata: it is no flat object of texts, or is too large.
    """
    if not isinstance(found, dict):
        raise InvalidMetadata("metadata must be a JSON object.")
    if len(found) > MAX_NAMES:
        raise InvalidMetadata(f"metadata must not have more than {MAX_NAMES} names.")
    for name, value in found.items():
        if not (isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable()):
            raise InvalidMetadata(f"A name in metadata must have 1 to {MAX_NAME} printable characters.")
        if not isinstance(value, str):
            raise InvalidMetadata("Each value in metadata must be a string; nothing may be nested.")
        if "\0" in value or not _is_unicode(value):
            raise InvalidMetadata("A value in metadata must not hold NUL or half a character.")
    if len(dump(found).encode()) > MAX_BYTES:
        raise InvalidMetadata(f"metadata must not exceed {MAX_BYTES} bytes.")
    return dict(found)


def patch(known: Metadata, change: Any) -> dict[str, str]:
    """Return metadata with a change: null removes a name, or all of them.

    Raises:
        InvalidMetadata: the change is not well-formed, or makes the metadata too large.

    Source: RFC 7396.
    """
    if change is None:
        return {}
    if not isinstance(change, dict):
        raise InvalidMetadata("metadata must be a JSON object.")
    return check({name: value for name, value in {**known, **change}.items() if value is not None})


def dump(metadata: Metadata) -> str:
    """Return metadata as the JSON that is kept."""
    return json.dumps(metadata, ensure_ascii=False, separators=(",", ":"))


def load(text: str | None) -> dict[str, str]:
    """Return metadata from the JSON that is kept; none without one."""
    if not text:
        return {}
    found: dict[str, str] = json.loads(text)
    return found


def digest(name: str, value: str) -> str:
    """Return what an index holds of one name and its value, which may be too long for an index."""
    return hashlib.sha256(f"{name}\0{value}".encode()).hexdigest()[:32]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True
