"""The one job: claim a row, send its bytes to S3, verify them, finish the row."""

from __future__ import annotations

import base64
import logging
import random
from io import BytesIO
from typing import BinaryIO, TypeAlias

from core import logs
from core.database import new_id, utcnow
from core.errors import BytesLost, ScannerUnavailable, SpoolUnavailable, StoreError, StoreRefused, UploadError
from core.file_row import FileRow
from core.metrics import metrics
from core.services import services
from delivery.lease import Heartbeat, LeaseLost
from file import Uploaded, adopt_file, digest_file, upload_file
from models import File, UploadStatus
from storage import bucket, file_queries, spools
from storage.parts import PartsUpload
from storage.s3.requests import ObjectInfo

log = logging.getLogger(__name__)

BACKOFF_CAP_SECONDS = 60.0
MAKE_ATTEMPTS = 5  # of a derivative whose bytes are lost again and again
Source: TypeAlias = str | PartsUpload | None
SPOOL_GONE = "The spool is unavailable; try again later."
UNEXPECTED = "The delivery failed unexpectedly."


def deliver(file_id: str, stream: Source = None, retry: bool = True) -> UploadError | None:
    """Deliver one file to S3, and finish its row. A no-op if another run holds the row.

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
    run_id = new_id()
    here = ferry.spool.id if stream is None else None
    row = File.claim(file_id, run_id, ferry.config.LEASE_SECONDS, here)
    if row is None:
        log.info("file %s needs no delivery by this run", file_id)
        return None
    return deliver_claimed(row, run_id, stream, retry)


def deliver_claimed(row: FileRow, run_id: str, stream: Source = None, retry: bool = True) -> UploadError | None:
    """Deliver a file that a run has claimed; else as `deliver`."""
    ferry = services()
    ferry.leases[row.id] = run_id
    try:
        with metrics().run.labels(row.mode).time():
            return _run(row, run_id, stream, retry)
    finally:
        ferry.leases.pop(row.id, None)
        ferry.bell.ring()


def _run(row: FileRow, run_id: str, stream: Source, retry: bool) -> UploadError | None:
    try:
        uploaded = _send(row, run_id, stream)
    except LeaseLost:
        _lost_lease(row)
    except UploadError as error:
        return _settle_failure(row, run_id, error, retry)
    except Exception as error:
        if isinstance(error, OSError) and not services().spool.is_here():
            return _settle_failure(row, run_id, SpoolUnavailable(SPOOL_GONE), retry)
        log.exception("file %s was not delivered", row.id)
        metrics().failed("Unexpected")
        _fail(row, run_id, UNEXPECTED, services().config.MAX_ATTEMPTS if retry else 1)
    else:
        _finish(row, run_id, uploaded)
    return None


def _settle_failure(row: FileRow, run_id: str, error: UploadError, retry: bool) -> UploadError | None:
    """Return the row to PENDING or fail it. Returns the error if this run still held the row."""
    log.warning("file %s was not delivered: %s", row.id, error.detail)
    if retry:  # else it is the answer to a request, and counted there
        metrics().failed(type(error).__name__)
    if row.parent_id and isinstance(error, BytesLost) and row.attempts < MAKE_ATTEMPTS:
        settled = File.unmake(row.id, run_id)
        services().slots.hand_off(row.parent_id)
    elif retry and isinstance(error, SpoolUnavailable):  # the host's trouble: the file waits however long it lasts
        settled = File.give_back(row.id, run_id, backoff_seconds(row.attempts), error.detail)
    else:
        settled = _fail(row, run_id, error.detail, _attempts_for(error) if retry else 1, error.retry_after)
    if not settled:
        return None
    error.file_id = row.id
    return error


def backoff_seconds(attempts: int) -> float:
    """Return the pause after a number of attempts: exponential, capped, with jitter.

    Source: https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """
    # The exponent is bounded because 2.0 ** 1100 overflows.
    return random.uniform(0.5, 1) * min(BACKOFF_CAP_SECONDS, 2.0 ** min(attempts, 20))


def _send(row: FileRow, run_id: str, stream: Source) -> Uploaded:
    ferry = services()
    if row.attempts > ferry.config.MAX_ATTEMPTS:
        raise UploadError(f"Given up after {row.attempts - 1} attempts.")
    info = ObjectInfo(row.key, row.content_type, row.size, row.crc64nvme)
    beat = Heartbeat(row, run_id, ferry.config.LEASE_SECONDS)
    if isinstance(stream, PartsUpload):
        return Uploaded(stream.finish(info, beat), None)
    try:
        source = _source(row, stream)
    except FileNotFoundError:
        if ferry.spool.has(row.id):
            raise SpoolUnavailable(SPOOL_GONE) from None  # it was away for a moment
        return adopt_file(ferry.store, info, beat)
    with source:
        if ferry.scanner:
            ferry.scanner.scan(source, row.size, beat)
        elif stream is None and (parts := _sent_ahead(row)):
            return _finish_parts(parts, row.id, info, beat)
        return upload_file(ferry.store, source, info, beat)


def _sent_ahead(row: FileRow) -> PartsUpload | None:
    """Return the upload of a file of which S3 has parts already; what S3 does not confirm is sent again."""
    try:
        return services().ahead.take(row)
    except StoreError as error:
        log.warning("file %s is sent anew: %s", row.id, error.detail)
        services().ahead.forget(row.id)
        return None


def _finish_parts(parts: PartsUpload, file_id: str, info: ObjectInfo, beat: Heartbeat) -> Uploaded:
    """Send the rest of a file. If that fails, the next attempt begins anew."""
    try:
        return Uploaded(parts.finish(info, beat), None)
    finally:
        services().ahead.forget(file_id)


def _source(row: FileRow, stream: str | None) -> BinaryIO:
    """Return the bytes, from the message or from the spool."""
    if stream is not None:
        return BytesIO(base64.b64decode(stream, validate=True))
    return services().spool.open(row.id)


def _lost_lease(row: FileRow) -> None:
    """Log and count that the lease was lost: another run has the row, or the file was deleted."""
    log.info("file %s was taken over by another run, or deleted", row.id)
    metrics().failed(LeaseLost.__name__)


def _finish(row: FileRow, run_id: str, uploaded: Uploaded) -> None:
    if not File.complete(row.id, run_id, uploaded.url, uploaded.sha256):
        _lost_lease(row)
        _delete_erased_object(row)
        return
    if not row.parent_id:
        metrics().delivery.labels(row.mode).observe((utcnow() - row.created_at).total_seconds())
    if row.process:
        services().slots.hand_off(row.id)
    if uploaded.sha256 or row.sha256:
        drop_bytes(row)
    if row.attempts > 1:
        # An earlier run may have died in mid-part; the row is COMPLETE, so nobody needs its parts.
        try:
            bucket.abort_all(services().store, row.key)
        except StoreError as error:
            log.warning("unfinished uploads of %s are left to reconcile: %s", row.key, error.detail)


def drop_bytes(row: FileRow) -> None:
    """Drop a delivered file's bytes from the spool, unless a derivative is still to be made of them."""
    if not (row.process and file_queries.is_needed(row.id)):
        services().spool.drop(row.id)


def end_without_bytes(file_id: str) -> None:
    """Finish a file whose spool is lost: COMPLETE if S3 holds it all the same, else ERROR.

    Args:
        file_id: the File row.

    Raises:
        StoreError: S3 does not say; the file waits.
    """
    run_id = new_id()
    row = File.claim(file_id, run_id, services().config.LEASE_SECONDS)
    if row is None:
        return
    info = ObjectInfo(row.key, row.content_type, row.size, row.crc64nvme)
    try:
        uploaded = adopt_file(services().store, info, Heartbeat(row, run_id, services().config.LEASE_SECONDS))
    except BytesLost:
        host = spools.find(row.spool_id)
        since = f" has not been seen since {host.seen_at:%Y-%m-%d %H:%M} UTC." if host else " is gone."
        File.fail(row.id, run_id, f"The host that held the file's bytes{since}")
    except StoreError as error:
        File.give_back(row.id, run_id, backoff_seconds(row.attempts), error.detail)
        raise
    else:
        _finish(row, run_id, uploaded)


def take_digest(file_id: str) -> None:
    """Compute the SHA-256 of a file that was sent while it arrived, and drop its spooled bytes."""
    row = File.find(file_id)
    if row is None or row.upload_status != UploadStatus.COMPLETE or row.sha256:
        return
    sha256 = None
    try:
        sha256 = _late_digest(file_id, ObjectInfo(row.key, row.content_type, row.size, row.crc64nvme))
    except SpoolUnavailable:  # it comes back, and the file is found in it again
        return
    except UploadError as error:
        log.warning("file %s has no digest: %s", file_id, error.detail)
    File.digested(file_id, sha256)
    drop_bytes(row)


def _late_digest(file_id: str, info: ObjectInfo) -> str | None:
    """Compute the SHA-256 of the bytes in the spool, or else of those in S3."""
    ferry = services()
    try:
        return digest_file(ferry.spool.open(file_id), info)
    except (FileNotFoundError, BytesLost):
        log.warning("file %s has lost its bytes in the spool; its digest is taken of those in S3", file_id)
    return adopt_file(ferry.store, info).sha256


def _delete_erased_object(row: FileRow) -> None:
    """Delete the object that this run has just uploaded, if the file was deleted meanwhile."""
    found = File.find(row.id)
    if found is None or found.erased_at:
        services().store.delete(row.key)


def _fail(row: FileRow, run_id: str, reason: str, max_attempts: int, retry_after: int | None = None) -> bool:
    """Return the row to PENDING if attempts remain, else fail it. Returns False if another run holds the lease."""
    if row.attempts >= max_attempts or utcnow() >= row.retry_until:
        return File.fail(row.id, run_id, reason)
    if not File.give_back(row.id, run_id, max(backoff_seconds(row.attempts), retry_after or 0), reason):
        return False
    metrics().retries.labels(row.mode).inc()
    return True


def _attempts_for(error: UploadError) -> int:
    """Return the maximum number of attempts: two after a refusal, else MAX_ATTEMPTS."""
    if isinstance(error, StoreRefused):
        return 2
    return services().config.MAX_ATTEMPTS if isinstance(error, StoreError | ScannerUnavailable) else 1
