"""The sweep: delivers the files that no runner delivers. Needs the database, but no broker."""

from __future__ import annotations

import logging
from datetime import timedelta

from core.background import for_each
from core.database import utcnow
from core.services import services
from delivery import failed_bytes
from delivery.deliver import drop_bytes, end_without_bytes, take_digest
from delivery.submit import submit
from models import UploadStatus, awaits_digest
from storage import file_queries, spools

log = logging.getLogger(__name__)


def sweep() -> bool:
    """Submit this spool's due files while the pool has room. Returns True if more may be waiting."""
    ferry = services()
    if not ferry.spool.is_here():  # its files wait
        return False
    free = ferry.pool.threads - ferry.pool.held
    room = 0 if ferry.pool.is_full else max(1, free)
    found = file_queries.due(ferry.spool.id, room)
    for file_id in found:
        log.info("file %s is due, and submitted by the sweep", file_id)
        submit(file_id)
    has_taken_all_there_was_room_for = len(found) == room
    return free > 0 and has_taken_all_there_was_room_for


def drop_spooled() -> None:
    """Drop unneeded spool files: delivered ones, long failed ones, and partial ones of dead writers."""
    ferry = services()
    if not ferry.spool.is_here():
        return
    ferry.spool.drop_abandoned_parts()
    failed_before = utcnow() - timedelta(seconds=ferry.config.ERROR_RETENTION_SECONDS)
    failed = []
    for row in file_queries.among(ferry.spool.kept()):
        if awaits_digest(row):
            submit(row.id, take_digest)
        elif row.upload_status == UploadStatus.COMPLETE:
            drop_bytes(row)
        elif row.upload_status == UploadStatus.ERROR:
            failed.append(row)
            if row.updated_at < failed_before:
                ferry.spool.drop(row.id)
    failed_bytes.keep_to_share(failed)


def record_spool() -> None:
    """Record for the other hosts that this one lives."""
    spools.record_use(services().spool.id)


def end_lost() -> None:
    """Finish the files of lost hosts whose retry window is over."""
    if gone := spools.lost():
        for_each(end_without_bytes, file_queries.expired([spool.id for spool in gone]))
