"""The page at `/`."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from flask import Blueprint, Response, current_app, jsonify, make_response, render_template, request

from access import auth
from core.errors import StoreError
from core.services import services
from models import Mode

bp = Blueprint("pages", __name__)

# No inline style and no inline script: a file name that became markup could do nothing.
POLICY = (
    "default-src 'self'; connect-src 'self'{bucket}; img-src 'self' data: blob:; "
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
DIRECT = "Straight to S3 from here. You have your answer when it is verified."


@bp.get("/")
@auth.public
def index() -> Response:
    """Show a browser the page, and any other client the endpoints.
    ---
    get: {operationId: getIndex, tags: [Service], responses: {200: Index}}
    """
    if wants_page():
        return page(Mode.ASYNC, prefers_direct=True)
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


def page(mode: Mode, prefers_direct: bool = False) -> Response:
    """Return the page with a mode chosen.

    Args:
        mode: which; a browser without scripts can do no other.
        prefers_direct: whether the bytes go to S3 itself where that is on.
    """
    presets, bucket = services().presets.by_name.values(), _bucket_origin()
    texts = {**{name: text.promise for name, text in MODES.items()}, **({Mode.DIRECT: DIRECT} if bucket else {})}
    checked = Mode.DIRECT if bucket and prefers_direct else mode
    shown = render_template("index.html", modes=texts, chosen=mode, checked=checked, presets=presets)
    response = varied(make_response(shown))
    response.headers["Content-Security-Policy"] = POLICY.format(bucket=bucket)
    response.headers["Cache-Control"] = "no-cache"
    return response


def _bucket_origin() -> str:
    """Return the origin to which the page may send bytes, with a blank before it; empty if there is none."""
    if not services().config.takes_direct:
        return ""
    with suppress(StoreError):
        return f" {services().door.signer.origin}"
    return ""


def varied(response: Response) -> Response:
    """Add `Vary: Accept` to a response."""
    response.vary.add("Accept")
    return response
