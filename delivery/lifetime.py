"""Deletes the files whose time is over, and the rows that were kept long enough; called by the sweep."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import and_

from core.background import for_each
from core.database import utcnow
from core.services import services
from models import IN_BUCKET, File, UploadStatus
from storage import file_queries, spools

ROWS_AT_ONCE = 50  # a lock of milliseconds
TURN_SECONDS = 5.0  # then the other housekeeping has its turn


def expire_files() -> None:
    """Delete the files whose time is over, as their owner would: hidden at once, removed by and by."""
    _in_turns(_expire_batch)


def forget_rows() -> None:
    """Delete the rows of files that ended ROW_RETENTION_SECONDS ago; the objects stay."""
    if services().config.ROW_RETENTION_SECONDS:
        for status in (UploadStatus.COMPLETE, UploadStatus.ERROR):
            _in_turns(lambda status=status: _forget_batch(status))  # type: ignore[misc]


def _in_turns(work: Callable[[], int]) -> None:
    """Do work in batches, until there is none or the turn is over."""
    deadline = time.monotonic() + TURN_SECONDS
    while time.monotonic() < deadline and work():
        pass


def _expire_batch() -> int:
    ids = file_queries.over()
    for_each(File.expire, ids)
    return len(ids)


def _forget_batch(status: UploadStatus) -> int:
    """Delete a batch of the rows of this spool, or of a lost one. Returns their number."""
    ferry = services()
    kept = ferry.config.ROW_RETENTION_SECONDS
    if status == UploadStatus.ERROR:  # whose bytes may still be asked for
        kept = max(kept, ferry.config.ERROR_RETENTION_SECONDS)
    mine = [ferry.spool.id] if ferry.spool.is_here() else []
    before = utcnow() - timedelta(seconds=kept)
    ids = file_queries.ended([*mine, IN_BUCKET, *(spool.id for spool in spools.lost())], status, before)
    without_bytes = [file_id for file_id in ids if ferry.spool.drop(file_id)]
    unchanged = and_(File.erased_at.is_(None), File.updated_at < before)
    for start in range(0, len(without_bytes), ROWS_AT_ONCE):
        began = time.monotonic()
        File.remove(without_bytes[start : start + ROWS_AT_ONCE], unchanged)
        time.sleep(time.monotonic() - began)  # so that uploads write as well
    return len(without_bytes)
