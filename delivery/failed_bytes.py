"""The spooled bytes of failed files: kept for a retry, in a limited share of the spool."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from core.file_row import FileRow
from core.services import services
from models import UploadStatus
from storage import file_queries

log = logging.getLogger(__name__)

SHARE = 4  # a fourth of the spool


def keep_to_share(rows: Iterable[FileRow]) -> None:
    """Drop the oldest bytes of failed files beyond their share, to leave room for new files.

    Args:
        rows: the failed files whose bytes are in the spool.
    """
    spool = services().spool
    room = spool.capacity_bytes() // SHARE
    for row in sorted(rows, key=lambda row: row.updated_at, reverse=True):
        room -= row.size
        if room < 0:
            log.warning("dropped the bytes of the failed file %s to make room", row.id)
            spool.drop(row.id)


def make_room() -> None:
    """Drop bytes of failed files now, because an upload does not fit; at most once per second."""
    if services().room_looks.due():
        kept = file_queries.among(services().spool.kept())
        keep_to_share([row for row in kept if row.upload_status == UploadStatus.ERROR])
