"""Cleans up after uploads in progress: expired ones, forgotten ones, and files that nobody needs."""

from __future__ import annotations

import logging
import time

from core.errors import UploadError, UploadGone, UploadLocked
from core.services import services
from intake.uploads import joining, rows
from intake.uploads.rows import UploadRow
from intake.uploads.turns import end, hold
from models import File
from storage import spools
from storage.growing import UP, is_held

log = logging.getLogger(__name__)

BATCH = 100
GRACE_SECONDS = 10.0
"""Between the creation of a file and its row, and between the last byte and the end of its request."""


def expire() -> None:
    """End the uploads whose time is over, but none that a request writes to."""
    own = services().spool.id
    lost = [spool.id for spool in spools.lost() if spool.id != own]
    for row in rows.expired([own], BATCH):
        if not is_held(services().spool.path(row.id).with_suffix(UP)):
            log.info("the upload %s has expired", row.id)
            end(row.id)
    for row in rows.expired(lost, BATCH):
        end(row.id)


def clean() -> None:
    """Finish the uploads whose last byte has come, though their request died; remove files of ended ones."""
    spool = services().spool
    if not spool.is_here():
        return
    quiet = [upload_id for upload_id in spool.growing() if _is_quiet(upload_id)]
    known = {row.id: row for row in rows.among(quiet)}
    for upload_id in quiet:
        row = known.get(upload_id)
        if row is None or row.gone_at:
            spool.path(upload_id).with_suffix(UP).unlink(missing_ok=True)
        elif not row.finished_at and not row.parts:
            _finish(row)
    for final in rows.waiting_finals([spool.id]):
        joining.join_later(final.id)


def _is_quiet(upload_id: str) -> bool:
    """Returns True if nobody writes to an upload's file, nor has just begun it."""
    path = services().spool.path(upload_id).with_suffix(UP)
    try:
        return time.time() - path.stat().st_mtime > GRACE_SECONDS and not is_held(path)
    except FileNotFoundError:
        return False


def _finish(row: UploadRow) -> None:
    """Finish an upload that is whole."""
    size = services().spool.path(row.id).with_suffix(UP).stat().st_size
    if row.length is None or size != row.length or (rows.is_whole(row) and row.concat):
        return
    try:
        with hold(row, patience_seconds=0) as turn:
            if row.concat:
                turn.checkpoint()
                return
            file = turn.finish() if turn.is_whole else None
    except (UploadGone, UploadLocked):
        return
    except UploadError as error:
        log.warning("the upload %s is not finished: %s", row.id, error.detail)
        return
    if file:
        log.info("the upload %s is finished, though its request died", row.id)
        File.put_forward(file.id)
