"""Reconcile: finds disagreements of spool, rows, objects and unfinished uploads; repairs them on request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple, TypeVar

from sqlalchemy import select

from core.database import batched, db, utcnow
from core.services import services
from delivery.deliver import end_without_bytes
from file import is_own_key
from intake.direct import rows as direct_rows
from intake.uploads import rows as upload_rows
from models import IS_READY, File, UploadStatus
from storage import bucket, file_queries, spools
from storage.s3 import probe as s3_probe

UNDELIVERED = (UploadStatus.PENDING, UploadStatus.PROCESSING)

Entry = TypeVar("Entry", bucket.StoredObject, bucket.Multipart)


class Finding(NamedTuple):
    """One disagreement, with its repair if there is one."""

    kind: str
    name: str
    mend: Callable[[], object] | None


def comparisons(grace: timedelta) -> dict[str, Iterator[Finding]]:
    """Compare everything, and yield the findings older than the grace period.

    An object or unfinished upload without a row is only ever mended under a key prefix of our own: without one,
    another service may have put it there.

    Returns:
        The findings, by the name of what is compared; each is made while it is read, and raises StoreError on its
        own if S3 does not list it.
    """
    before = utcnow() - grace
    is_here = services().spool.is_here()
    return {
        "The spool": _spool_without_row(grace) if is_here else _no_spool(),
        "The rows": _rows_without_bytes(before) if is_here else iter(()),
        "Rows of lost spools": _rows_of_lost_spools(grace),
        "Objects": _objects(before),
        "Unfinished uploads": _multiparts(before),
    }


def _no_spool() -> Iterator[Finding]:
    yield Finding("spool that is not there", str(services().spool.folder), None)


def _spool_without_row(grace: timedelta) -> Iterator[Finding]:
    spool = services().spool
    kept = {name for name in spool.kept() if spool.age_seconds(name) >= grace.total_seconds()}
    known = {row.id for row in file_queries.among(kept)}
    known |= {row.id for row in upload_rows.among(sorted(kept - known)) if not row.finished_at and not row.gone_at}
    for file_id in sorted(kept - known):
        yield Finding("spool file without a row", file_id, partial(spool.drop, file_id))


def _rows_without_bytes(before: datetime) -> Iterator[Finding]:
    """Find rows whose bytes are missing from this spool; there is no repair."""
    spool = services().spool
    waiting = select(File.id).where(
        File.upload_status.in_(UNDELIVERED), IS_READY, File.spool_id == spool.id, File.updated_at <= before
    )
    with db.engine.connect() as connection:
        ids = connection.scalars(waiting).all()
    for file_id in ids:
        if not spool.has(file_id):
            yield Finding("undelivered row without spool file", file_id, None)


def _rows_of_lost_spools(grace: timedelta) -> Iterator[Finding]:
    """Find rows that wait for a lost host."""
    own = services().spool.id
    for spool in spools.lost(max(grace, spools.LOST_AFTER)):
        waiting = select(File.id).where(File.upload_status.in_(UNDELIVERED), IS_READY, File.spool_id == spool.id)
        with db.engine.connect() as connection:
            ids = connection.scalars(waiting).all() if spool.id != own else ()
        host = f"{spool.host or 'a host'}, not seen since {spool.seen_at:%Y-%m-%d %H:%M}"
        for file_id in ids:
            yield Finding(f"undelivered row of {host}", file_id, partial(end_without_bytes, file_id))


def _objects(before: datetime) -> Iterator[Finding]:
    """Find objects without a row, and COMPLETE rows without an object."""
    store, kept = services().store, services().config.ROW_RETENTION_SECONDS
    # An older object may have outlived its row, as it was to.
    since = utcnow() - timedelta(seconds=kept) if kept else None
    listed: set[str] = set()
    for batch in batched(_only_ours(bucket.objects(store, _prefix()))):
        keys = [entry.key for entry in batch]
        known = _keys(keys) | direct_rows.unfinished_keys(keys)
        listed |= known
        for entry in batch:
            has_lost_its_row = since is not None and _is_before(entry.modified_at, since)
            if entry.key not in known and _is_before(entry.modified_at, before) and not has_lost_its_row:
                mend = partial(store.delete, entry.key) if _prefix() else None
                yield Finding("object without a row", entry.key, mend)
    complete = select(File.key).where(
        File.upload_status == UploadStatus.COMPLETE, File.key.startswith(_prefix(), autoescape=True)
    )
    with db.engine.connect() as connection:
        for key in connection.scalars(complete.where(File.completed_at <= before)):
            if key not in listed and is_own_key(key.removeprefix(_prefix())):
                yield Finding("complete row without object", key, None)


def _multiparts(before: datetime) -> Iterator[Finding]:
    """Find unfinished multipart uploads that no run holds."""
    store = services().store
    for batch in batched(_only_ours(bucket.multiparts(store, _prefix()))):
        keys = [entry.key for entry in batch]
        with db.engine.connect() as connection:
            rows = {row.key: row for row in connection.execute(select(File).where(File.key.in_(keys)))}
        arriving = upload_rows.unfinished_keys(keys) | direct_rows.unfinished_keys(keys)
        for entry in batch:
            row = rows.get(entry.key)
            running = row is not None and row.upload_status == UploadStatus.PROCESSING
            if running or entry.key in arriving or not _is_before(entry.initiated_at, before):
                continue
            ours = row is not None or _prefix()
            mend = partial(bucket.abort, store, entry) if ours else None
            yield Finding("unfinished upload that nobody works on", entry.key, mend)


def _is_before(moment: datetime | None, before: datetime) -> bool:
    """Returns True if a time is known and before another."""
    return moment is not None and moment <= before


def _prefix() -> str:
    return services().config.S3_KEY_PREFIX


def _only_ours(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Keep only the objects with names that this service makes."""
    names = ((entry, entry.key.removeprefix(_prefix())) for entry in entries)
    return (entry for entry, name in names if is_own_key(name) or name.startswith(s3_probe.NAME))


def _keys(keys: Iterable[str]) -> set[str]:
    with db.engine.connect() as connection:
        return set(connection.scalars(select(File.key).where(File.key.in_(list(keys)))))
