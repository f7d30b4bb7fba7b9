"""GET at the upload addresses: how to send a file."""

from __future__ import annotations

import shlex

from flask import Blueprint, Response, jsonify, request

from access import auth
from intake.forms import chunked
from models import Mode
from web.pages import MODES, page, varied, wants_page

bp = Blueprint("help", __name__)


@bp.get("/normal_upload", defaults={"mode": Mode.NORMAL})
@bp.get("/async_upload", defaults={"mode": Mode.ASYNC})
@bp.get("/celery_upload", defaults={"mode": Mode.CELERY})
@auth.public
def upload_help(mode: Mode) -> Response:
    """Show a browser the page with this mode chosen, and any other client how to send a file.
    ---
    get: {operationId: getHelp, tags: [Service], responses: {200: Help}}
    """
    chunked.refuse_look_up(request.args)
    if wants_page():
        return page(mode)
    host = request.headers.get("Host") or request.host  # as it was sent: not every name can be shown in Unicode
    example = f"curl -F file=@report.pdf {shlex.quote(f'{request.scheme}://{host}{request.path}')}"
    return varied(
        jsonify(description="Post one file, in the form field 'file'.", answer=MODES[mode].answer, example=example)
    )
