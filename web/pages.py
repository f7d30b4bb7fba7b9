"""The page at `/`."""

from __future__ import annotations

from typing import NamedTuple

from flask import Blueprint, Response, current_app, jsonify, make_response, render_template, request

from access import auth
from core.services import services
from models import Mode

bp = Blueprint("pages", __name__)

# No inline style and no inline script: a file name that became markup could do nothing.
POLICY = (
    "default-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


class ModeText(NamedTuple):
    """The texts of a mode."""

    answer: str
    """To a program that asks how to upload."""
    promise: str
    """On the page."""


MODES = {
    Mode.NORMAL: ModeText(
        answer="201 when the file is in S3",
        promise="The request itself. You wait until it is there.",
    ),
    Mode.ASYNC: ModeText(
        answer="202 at once; a background thread brings it to S3",
        promise="A background thread. You have your answer at once.",
    ),
    Mode.CELERY: ModeText(
        answer="202 at once; a Celery worker brings it to S3",
        promise="A worker over Redis. You have your answer at once.",
    ),
}


@bp.get("/")
@auth.public
def index() -> Response:
    """Show a browser the page, and any other client the endpoints.
    ---
    get: {operationId: getIndex, tags: [Service], responses: {200: Index}}
    """
    if wants_page():
        return page(Mode.ASYNC)
    return varied(
        jsonify(
            name="Ferryman",
            description="Takes a file, answers at once, and lands it in S3 exactly once.",
            endpoints=_endpoints(),
        )
    )


def _endpoints() -> dict[str, str]:
    """Return what the API document says of each endpoint, in a sentence."""
    paths = current_app.extensions["openapi"]["paths"]
    return {
        f"{method.upper()} {path}": operation["summary"]
        for path, operations in paths.items()
        for method, operation in operations.items()
    }


def wants_page() -> bool:
    """Returns True if the client prefers HTML to JSON; one that takes anything gets JSON."""
    return request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"


def page(mode: Mode) -> Response:
    """Return the page with a mode chosen."""
    presets = services().presets.by_name.values()
    response = varied(make_response(render_template("index.html", modes=MODES, chosen=mode, presets=presets)))
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Cache-Control"] = "no-cache"
    return response


def varied(response: Response) -> Response:
    """Add `Vary: Accept` to a response."""
    response.vary.add("Accept")
    return response
