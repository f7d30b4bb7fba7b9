"""Cleans up after uploads in progress: expired ones, forgotten ones, and files that nobody needs."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from core.database import batched
from core.errors import UploadError, UploadGone, UploadLocked
from core.services import services
from intake.uploads import joining, outcome, rows
from intake.uploads.rows import UploadRow
from intake.uploads.turns import end
from storage import spools
from storage.disk import remove
from storage.growing import UP, is_held

log = logging.getLogger(__name__)

BATCH = 100
GRACE = timedelta(seconds=10)
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
    for row in rows.quiet(spool.id, GRACE):
        if row.parts is not None:
            joining.join_later(row.id)
        elif row.length is not None and _quiet_size(row) == row.length and not (row.concat and rows.is_whole(row)):
            _finish(row)
    _remove_files()


def _quiet_size(row: UploadRow) -> int:
    """Return how many bytes of an upload are here; -1 if a request holds it, or it has lost its file."""
    path = services().spool.path(row.id)
    for candidate in (path.with_suffix(UP), path):
        with suppress(FileNotFoundError):
            return -1 if is_held(candidate) else candidate.stat().st_size
    return -1


def _finish(row: UploadRow) -> None:
    """Finish an upload that is whole."""
    try:
        settled = outcome.settle(row, patience_seconds=0)
    except (UploadGone, UploadLocked):
        return
    except UploadError as error:
        log.warning("the upload %s is not finished: %s", row.id, error.detail)
        return
    if settled.finished_at:
        log.info("the upload %s is finished, though its request died", row.id)


def _remove_files() -> None:
    """Remove the files of uploads that have ended, or have no row."""
    spool = services().spool
    for ids in batched(spool.growing()):
        known = {row.id: row for row in rows.among(ids)}
        for upload_id in ids:
            row = known.get(upload_id)
            if row is None or row.gone_at:
                _remove_quiet(spool.path(upload_id).with_suffix(UP))
                services().ahead.abandon(upload_id, row.key if row else "")


def _remove_quiet(path: Path) -> None:
    """Remove a file to which nobody writes, and which nobody has just begun."""
    with suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > GRACE.total_seconds() and not is_held(path):
            remove(path)
