"""The parts of addresses."""

from __future__ import annotations

from flask import Flask
from werkzeug.routing import BaseConverter


class IdConverter(BaseConverter):
    """The id of an upload; no other text reaches a view."""

    regex = "[0-9a-f]{32}"


def init_app(app: Flask) -> None:
    """Let rules say `<id:...>`."""
    app.url_map.converters["id"] = IdConverter
