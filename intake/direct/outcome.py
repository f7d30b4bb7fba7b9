"""What becomes of a direct upload: a File, or nothing."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from access import quota
from core.database import new_id, transaction, utcnow
from core.errors import (
    Conflict,
    NotAsAnnounced,
    NothingThere,
    StoreError,
    StoreRefused,
    UploadError,
    UploadGone,
    UploadLocked,
)
from core.every import Every
from core.file_row import FileRow
from core.metrics import metrics
from core.services import services
from delivery.deliver import backoff_seconds
from delivery.submit import submit
from intake import idempotency, options
from intake.accept import Acceptance
from intake.digests import Digests
from intake.direct import rows
from intake.direct.arrival import TakesLong, Verified, check_total, sent_parts, verify
from intake.direct.rows import PARTS, DirectRow
from intake.in_progress import reservation_of
from intake.permit import REFUSALS, check_upload
from intake.received import ReceivedFile
from intake.upload_rows import principal_of
from models import IN_BUCKET, File, Mode, UploadStatus
from processing import recipes
from processing.recipes import Recipe
from tasks import Run
from web.representation import own_file

log = logging.getLogger(__name__)

REFUSED = (NotAsAnnounced, UploadGone)
"""What no repetition would mend."""
NEVER_CAME = "The bytes never came to S3."


class Landed:
    """Stands for the spool file of an upload whose bytes are in S3.

    Args:
        file_id: the upload's id.
        size: bytes of the object.
        crc64nvme: its checksum in base64; empty while nobody knows it.
    """

    def __init__(self, file_id: str, size: int, crc64nvme: str) -> None:
        self.file_id = file_id
        self.size = size
        self.crc64nvme = crc64nvme

    def keep(self) -> None:
        """Do nothing: the bytes are kept."""

    def release(self) -> None:
        """Do nothing."""

    def discard(self) -> None:
        """Do nothing: the caller removes the object."""


@dataclass
class DirectAcceptance(Acceptance):
    """The acceptance of a file that its client has sent to S3."""

    found: Verified | None = None
    """What was verified; None if it is to be verified later."""
    url: str | None = None
    """The object's address, once it is verified."""

    def _wanted(self, received: ReceivedFile) -> Sequence[Recipe]:
        return super()._wanted(received) if self.found else ()  # its type is not known yet

    def _insert(self, connection: Connection, row: FileRow) -> None:
        (File.insert_complete if self.found else File.insert)(connection, row)

    def _state(self) -> dict[str, Any]:
        now = utcnow()
        state = {**super()._state(), "spool_id": IN_BUCKET, "bytes_sent": self.incoming.size, "due_at": now}
        if self.found is None:
            return {**state, "detected_type": ""}
        done = {"upload_status": UploadStatus.COMPLETE, "attempts": 1, "url": self.url, "completed_at": now}
        return {**state, **done, "sha256": self.found.sha256}


def finish(row: DirectRow, named: Sequence[tuple[int, str]] | None = None) -> FileRow:
    """Make a File of an upload whose client says that all its bytes are in S3.

    Args:
        row: the upload.
        named: the numbers and ETags of the parts that the file shall have; None for all that are there.

    Returns:
        The File: COMPLETE; or PENDING, if S3 does not answer now, or its bytes are still to be read.

    Raises:
        NothingThere: they are not all there.
        NotAsAnnounced: they are others than were announced, and are removed.
        UploadGone: the upload was ended, or has expired.
        UploadLocked: another request verifies it.
        StoreError: S3 refuses, or does not answer and nobody knows how many bytes there are.
    """
    if row.finished_at or row.promised:
        return own_file(row.id)
    parts: dict[str, Any] = {} if named is None else {"parts": json.dumps(named)}
    try:
        with rows.claimed(row, closing=True, **parts) as held:
            return _finished(held)
    except UploadGone:
        if (now := rows.find(row.id)) and now.finished_at:  # another request has finished it meanwhile
            return own_file(row.id)
        raise


def _finished(held: DirectRow) -> FileRow:
    if held.promised:  # by another request meanwhile
        rows.release(held)
        return own_file(held.id)
    try:
        return accept(held, verify(held, True, lambda _: None))
    except TakesLong:
        file = _postpone(held)
        submit(held.id, look_again)
        return file
    except StoreRefused:
        raise
    except StoreError as error:
        if held.size is None:
            raise
        log.warning("the direct upload %s is verified later: %s", held.id, error.detail)
        return _postpone(held)
    except REFUSED:
        refuse(held)
        raise


def accept(held: DirectRow, found: Verified) -> FileRow:
    """Write the File of a verified upload.

    Raises:
        NotAsAnnounced: such a file is not accepted.
        UploadError: it cannot be accepted now.
    """
    began = time.perf_counter()
    row = _insert(held, found.size, found)
    metrics().accepted(Mode.DIRECT, row.size, time.perf_counter() - began)
    _tell(held, row)
    return row


def _postpone(held: DirectRow) -> FileRow:
    """Write the File of an upload that is verified later."""
    row = _insert(held, held.size, None)
    rows.release(held)
    services().bell.ring()
    return row


def _insert(held: DirectRow, size: int, found: Verified | None) -> FileRow:
    principal, claim = principal_of(held), idempotency.Claim(None, services().config.LEASE_SECONDS)
    landed = Landed(held.id, size, found.crc64nvme if found else "")
    reservation = reservation_of(held.id, principal)
    url = services().store.url(held.key) if found else None
    acceptance = DirectAcceptance(Mode.DIRECT, principal, claim, reservation, landed, Run(), found=found, url=url)
    received = ReceivedFile(
        name=held.name,
        content_type=held.content_type,
        key=held.key,
        digests=Digests(lambda name: None),
        detected_type=found.detected_type if found else held.content_type,
        options=options.read(json.loads(held.options)),
    )

    def also(connection: Connection) -> None:
        (rows.finish if found else rows.promise)(connection, held)

    with _judged():
        return acceptance.complete(received, also)


@contextmanager
def _judged() -> Iterator[None]:
    """Turn what the file itself is refused for into one error."""
    try:
        yield
    except UploadError as error:
        if error.status in REFUSALS:
            raise NotAsAnnounced(error.detail) from error
        raise


def _tell(held: DirectRow, file: FileRow) -> None:
    """Let what waits for a COMPLETE file go on, and remove what its client could still replace."""
    if file.process:
        services().slots.hand_off(file.id)
    services().bell.ring()
    if held.landing_key != held.key:
        _delete(held.landing_key)


def look_again(upload_id: str) -> None:
    """Look at an upload, unless another does so now."""
    row = rows.find(upload_id)
    if row:
        look(row)


def look(row: DirectRow) -> None:
    """Look at an unfinished upload, and do what follows: accept it, wait on, or end it."""
    with suppress(UploadGone, UploadLocked), rows.claimed(row, patience_seconds=0) as held:
        if held.promised:
            _settle(held, File.find(held.id))
        else:
            _look(held)


def _look(held: DirectRow) -> None:
    """Look at an upload of which nothing was promised yet."""
    try:
        if held.kind == PARTS and not held.closing:
            check_total(held, sent_parts(held))
            raise NothingThere(NEVER_CAME)
        accept(held, verify(held, False, _keeping(held)))
    except REFUSED as error:
        log.info("the direct upload %s has ended: %s", held.id, error.detail)
        refuse(held)
    except Conflict as error:  # not all is there, or it cannot be completed as it is
        if held.expires_at <= utcnow():
            log.info("the direct upload %s has expired: %s", held.id, error.detail)
            refuse(held)
        else:
            rows.release(held)
    except UploadError as error:  # S3 does not answer, or a quota is used up
        log.warning("the direct upload %s is looked at again: %s", held.id, error.detail)
        rows.release(held)


def _settle(held: DirectRow, file: FileRow | None) -> None:
    """Verify an upload whose File is promised already."""
    run_id, config = new_id(), services().config
    if file is None or file.erased_at or (file.upload_status == UploadStatus.ERROR and _is_over(file)):
        refuse(held)
        return
    if file.upload_status == UploadStatus.COMPLETE:  # this process's predecessor died between two transactions
        _finish(held)
        return
    if File.claim(file.id, run_id, config.LEASE_SECONDS, IN_BUCKET) is None:
        rows.release(held)
        return
    try:
        _complete(held, run_id, verify(held, False, _keeping(held, run_id)))
    except (*REFUSED, NothingThere) as error:
        reason = NEVER_CAME if isinstance(error, NothingThere) else error.detail
        File.fail(file.id, run_id, reason)
        refuse(held)
    except UploadError as error:
        if file.retry_until <= utcnow():
            File.fail(file.id, run_id, error.detail)
        else:
            File.give_back(file.id, run_id, backoff_seconds(file.attempts), error.detail)
        rows.release(held)
    services().bell.ring()


def _is_over(file: FileRow) -> bool:
    """Returns True if nobody can ask for another attempt any more."""
    return file.updated_at + timedelta(seconds=services().config.ERROR_RETENTION_SECONDS) <= utcnow()


def _complete(held: DirectRow, run_id: str, found: Verified) -> None:
    """Finish a File that is verified now."""
    asked, types = options.read(json.loads(held.options)), (held.content_type, found.detected_type)
    with _judged():
        check_upload(principal_of(held), Mode.DIRECT, found.size, types, asked)
        wanted = recipes.choose(services().presets, asked.process, *types)
    facts = {
        "size": found.size,
        "bytes_sent": found.size,
        "crc64nvme": found.crc64nvme,
        "sha256": found.sha256,
        "detected_type": found.detected_type,
        "process": recipes.dump(wanted),
    }
    if not File.verified(held.id, run_id, services().store.url(held.key), **facts):
        raise UploadLocked("The file was taken over by another run, or deleted.")
    _finish(held)
    file = File.find(held.id)
    if file:
        metrics().accepted(Mode.DIRECT, file.size, 0)
        _tell(held, file)


def _finish(held: DirectRow) -> None:
    with transaction() as connection:
        rows.finish(connection, held)


def _keeping(held: DirectRow, run_id: str | None = None) -> Callable[[int], None]:
    """Return what keeps the upload, and the File's lease, while its object is read."""
    every = Every(services().config.LEASE_SECONDS / 3)

    def keep(_: int) -> None:
        if every.due():
            rows.renew(held)
            if run_id:
                File.renew(held.id, run_id, services().config.LEASE_SECONDS)

    return keep


def refuse(row: DirectRow) -> bool:
    """End an upload for good, and remove what has come of it.

    Returns:
        False if it has ended already, or become a File.
    """
    with transaction() as connection:
        quota.forget(connection, [row.id])
        is_ended = rows.end(connection, [row.id]) == 1
    if is_ended:
        remove(row)
    return is_ended


def remove(row: DirectRow) -> None:
    """Remove what is in S3 of an ended upload. What cannot be removed now is tried again before the row goes."""
    for key in {row.landing_key, row.key}:
        _delete(key)
    if row.s3_upload_id:
        with _left_to_later(row.key):
            services().store.abort_parts(row.key, row.s3_upload_id)


def _delete(key: str) -> None:
    with _left_to_later(key):
        services().store.delete(key)


@contextmanager
def _left_to_later(key: str) -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        log.warning("what is left of %s in S3 is removed later: %s", key, error.detail)
