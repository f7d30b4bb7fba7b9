"""Preconditions and ranges of a download, in the order that HTTP prescribes."""

from __future__ import annotations

import re
from datetime import datetime

from flask import Request
from werkzeug.exceptions import PreconditionFailed, RequestedRangeNotSatisfiable
from werkzeug.http import http_date

RANGE = re.compile(r"[ \t]*(?=\d|-\d)(\d*)-(\d*)[ \t]*", re.ASCII)
MAX_DIGITS = 20  # no file has as many bytes, and int() refuses thousands of digits


def is_not_modified(request: Request, etag: str, modified: datetime) -> bool:
    """Evaluate the preconditions of a GET or HEAD whose response would be 2xx.

    Args:
        request: the request.
        etag: the strong ETag of what would be sent, without its quotes.
        modified: when that last changed.

    Returns:
        True if the client has it already.

    Raises:
        PreconditionFailed: the client wants something else.

    Source: RFC 9110, section 13.2.2.
    """
    modified = modified.replace(microsecond=0)  # as Last-Modified tells it
    if request.if_match:
        if not request.if_match.contains(etag):
            raise PreconditionFailed("The file is not what If-Match names.")
    elif request.if_unmodified_since and modified > request.if_unmodified_since:
        raise PreconditionFailed("The file has changed since the date in If-Unmodified-Since.")
    if request.if_none_match:
        return request.if_none_match.contains_weak(etag)
    return request.if_modified_since is not None and modified <= request.if_modified_since


def asked_span(request: Request, size: int, etag: str, modified: datetime) -> tuple[int, int] | None:
    """Return the requested byte span, as start and stop.

    Args:
        request: the request, its preconditions already judged.
        size: the length of the whole, in bytes.
        etag: its strong ETag, without its quotes.
        modified: when it last changed.

    Returns:
        The span; or None for the whole, if there is no Range, or it is malformed or names several, or the method
        is not GET, or If-Range names other bytes.

    Raises:
        RequestedRangeNotSatisfiable: there are no such bytes.

    Source: RFC 9110, sections 13.1.5 and 14.2.
    """
    unit, _, ranges = request.headers.get("Range", "").partition("=")
    if request.method != "GET" or unit.lower() != "bytes" or not _is_current(request, etag, modified):
        return None
    asked = _parse(ranges)
    spans = [span for one in asked if (span := _span(size, *one))]
    if asked and not spans:
        raise RequestedRangeNotSatisfiable(size)
    return spans[0] if len(asked) == 1 and size else None


def _is_current(request: Request, etag: str, modified: datetime) -> bool:
    """Returns True without an If-Range, or if it matches; a weak ETag never does."""
    named = request.headers.get("If-Range")
    return named is None or named.strip() in (f'"{etag}"', http_date(modified))


def _parse(ranges: str) -> list[tuple[int | None, int | None]]:
    """Parse `0-9, 20-, -5` into pairs; a malformed list is empty."""
    matches = [RANGE.fullmatch(one) for one in ranges.split(",") if one.strip()]
    if not all(matches):
        return []
    pairs = [(_number(match[1]), _number(match[2])) for match in matches if match]
    is_backwards = any(first is not None and last is not None and last < first for first, last in pairs)
    return [] if is_backwards else pairs


def _number(digits: str) -> int | None:
    return int(digits.lstrip("0")[:MAX_DIGITS] or "0") if digits else None


def _span(size: int, first: int | None, last: int | None) -> tuple[int, int] | None:
    """Return the span of one range, or None. A range without a start means the last bytes."""
    if first is None:
        return (max(0, size - last), size) if last else None
    return (first, size if last is None else min(last + 1, size)) if first < size else None
