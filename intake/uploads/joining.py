"""Joins the parts of a final upload, as soon as they are all here."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress

from core.errors import Busy, BytesLost, SpoolUnavailable, UploadError, UploadGone, UploadLocked
from core.file_row import FileRow
from core.services import services
from delivery.submit import submit
from intake.uploads import rows
from intake.uploads.rows import UploadRow
from intake.uploads.turns import end, hold
from models import File
from storage.disk import remove
from storage.growing import UP

log = logging.getLogger(__name__)

AT_ONCE_BYTES = 1024**3
"""More than that takes longer than a client should wait."""


def join_soon(final: UploadRow) -> FileRow | None:
    """Join a final upload if its parts are here: now, or in the background if that takes long.

    Returns:
        The File; None if it comes later.

    Raises:
        UploadError: the parts cannot become a file.
    """
    parts = _parts(final)
    if parts is None:
        return None
    if sum(part.length for part in parts) <= AT_ONCE_BYTES:
        with suppress(UploadLocked):  # another process has seen that they are here
            return _join(final, parts)
    submit(final.id, join_later)
    return None


def join_later(upload_id: str) -> None:
    """Join a final upload, if its parts are here; its File then waits for the sweep."""
    final = rows.find(upload_id)
    if final is None or final.gone_at or final.finished_at:
        return
    try:
        parts = _parts(final)
        row = _join(final, parts) if parts is not None else None
    except (UploadGone, UploadLocked, Busy, SpoolUnavailable) as error:
        log.info("the upload %s is not joined yet: %s", upload_id, error.detail)
        return
    except UploadError as error:
        log.warning("the upload %s cannot be joined: %s", upload_id, error.detail)
        return
    if row:
        File.put_forward(row.id)


def join_with(part: UploadRow) -> None:
    """Join the final uploads that have waited for a part."""
    for final in rows.finals(part.owner):
        if part.id in json.loads(final.parts or "[]"):
            submit(final.id, join_later)


def _parts(final: UploadRow) -> Sequence[UploadRow] | None:
    """Return the parts of a final upload in their order; None if they are not all here.

    Raises:
        UploadGone: one has ended, and so the final upload ends too.
    """
    ids = json.loads(final.parts or "[]")
    found = {row.id: row for row in rows.among(sorted(set(ids)))}
    if any(part not in found or found[part].gone_at for part in ids):
        end(final.id)
        raise UploadGone("A part of the upload was ended, or has expired.")
    return [found[part] for part in ids] if all(map(rows.is_whole, found.values())) else None


def _join(final: UploadRow, parts: Sequence[UploadRow]) -> FileRow | None:
    with hold(final, patience_seconds=0) as turn:
        if turn.is_finished:
            return None
        try:
            row = turn.join(parts)
        except BytesLost as error:
            log.error("the upload %s cannot be joined: %s", final.id, error.detail)
            turn.end()
            raise UploadGone(error.detail) from error
    for part in parts:
        remove(services().spool.path(part.id).with_suffix(UP))
    return row
