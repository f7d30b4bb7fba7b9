"""CORS: pages of the origins in CORS_ORIGINS may use this service, and read its errors too."""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus

from flask import Flask, Response, request
from werkzeug.datastructures import Headers

from access.origin import is_allowed
from core.services import services

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
SENT = (
    *("Authorization", "Content-Type", "Content-Disposition", "Content-Encoding", "Idempotency-Key", "Prefer"),
    *("Content-Digest", "Repr-Digest", "Content-MD5", "If-Match", "If-None-Match", "If-Range", "Range"),
    *("Ferryman-Metadata", "Ferryman-Expires-In", "Ferryman-Process"),
    *("Last-Event-ID", "Cache-Control", "X-Requested-With", "X-Request-ID", "X-HTTP-Method-Override"),
    *("Tus-Resumable", "Upload-Length", "Upload-Offset", "Upload-Metadata", "Upload-Concat", "Upload-Checksum"),
    *("Upload-Defer-Length", "Upload-Complete", "Upload-Draft-Interop-Version", "traceparent", "tracestate"),
)
"""The headers that a page may send; those that every page may send are not among them."""
READ = (
    *(
        "Location",
        "Content-Location",
        "ETag",
        "Retry-After",
        "RateLimit-Limit",
        "RateLimit-Remaining",
        "RateLimit-Reset",
    ),
    *("WWW-Authenticate", "Preference-Applied", "X-Request-ID", "Content-Disposition", "Accept-Ranges"),
    *("Content-Range", "Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm"),
    *("Upload-Length", "Upload-Offset", "Upload-Expires", "Upload-Metadata", "Upload-Concat", "Upload-Limit"),
    *("Upload-Defer-Length", "Upload-Complete", "Upload-Draft-Interop-Version"),
)
"""The headers that a page may read."""
PREFLIGHT_SECONDS = 7200  # Chromium keeps it no longer


def init_app(app: Flask) -> None:
    """Answer preflights, and let listed origins read every response.

    Source: https://fetch.spec.whatwg.org/#http-cors-protocol
    """
    if app.extensions["ferryman"].config.CORS_ORIGINS:
        app.before_request(_answer_preflight)
        app.after_request(_share)


def headers_for(origin: str | None, allowed: Collection[str]) -> Headers:
    """Return the headers that let a page read a response; credentials such as cookies are never allowed.

    Args:
        origin: of the page, as the browser names it; None where the request is of no page.
        allowed: CORS_ORIGINS.
    """
    headers = Headers()
    if not allowed:
        return headers
    if "*" not in allowed:
        headers["Vary"] = "Origin"
    if origin is not None and is_allowed(origin, allowed):
        headers["Access-Control-Allow-Origin"] = "*" if "*" in allowed else origin
        headers["Access-Control-Expose-Headers"] = ", ".join(READ)
    return headers


def refusal_headers(allowed: Collection[str]) -> Headers:
    """Return the headers of the web server's own refusals, which every page may read, since they tell of nobody.

    Often the request could not be read, and so not of which page it is.

    Args:
        allowed: CORS_ORIGINS.
    """
    return headers_for("null", ("*",) if allowed else ())


def _answer_preflight() -> Response | None:
    origin, allowed = request.headers.get("Origin"), services().config.CORS_ORIGINS
    is_preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    if not is_preflight or origin is None or not is_allowed(origin, allowed):
        return None
    response = Response(status=HTTPStatus.NO_CONTENT)
    response.headers["Access-Control-Allow-Methods"] = ", ".join(METHODS)
    response.headers["Access-Control-Allow-Headers"] = ", ".join(SENT)
    response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
    return response


def _share(response: Response) -> Response:
    headers = headers_for(request.headers.get("Origin"), services().config.CORS_ORIGINS)
    if headers.pop("Vary", None):
        response.vary.add("Origin")
    response.headers.extend(headers)
    return response
