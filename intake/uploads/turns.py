"""A request's turn at an upload in progress: it holds the file, appends to it, and finishes it."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property, partial
from types import TracebackType
from typing import Protocol, Self

from flask import Request
from sqlalchemy import Connection
from werkzeug.exceptions import NotFound

from access import auth, quota
from core.database import transaction, utcnow
from core.errors import (
    BodyBroken,
    Busy,
    BytesLost,
    ChecksumMismatch,
    Interrupted,
    InvalidUpload,
    SpoolUnavailable,
    TooSlow,
    UploadError,
    UploadGone,
    UploadLocked,
    UploadTooLarge,
)
from core.every import Every
from core.file_row import FileRow
from core.metrics import metrics
from core.services import services
from intake import body, idempotency, options
from intake.accept import Acceptance
from intake.digests import Digests
from intake.in_progress import reservation_of
from intake.permit import REFUSALS
from intake.received import ReceivedFile, check_type
from intake.sniff import HEAD_BYTES, detect
from intake.upload_rows import GONE, is_own, principal_of
from intake.uploads import rows
from intake.uploads.rows import UploadRow
from models import Mode
from storage.growing import PATIENCE_SECONDS, UP, Growing
from storage.section import Section
from tasks import RUNS

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 10.0
STEP_BYTES = 16 * 1024 * 1024
"""In which quota is reserved for an upload whose length nobody knows."""


class Check(Protocol):
    """Verifies the body of one request."""

    def update(self, chunk: bytes) -> None:
        """Add a chunk of bytes."""

    def is_right(self, received: Section) -> bool:
        """Returns True if the bytes are those that the client meant.

        Args:
            received: the whole body, to be read again if need be.
        """


class Turn:
    """One request's turn at an upload. Only the turn changes the upload, from its begin to its end.

    Args:
        row: the upload.
        file: its file, which the turn holds; None if the upload is finished.
    """

    def __init__(self, row: UploadRow, file: Growing | None) -> None:
        self.row = row
        self._held = file
        self._received: ReceivedFile | None = None
        self._reserved = 0
        self._began = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held:
            self._held.close()

    @property
    def is_finished(self) -> bool:
        """True if the upload has become a File."""
        return self._held is None

    @property
    def offset(self) -> int:
        """How many bytes are here."""
        return self._held.size if self._held else int(self.row.offset)

    @property
    def is_whole(self) -> bool:
        """True if all bytes are here."""
        return bool(self.row.closing) and self.offset == self.row.length

    @property
    def _file(self) -> Growing:
        if self._held is None:
            raise UploadGone(GONE)
        return self._held

    def set_length(self, length: int) -> None:
        """Fix the length of an upload that was begun without one.

        Raises:
            InvalidUpload: it has another length already, or more bytes.
            UploadTooLarge: it is over the limit.
            UploadGone: the upload was ended meanwhile.
        """
        if length == self.row.length:
            return
        if self.row.length is not None:
            raise InvalidUpload(f"The upload's length is {self.row.length}, and cannot change.")
        if length < self.offset:
            raise InvalidUpload(f"The upload has {self.offset} bytes already.")
        check_length(length)
        self._reservation.extend(length)
        self._move(length=length)

    def close(self) -> None:
        """Note that the client sends its last bytes now."""
        if not self.row.closing:
            self._move(closing=True)

    def receive(self, request: Request, check: Check | None = None) -> None:
        """Append the body of a request. What arrives of it is kept, unless it had to be verified.

        Args:
            request: a request with an unread body.
            check: verifies the body; without it, any body is right.

        Raises:
            UploadTooLarge: there is more than the upload's length, or more than is allowed.
            Interrupted: the body ended early, or another request has taken over.
            ChecksumMismatch: the body is not what the client meant, and nothing of it is kept.
            Busy, LimitReached: there is no room.
            UploadError: such a file is not accepted, and the upload has ended.
        """
        ferry, declared, left = services(), request.content_length or 0, self._most - self.offset
        if declared > left:
            raise self._too_large()
        ferry.spool.require_for_upload(declared)
        if self.row.length is None and declared:
            self._reserve(self.offset + declared)
        if check:
            ferry.ahead.forbid(self.row.id)
            self._move(tentative=True)
        start, crc = self.offset, self._file.crc64nvme
        with ferry.spool.writers.writing(self.row.id, _stop(request)):
            failure = self._append(request, check)
        if check and (failure or not check.is_right(self._file.read(start, self.offset))):
            self._file.cut(start, crc)
            failure = failure or ChecksumMismatch("The bytes do not match their checksum; send them again.")
        elif check:
            self._look()  # now that these are the client's bytes
        if failure or not self.is_whole or self.row.concat:
            self.checkpoint()
        if failure:
            raise failure

    def _append(self, request: Request, check: Check | None) -> UploadError | None:
        """Append the body as far as it comes. Returns why it did not come whole."""
        every, left = Every(CHECKPOINT_SECONDS), self._most - self.offset
        try:
            for chunk in body.chunks(request):
                fits = chunk[:left]
                self._file.write(fits)
                left -= len(fits)
                if check:
                    check.update(fits)
                else:
                    self._look()
                    self._offer()
                if len(fits) < len(chunk):
                    return self._too_large()
                if every.due() and not check:
                    self.checkpoint()
        except (BodyBroken, TooSlow):
            return Interrupted("The body ended early; what has arrived is kept.")
        except (Busy, SpoolUnavailable) as error:
            return error
        return None

    def _offer(self) -> None:
        """Let what is here go to S3 already, if the file is large and nothing of it can be taken back."""
        row, is_accepted = self.row, bool(self._received and self._received.detected_type)
        if row.length is not None and not row.concat and not row.tentative and is_accepted:
            services().ahead.offer(row.id, self._file.path, row.key, row.content_type, row.length)

    def _look(self) -> None:
        """Check the file as far as it has arrived; one that is not accepted ends the upload."""
        if self.row.length is None and self.offset > self._reserved:
            self._reserve(self.offset + STEP_BYTES)
        if not self.row.concat:
            with self._ends_if_refused():
                self.acceptance.check(self._described())

    def _reserve(self, size: int) -> None:
        """Reserve quota for so many bytes, of an upload whose length nobody knows."""
        self._reservation.extend(size)
        self._reserved = size

    def checkpoint(self) -> None:
        """Record what is here.

        Raises:
            UploadGone: the upload was ended meanwhile.
        """
        self._file.flush()
        self._move(offset=self.offset, crc64nvme=self._file.crc64nvme, tentative=False)

    def join(self, parts: Sequence[UploadRow]) -> FileRow:
        """Join the parts of a final upload, which are all here, and finish it.

        Raises:
            BytesLost: a part has lost bytes.
            Busy: there is no room.
            UploadGone: the upload was ended meanwhile.
            UploadError: such a file is not accepted, and the upload has ended.
        """
        spool, length = services().spool, sum(part.length for part in parts)
        spool.require(length)
        self._file.cut(0, rows.NO_BYTES)
        for part in parts:
            self._file.append(spool.path(part.id).with_suffix(UP), part.length, part.crc64nvme)
        if self.row.length is None:
            check_length(length)
            self._move(length=length)
        return self.finish(tuple({part.id for part in parts}))

    def finish(self, parts: Sequence[str] = ()) -> FileRow:
        """Turn the upload into a File, in one transaction. The caller hands it off after the turn.

        Args:
            parts: the uploads that it has been joined of, which end with that.

        Raises:
            UploadGone: the upload was ended meanwhile.
            Busy: the spool has no room, or quotas; the upload waits.
            UploadError: such a file is not accepted, and the upload has ended.
        """

        def also(connection: Connection) -> None:
            known = {"offset": self.offset, "crc64nvme": self._file.crc64nvme, "tentative": False}
            row = rows.move(connection, self.row, **known, finished_at=utcnow())
            if row is None:
                raise UploadGone(GONE)
            self.row = row
            if parts:
                _end(connection, parts)

        try:
            with self._ends_if_refused():
                self._verify()
                row = self.acceptance.complete(self._described(), also)
        except UploadGone:
            self._remove()
            raise
        self._file.close()
        self._held = None
        metrics().accepted(row.mode, row.size, time.perf_counter() - self._began)
        return row

    def end(self) -> None:
        """End the upload for good, and remove its bytes."""
        end(self.row.id)
        self._remove()

    @cached_property
    def acceptance(self) -> Acceptance:
        """The acceptance of the file, for whom the upload was created."""
        mode, claim = Mode(self.row.mode), idempotency.Claim(None, services().config.LEASE_SECONDS)
        return Acceptance(mode, principal_of(self.row), claim, self._reservation, self._file, RUNS[mode]())

    @cached_property
    def _reservation(self) -> quota.Reservation:
        return reservation_of(self.row.id, principal_of(self.row))

    @property
    def _most(self) -> int:
        """How many bytes the upload may have."""
        return most_bytes() if self.row.length is None else int(self.row.length)

    def _too_large(self) -> UploadTooLarge:
        return UploadTooLarge(f"The upload must not exceed {self._most} bytes.")

    def _described(self) -> ReceivedFile:
        """Return what is known of the file; its type as soon as its first bytes tell it."""
        if self._received is None:
            self._received = ReceivedFile(
                name=self.row.name,
                content_type=self.row.content_type,
                key=self.row.key,
                digests=Digests(lambda name: None),
                detected_type=self.row.detected_type,
                options=options.read(json.loads(self.row.options)),
            )
        if not self._received.detected_type and (self.offset >= HEAD_BYTES or self.is_whole):
            self._received.detected_type = detect(self._file.read(0, HEAD_BYTES).read())
            check_type(self.row.content_type, self._received.detected_type, services().config)
        return self._received

    def _verify(self) -> None:
        """Compare the whole file with the digest that the client gave at its beginning."""
        if self.row.digest:
            digests = Digests({"Repr-Digest": self.row.digest}.get)
            for chunk in self._file.read(0, self.offset).chunks():
                digests.update(chunk)
            digests.verify()

    def _move(self, **values: object) -> None:
        expires_at = utcnow() + timedelta(seconds=services().config.UPLOAD_EXPIRES_SECONDS)
        known = self._received.detected_type if self._received else self.row.detected_type
        with transaction() as connection:
            row = rows.move(connection, self.row, **values, expires_at=expires_at, detected_type=known)
            if row:
                self._reservation.keep_alive(connection)
        if row is None:
            self._remove()
            raise UploadGone(GONE)
        self.row = row

    @contextmanager
    def _ends_if_refused(self) -> Iterator[None]:
        """End the upload if the block raises an error that no repetition would mend."""
        try:
            yield
        except UploadError as error:
            if error.status in REFUSALS:
                error.ends_upload = True
                self.end()
            raise

    def _remove(self) -> None:
        if self._held:
            self._held.discard()
            self._held = None
            services().ahead.abandon(self.row.id, self.row.key)


def hold(row: UploadRow, patience_seconds: float = PATIENCE_SECONDS) -> Turn:
    """Begin a turn at an upload; a request that writes to it is stopped. Close it at the end, by `with`.

    Args:
        row: the upload, as the caller has found it.
        patience_seconds: how long another request may take to let go; 0 to leave it alone.

    Raises:
        UploadGone: it was ended, has expired, or has lost its bytes.
        UploadLocked: another request does not let go, or the bytes are at another host.
        SpoolUnavailable: the spool is not there.
    """
    spool = services().spool
    if row.gone_at:
        raise UploadGone(GONE)
    if row.finished_at:
        return Turn(row, None)
    if row.spool_id != spool.id:
        raise UploadLocked("Another host has this upload's bytes.")
    try:
        file = Growing.hold(spool, row.id, patience_seconds)
    except FileNotFoundError:
        return _without_file(row)
    try:
        return _caught_up(row.id, file)
    except BaseException:
        file.close()
        raise


def own(upload_id: str) -> UploadRow:
    """Return an upload of the current principal.

    Raises:
        NotFound: there is none, or it is another's.
    """
    row = rows.find(upload_id)
    if row is None or not is_own(row, auth.principal()):
        raise NotFound("Upload not found.")
    return row


def end(upload_id: str) -> bool:
    """End an upload for good; its file goes with the next turn or at the next cleaning.

    Returns:
        False if it has ended already.
    """
    with transaction() as connection:
        return _end(connection, [upload_id]) == 1


def _end(connection: Connection, upload_ids: Sequence[str]) -> int:
    """End uploads, and give their reservations back, in the transaction of the caller."""
    quota.forget(connection, upload_ids)
    return rows.end(connection, upload_ids)


def check_length(length: int) -> None:
    """Check that a file may have so many bytes.

    Raises:
        UploadTooLarge: it may not.
    """
    if length > most_bytes():
        raise UploadTooLarge(f"The upload must not exceed {most_bytes()} bytes.")


def most_bytes() -> int:
    """Return how many bytes a resumable upload may have: as a form, but no more than all of them together."""
    config, spool = services().config, services().spool
    return min(config.MAX_CONTENT_LENGTH, spool.most_of_uploads or config.MAX_CONTENT_LENGTH)


def _without_file(row: UploadRow) -> Turn:
    """Begin a turn at an upload without a file: another request has just finished it, or the bytes are lost."""
    now = rows.find(row.id)
    if now is not None and now.finished_at:
        return Turn(now, None)
    if now is not None and not now.gone_at:
        log.error("the upload %s has lost its bytes", row.id)
        Turn(now, None).end()
    raise UploadGone(GONE)


def _caught_up(upload_id: str, file: Growing) -> Turn:
    """Begin a turn at an upload whose file is held: nobody else changes it now, so its row is read again."""
    row = rows.find(upload_id)
    if row is not None and row.finished_at:
        file.close()
        return Turn(row, None)
    if row is None or row.gone_at:
        file.discard()
        services().ahead.abandon(upload_id, row.key if row else "")
        raise UploadGone(GONE)
    turn = Turn(row, file)
    try:
        (file.cut if row.tentative else file.catch_up)(row.offset, row.crc64nvme)
    except BytesLost:
        log.error("the upload %s has lost bytes", upload_id)
        turn.end()
        raise UploadGone(GONE) from None
    if row.expires_at <= utcnow() and not turn.is_whole:
        turn.end()
        raise UploadGone(GONE)
    return turn


def _stop(request: Request) -> Callable[[], None]:
    """Return what ends a request's waiting for bytes: its connection takes no more of them."""
    connection = body.connection_of(request)
    return partial(body.shut, connection, socket.SHUT_RD)
