"""The bytes of failed files: kept for another try, but in a share of the spool of their own."""

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
    """Drop the oldest bytes of failed files that are over their share, so that they leave room for new files.

    Args:
        rows: the failed files whose bytes are in the spool.
    """
    spool = services().spool
    room = spool.capacity_bytes() // SHARE
    for row in sorted(rows, key=lambda row: row.updated_at, reverse=True):
        room -= row.size
        if room < 0:
            log.warning("the bytes of file %s, which failed, make room for others", row.id)
            spool.drop(row.id)


def make_room() -> None:
    """Do so at once, because an upload does not fit; at most once in a second."""
    if services().room_looks.due():
        kept = file_queries.among(services().spool.kept())
        keep_to_share([row for row in kept if row.upload_status == UploadStatus.ERROR])
