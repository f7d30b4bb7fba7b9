"""Accepting a file: bytes into the spool, then the row, then the hand-off, so that nothing accepted is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from flask import request
from sqlalchemy import Connection

from access import auth, quota
from access.principal import Principal
from core import metadata
from core.database import new_id, transaction, utcnow
from core.errors import Busy
from core.file_row import FileRow
from core.metrics import metrics
from core.services import services
from delivery import failed_bytes
from intake import idempotency
from intake.body import declared_length
from intake.forms.form import read_form
from intake.options import UploadOptions
from intake.permit import check_options, check_upload, shortest
from intake.raw import is_raw, read_raw
from intake.received import ReceivedFile
from models import File, Mode, UploadStatus
from processing import recipes
from processing.recipes import Recipe
from storage.spool_file import SpoolFile
from tasks import RUNS, Run
from web.representation import own_file


def accept(mode: Mode) -> FileRow:
    """Accept the file that the request brings: in a multipart form, or as its whole body.

    Args:
        mode: how the file goes to S3.

    Returns:
        The file's row, or that of an equal earlier request with the same Idempotency-Key.

    Raises:
        UploadError: the file is not accepted.
    """
    began, config = time.perf_counter(), services().config
    length, key = declared_length(request, config.MAX_CONTENT_LENGTH), request.headers.get("Idempotency-Key")
    with prepare(mode, length, key) as acceptance:
        also_digest = ("sha256",) if key else ()
        read = read_raw if is_raw(request) else read_form
        received = read(request, acceptance.incoming, config, acceptance.arrived, also_digest)
        row = acceptance.complete(received)
    if acceptance.is_new:
        metrics().accepted(mode, row.size, time.perf_counter() - began)
        acceptance.run.hand_off(row)
    return row


@contextmanager
def prepare(mode: Mode, length: int, key: str | None) -> Iterator[Arriving]:
    """Prepare the acceptance of one file: room in the pool, the spool and the quota, and its Idempotency-Key.

    The block receives the file and completes the acceptance; if it raises, nothing of the file stays.

    Args:
        mode: how the file goes to S3.
        length: bytes of the request's body; 0 if the client does not declare them.
        key: the Idempotency-Key, or None.

    Raises:
        UploadError: there is no room.
    """
    ferry, principal, file_id = services(), auth.principal(), new_id()
    check_upload(principal, mode)
    if mode == Mode.ASYNC and ferry.pool.is_full:
        raise Busy("Too many files are waiting for S3; try again later.")
    if not ferry.spool.has_room(length):
        failed_bytes.make_room()
    with (
        idempotency.claim(key, principal.scope, ferry.config.LEASE_SECONDS) as claim,
        # What repeats an earlier request uses up nothing.
        quota.reserve(file_id, principal, length, ferry.config, is_needed=not claim.earlier) as reservation,
        ferry.spool.receive(file_id, length) as incoming,
    ):
        acceptance = Arriving(mode, principal, claim, reservation, incoming, RUNS[mode]())
        try:
            yield acceptance
        except BaseException:
            acceptance.run.give_up()
            raise


class Kept(Protocol):
    """The bytes of a file, wherever they are."""

    file_id: str

    @property
    def size(self) -> int:
        """How many."""

    @property
    def crc64nvme(self) -> str:
        """Their checksum, in base64."""

    def keep(self) -> None:
        """Keep them under their name, so that a row can tell of them."""

    def release(self) -> None:
        """Leave them to the row that tells of them."""

    def discard(self) -> None:
        """Remove them."""


@dataclass
class Acceptance:
    """The acceptance of one file."""

    mode: Mode
    principal: Principal
    claim: idempotency.Claim
    reservation: quota.Reservation
    incoming: Kept
    run: Run
    is_new: bool = True
    """False once the request has turned out to repeat an earlier one."""
    is_type_known: bool = False
    """True once the first bytes have told the file's type."""

    def check(self, received: ReceivedFile) -> None:
        """Check the file as far as it has arrived.

        Raises:
            UploadError: the principal may not upload this.
        """
        types = (received.content_type, received.detected_type) if received.detected_type else None
        check_upload(self.principal, self.mode, self.incoming.size, types, received.options)
        if types and not self.is_type_known:  # once, before most of the bytes
            self.is_type_known = True
            recipes.choose(services().presets, received.options.process, *types)

    def complete(
        self, received: ReceivedFile, also: Callable[[Connection], None] = lambda connection: None
    ) -> FileRow:
        """Commit the row of a file that has arrived, or find the row of an equal earlier request.

        Args:
            received: what is known of the file.
            also: what else is written in the same transaction.

        Returns:
            The row; the file is this request's own if `is_new`.

        Raises:
            Conflict: another request has taken over the key or the room.
            KeyReused: the key belongs to another request.
            LimitReached: no more is made of this owner's files today.
            UploadError: the principal may not upload this.
        """
        options, types = received.options, (received.content_type, received.detected_type)
        check_upload(self.principal, self.mode, self.incoming.size, types, options)
        check_options(options, services().config)
        wanted = self._wanted(received)
        if wanted:
            quota.check_processing(self.principal, services().config)
        fingerprint = self._fingerprint(received)
        if earlier := self.claim.match(fingerprint):
            self.is_new = False
            self.incoming.discard()
            self.run.give_up()
            return own_file(earlier)
        self.incoming.keep()
        row = self._new_row(received, wanted)
        with transaction() as connection:
            self._insert(connection, row)
            self.reservation.settle(connection, row.size)
            self.claim.finish(connection, fingerprint, row.id)
            also(connection)
            self.incoming.release()  # a commit whose answer is lost may have happened
        return row

    def _wanted(self, received: ReceivedFile) -> Sequence[Recipe]:
        """Return what shall be made of the file."""
        types = received.content_type, received.detected_type
        return recipes.choose(services().presets, received.options.process, *types)

    def _insert(self, connection: Connection, row: FileRow) -> None:
        File.insert(connection, row)

    def _state(self) -> dict[str, Any]:
        """Return the columns that tell where the bytes are, and what is still to be done with them."""
        now, config = utcnow(), services().config
        return {
            "spool_id": services().spool.id,
            "upload_status": UploadStatus.PENDING,
            "attempts": 0,
            "bytes_sent": 0,
            "due_at": now + timedelta(seconds=config.LEASE_SECONDS),
        }

    def _fingerprint(self, received: ReceivedFile) -> str:
        digest = received.digests.known("sha256") or ""
        asked = received.options
        more = [repr(sorted(asked.metadata.items())), str(asked.expires_in)] if asked != UploadOptions() else []
        more += [repr(asked.process)] if asked.process else []
        return idempotency.fingerprint(self.mode, received.name, received.content_type, digest, *more)

    def _new_row(self, received: ReceivedFile, wanted: Sequence[Recipe]) -> FileRow:
        now, config = utcnow(), services().config
        limits, asked = self.principal.limits, received.options
        words = metadata.check({**asked.metadata, **limits.metadata})
        seconds = shortest(asked.expires_in, limits.file_expires_in, config.FILE_TTL_SECONDS)
        values = {
            "id": self.incoming.file_id,
            "owner": self.principal.owner,
            "subject": self.principal.subject,
            "name": received.name,
            "key": received.key,
            "mode": self.mode,
            "size": self.incoming.size,
            "content_type": received.content_type,
            "detected_type": received.detected_type,
            "crc64nvme": self.incoming.crc64nvme,
            "sha256": received.digests.known("sha256"),
            "user_metadata": metadata.dump(words) if words else None,
            "process": recipes.dump(wanted),
            "expires_at": now + timedelta(seconds=seconds) if seconds else None,
            "created_at": now,
            "updated_at": now,
            "retry_until": now + timedelta(seconds=config.RETRY_WINDOW_SECONDS),
        }
        return File.draft(**values | self._state())


@dataclass
class Arriving(Acceptance):
    """The acceptance of a file that a request brings."""

    incoming: SpoolFile

    def arrived(self, received: ReceivedFile, chunk: bytes) -> None:
        """Handle a chunk that has arrived and is in the spool.

        Raises:
            UploadError: the principal may not upload this.
        """
        self.check(received)
        self.claim.renew()
        self.reservation.renew()
        self.run.arrived(self.incoming, received.key, received.content_type, chunk)
