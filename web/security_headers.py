"""Security headers of every response."""

from __future__ import annotations

from flask import Flask, Response, request

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser sends a form of our own page with Origin: null
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
HSTS = "max-age=31536000"


def init_app(app: Flask) -> None:
    """Add the headers to every response whose view has not set them.

    Source: https://owasp.org/www-project-secure-headers/
    """
    app.after_request(_secure)


def _secure(response: Response) -> Response:
    for name, value in ALWAYS.items():
        response.headers.setdefault(name, value)
    if response.is_json:
        response.headers.setdefault("Cache-Control", "no-store")
    if request.is_secure:
        response.headers.setdefault("Strict-Transport-Security", HSTS)
    return response
