"""The one job: claim a row, put its bytes into S3, see that they are there, finish the row."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Any, BinaryIO, TypeAlias

from sqlalchemy import Row

import bucket
import logs
from database import new_id, utcnow
from errors import BytesLost, ScannerAway, StoreError, StoreRefused, UploadError
from file import Uploaded, adopt_file, digest_file, opened, process_file_to_stream, upload_file
from metrics import metrics
from models import File, UploadStatus
from parts import PartsUpload
from s3_requests import ObjectInfo
from services import services, this_app

log = logging.getLogger(__name__)

BACKOFF_CAP_SECONDS = 60.0
PROGRESS_SECONDS = 1.0
Source: TypeAlias = str | PartsUpload | None
UNEXPECTED = "The delivery failed unexpectedly."


class LeaseLost(Exception):
    """Another run has taken the row over."""


def deliver(file_id: str, stream: Source = None, retry: bool = True) -> UploadError | None:
    """Bring one file to S3 and tell its row what became of it; does nothing if another run has the row.

    Args:
        file_id: the File row.
        stream: the bytes in base64, or the file already on its way; without it they are read from the spool.
        retry: whether a failure that may heal is tried again later.

    Returns:
        What failed, as far as this run knows and may tell.
    """
    with logs.about(file_id=file_id):
        return _deliver(file_id, stream, retry)


def _deliver(file_id: str, stream: Source, retry: bool) -> UploadError | None:
    ferry = services()
    owner = new_id()
    here = ferry.spool.id if stream is None else None
    row = File.claim(file_id, owner, ferry.config.LEASE_SECONDS, here)
    if row is None:
        log.info("file %s needs no delivery by this run", file_id)
        return None
    ferry.leases[file_id] = owner
    try:
        with metrics().run.labels(row.mode).time():
            return _run(row, owner, stream, retry)
    finally:
        ferry.leases.pop(file_id, None)
        ferry.bell.ring()


def _run(row: Row[Any], owner: str, stream: Source, retry: bool) -> UploadError | None:
    try:
        uploaded = _send(row, owner, stream)
    except UploadError as error:
        log.warning("file %s was not delivered: %s", row.id, error.detail)
        if retry:  # else it is the answer to a request, and counted there
            metrics().failed(type(error).__name__)
        if _fail(row, owner, error.detail, _attempts_for(error) if retry else 1):
            error.file_id = row.id
            return error
    except Exception:
        log.exception("file %s was not delivered", row.id)
        metrics().failed("Unexpected")
        _fail(row, owner, UNEXPECTED, services().config.MAX_ATTEMPTS if retry else 1)
    else:
        _finish(row, owner, uploaded)
    return None


def backoff_seconds(attempts: int) -> float:
    """How long to wait after so many attempts: exponential, capped, with jitter.

    Source: https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """
    # The exponent is bounded because 2.0 ** 1100 overflows.
    return random.uniform(0.5, 1) * min(BACKOFF_CAP_SECONDS, 2.0 ** min(attempts, 20))


def _send(row: Row[Any], owner: str, stream: Source) -> Uploaded:
    ferry = services()
    if row.attempts > ferry.config.MAX_ATTEMPTS:
        raise UploadError(f"Given up after {row.attempts - 1} attempts.")
    info = ObjectInfo(row.key, row.content_type, row.size, row.crc64nvme)
    beat = _Heartbeat(row, owner, ferry.config.LEASE_SECONDS)
    if isinstance(stream, PartsUpload):
        return Uploaded(stream.finish(info, beat), None)
    try:
        source = _source(row, stream)
    except FileNotFoundError:
        return adopt_file(ferry.store, info, beat)
    with source:
        if ferry.scanner:
            ferry.scanner.scan(source, row.size, beat)
        return upload_file(ferry.store, source, info, beat)


def _source(row: Row[Any], stream: str | None) -> BinaryIO:
    """The bytes, from the message or from the spool."""
    if stream is not None:
        return opened(stream)
    with services().spool.open(row.id) as spooled:
        return opened(process_file_to_stream(spooled))


def _finish(row: Row[Any], owner: str, uploaded: Uploaded) -> None:
    if not File.complete(row.id, owner, uploaded.url, uploaded.sha256):
        log.warning("file %s was finished by another run, or erased", row.id)
        _leave_nothing_of_an_erased(row)
        return
    metrics().delivery.labels(row.mode).observe((utcnow() - row.created_at).total_seconds())
    if uploaded.sha256:
        services().spool.drop(row.id)
    if row.attempts > 1:
        # An earlier run may have died in mid-part; the row is COMPLETE, so nobody needs its parts.
        try:
            bucket.abort_all(services().store, row.key)
        except StoreError as error:
            log.warning("unfinished uploads of %s are left to reconcile: %s", row.key, error.detail)


def take_digest(file_id: str) -> None:
    """Take the SHA-256 of a file that was sent while it arrived, and let its bytes go; nothing waits for it."""
    ferry, row = services(), File.find(file_id)
    if row is None or row.upload_status != UploadStatus.COMPLETE:
        return
    try:
        info = ObjectInfo(row.key, row.content_type, row.size, row.crc64nvme)
        File.digested(file_id, digest_file(ferry.spool.open(file_id), info))
    except FileNotFoundError:
        return
    except BytesLost as error:
        log.warning("file %s has no digest: %s", file_id, error.detail)
    ferry.spool.drop(file_id)


def _leave_nothing_of_an_erased(row: Row[Any]) -> None:
    """Delete what this run has just brought to S3, if nobody wants it any more."""
    found = File.find(row.id)
    if found is None or found.erased_at:
        services().store.delete(row.key)


def _fail(row: Row[Any], owner: str, reason: str, attempts: int) -> bool:
    """Give the row back for another attempt, if it has any left of so many; False if another run has it."""
    if row.attempts >= attempts or utcnow() >= row.retry_until:
        return File.fail(row.id, owner, reason)
    if not File.give_back(row.id, owner, backoff_seconds(row.attempts), reason):
        return False
    metrics().retries.labels(row.mode).inc()
    return True


def _attempts_for(error: UploadError) -> int:
    """How many attempts are worth it: a refusal is checked once more, what may heal is tried to the end."""
    if isinstance(error, StoreRefused):
        return 2
    return services().config.MAX_ATTEMPTS if isinstance(error, StoreError | ScannerAway) else 1


class _Heartbeat:
    """Renews a run's lease and tells its progress as its bytes travel; called from the threads of the transfer."""

    def __init__(self, row: Row[Any], owner: str, lease_seconds: float) -> None:
        self._app = this_app()
        self._row = row
        self._lease = (row.id, owner, lease_seconds)
        self._interval = min(PROGRESS_SECONDS, lease_seconds / 3)
        self._next = time.monotonic() + self._interval
        self._sent = 0
        self._lock = threading.Lock()

    def __call__(self, sent_bytes: int) -> None:
        with self._lock:
            # What is sent again, after a failure inside one attempt, is not counted beyond the whole.
            self._sent = min(self._sent + sent_bytes, self._row.size)
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + self._interval
        with self._app.app_context():
            if not File.renew(*self._lease, self._sent):
                raise LeaseLost
