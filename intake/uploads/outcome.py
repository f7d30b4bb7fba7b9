"""What comes of a turn at an upload: its File is handed off, or it is ended for good."""

from __future__ import annotations

from http import HTTPStatus

from flask import Response
from werkzeug.exceptions import NotFound

from access import auth
from core.errors import UploadGone, UploadLocked
from core.file_row import FileRow
from core.services import services
from delivery.erase import erase
from intake.upload_rows import GONE
from intake.uploads import joining, rows
from intake.uploads.rows import PARTIAL, UploadRow
from intake.uploads.turns import end, hold
from models import File, Mode
from storage.growing import PATIENCE_SECONDS
from tasks import RUNS


def settle(row: UploadRow, patience_seconds: float = PATIENCE_SECONDS) -> UploadRow:
    """Bring an upload up to what is on the disk; with its last byte it becomes a File, which the sweep takes.

    Args:
        row: the upload, which is no final one.
        patience_seconds: how long a request that writes to it may take to let go; 0 to leave it alone.

    Raises:
        UploadGone: it was ended, has expired, or has lost its bytes.
        UploadLocked: another request does not let go, or the bytes are at another host.
        UploadError: such a file is not accepted, and the upload has ended.
    """
    with hold(row, patience_seconds) as turn:
        file = turn.finish() if not turn.is_finished and turn.is_whole and not row.concat else None
        if not turn.is_finished and turn.offset != turn.row.offset:
            turn.checkpoint()
    if file:
        File.put_forward(file.id)
    return turn.row


def hand_off(file: FileRow | None, row: UploadRow) -> None:
    """Let what has become of the upload go on, once nobody holds it."""
    if file:
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
