"""What comes of a turn at an upload: its File is handed off, or it is ended for good."""

from __future__ import annotations

import time
from http import HTTPStatus

from flask import Response, g
from werkzeug.exceptions import NotFound

from access import auth
from core.errors import UploadGone, UploadLocked
from core.file_row import FileRow
from core.metrics import metrics
from core.services import services
from delivery.erase import erase
from intake.uploads import joining, rows
from intake.uploads.rows import PARTIAL, UploadRow
from intake.uploads.turns import GONE, end, hold
from models import File, Mode
from tasks import RUNS


def hand_off(file: FileRow | None, row: UploadRow) -> None:
    """Let what has become of the upload go on, once nobody holds it."""
    if file:
        metrics().accepted(file.mode, file.size, time.perf_counter() - g.began)
        RUNS[Mode(file.mode)]().hand_off(file)
    elif row.concat == PARTIAL and rows.is_whole(row):
        joining.join_with(row)
    elif row.parts is not None and (joined := joining.join_soon(row)):
        RUNS[Mode(joined.mode)]().hand_off(joined)


def terminate(row: UploadRow) -> Response:
    """Answer DELETE: end the upload; or erase its File, if it has become one."""
    if row.gone_at:
        raise UploadGone(GONE)
    if row.finished_at:
        file = File.find_own(row.id, *auth.principal().scope)
        if file is None or not erase(file):
            raise NotFound("Upload not found.")
    else:
        end(row.id)  # first, so that a request that writes cannot finish it
        if row.spool_id == services().spool.id:
            _remove(row)
    return Response(status=HTTPStatus.NO_CONTENT)


def _remove(row: UploadRow) -> None:
    """Stop the request that writes to an ended upload, and remove its bytes."""
    try:
        with hold(row) as turn:
            turn.end()
    except (UploadGone, UploadLocked):
        pass  # what is locked, the cleaning removes


def location(upload_id: str) -> str:
    """Return the address of an upload: relative unless configured, since proxies hide scheme and host."""
    return f"{services().config.PUBLIC_URL.rstrip('/')}/uploads/{upload_id}"
