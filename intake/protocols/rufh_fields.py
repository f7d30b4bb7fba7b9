"""The headers of the IETF's resumable uploads, which are Structured Fields (RFC 9651)."""

from __future__ import annotations

from http_sf import parse
from werkzeug.datastructures import Headers

from core.errors import InvalidUpload

COMPLETE, OFFSET, LENGTH, LIMIT = "Upload-Complete", "Upload-Offset", "Upload-Length", "Upload-Limit"
INTEROP = "Upload-Draft-Interop-Version"
INTEROP_VERSIONS = (6, 7, 8)
"""Those whose requests and answers are the ones of the present draft."""


def is_complete(headers: Headers) -> bool | None:
    """Return what Upload-Complete says: True for the last bytes; None without a valid one."""
    value = _item(headers, COMPLETE)
    return value if isinstance(value, bool) else None


def number(headers: Headers, name: str) -> int | None:
    """Return the number in a header, or None without it.

    Raises:
        InvalidUpload: it is none.
    """
    if name not in headers:
        return None
    value = _item(headers, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidUpload(f"{name} must be a whole number.")
    return value


def interop_version(headers: Headers) -> int | None:
    """Return the version of the draft that a client speaks, if its interim answers are known here."""
    value = _item(headers, INTEROP)
    return value if not isinstance(value, bool) and value in INTEROP_VERSIONS else None


def boolean(value: bool) -> str:
    """Return a Structured Field of a boolean."""
    return "?1" if value else "?0"


def _item(headers: Headers, name: str) -> object:
    try:
        found = parse(headers.get(name, "").encode("latin-1"), tltype="item")
    except ValueError:
        return None
    return found[0] if isinstance(found, tuple) else None
