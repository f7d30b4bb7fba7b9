"""Deletes a file: its row, its object and its spooled bytes, despite running deliveries and failures."""

from __future__ import annotations

import logging
import random
import time
from itertools import takewhile

from core.background import for_each
from core.errors import StoreError
from core.file_row import FileRow
from core.services import services
from models import IN_BUCKET, File
from storage import bucket, file_queries, spools

log = logging.getLogger(__name__)

TURN_SECONDS = 20.0  # a slow S3 must not keep the other housekeeping waiting


def erase(row: FileRow) -> bool:
    """Hide the file at once, and remove as much of it as possible now; the sweep removes the rest.

    Returns:
        False if another request has erased it.
    """
    if not File.erase(row.id, row.owner):
        return False
    if not row.lease_owner:
        try:
            _remove(row)
        except Exception:  # the file is erased already, and the answer says so
            log.exception("the remains of the erased file %s are left to the sweep", row.id)
    return True


def remove_erased() -> None:
    """Remove the remains of erased files that no run holds, for at most TURN_SECONDS.

    Raises:
        ExceptionGroup: what failed unexpectedly.
    """
    deadline = time.monotonic() + TURN_SECONDS
    own = [services().spool.id, IN_BUCKET, *(spool.id for spool in spools.lost())]
    tried: set[str] = set()
    while rows := [row for row in file_queries.erased(own) if row.id not in tried]:
        if time.monotonic() >= deadline:
            return
        random.shuffle(rows)  # so that those that fail do not always come first
        tried.update(row.id for row in rows)
        for_each(_remove, takewhile(lambda _: time.monotonic() < deadline, rows))


def _remove(row: FileRow) -> None:
    ferry = services()
    try:
        ferry.store.delete(row.key)
        bucket.abort_all(ferry.store, row.key)
    except StoreError as error:
        log.warning("the object of the erased file %s is left to the sweep: %s", row.id, error.detail)
        return
    if _drop(row):
        File.remove([row.id])


def _drop(row: FileRow) -> bool:
    """Drop a file's bytes. Returns True if no spool has any of them; only the sweep of a spool can drop them."""
    if row.spool_id == services().spool.id:
        return services().spool.drop(row.id)
    return row.spool_id == IN_BUCKET or spools.is_lost(row.spool_id)
