"""The app with views that fail, each in another place."""

from collections.abc import Iterator

from flask import Flask, Response

import app as service
from access import auth


def create_app() -> Flask:
    """Build the app and its failing views."""
    app = service.create_app()
    for view in (fails, sends_what_no_header_may_hold, fails_while_it_streams):
        app.add_url_rule(f"/{view.__name__}", view_func=auth.public(view))
    return app


def fails() -> Response:
    raise RuntimeError("a fault of ours")


def sends_what_no_header_may_hold() -> Response:
    return Response("", headers={"X-Name": "報告書"})


def fails_while_it_streams() -> Response:
    def stream() -> Iterator[bytes]:
        raise RuntimeError("a fault of ours")
        yield b""

    return Response(stream())
