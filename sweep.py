"""The sweep: finds what nobody delivers, and delivers it; needs the database, but no broker."""

from __future__ import annotations

import logging
from datetime import timedelta

from flask import Flask

import events
import failed_bytes
import idempotency
import quota
import spools
import webhooks
from background import Loop, for_each
from database import utcnow
from deliver import end_without_bytes, take_digest
from erase import remove_erased
from models import File, UploadStatus
from services import Services, services
from tasks import submit

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
CLEAN_SECONDS = 10.0
STOP_SECONDS = 10.0  # less than gunicorn's graceful_timeout


def sweep() -> bool:
    """Submit this spool's due files while the pool has room. Returns True if more may be waiting."""
    ferry = services()
    if not ferry.spool.is_here():  # its files wait
        return False
    free = ferry.pool.threads - ferry.pool.held
    room = 0 if ferry.pool.is_full else max(1, free)
    found = File.due(ferry.spool.id, room)
    for file_id in found:
        log.info("file %s is due, and swept", file_id)
        submit(file_id)
    return 0 < free == len(found)  # as many as there was room for


def clean() -> bool:
    """Do all housekeeping, also when some of it fails. Returns False: no more is waiting.

    Raises:
        ExceptionGroup: what failed.
    """
    for_each(lambda chore: chore(), CHORES)
    return False


def drop_spooled() -> None:
    """Drop the spool files that nobody needs: delivered ones, long failed ones, and half ones of dead writers."""
    ferry = services()
    if not ferry.spool.is_here():
        return
    ferry.spool.drop_abandoned_parts()
    failed_before = utcnow() - timedelta(seconds=ferry.config.ERROR_RETENTION_SECONDS)
    failed = []
    for row in File.among(ferry.spool.kept()):
        if row.upload_status == UploadStatus.COMPLETE and row.sha256 is None:
            submit(row.id, take_digest)
        elif row.upload_status == UploadStatus.COMPLETE:
            ferry.spool.drop(row.id)
        elif row.upload_status == UploadStatus.ERROR:
            failed.append(row)
            if row.updated_at < failed_before:
                ferry.spool.drop(row.id)
    failed_bytes.keep_to_share(failed)


def tell_of_spool() -> None:
    """Tell the other hosts that this one lives."""
    spools.tell(services().spool.id)


def end_lost() -> None:
    """End the files of hosts that are gone, once nothing is to be hoped for any more."""
    if gone := spools.lost():
        for_each(end_without_bytes, File.expired([spool.id for spool in gone]))


CHORES = (
    tell_of_spool,
    drop_spooled,
    end_lost,
    remove_erased,
    idempotency.forget_old,
    quota.forget_lapsed,
    events.forget_old,
    webhooks.forget_old,
)


class Sweeper:
    """Sweeps and cleans from the process's start to its stop; in two threads, since cleaning may wait for S3.

    Args:
        app: the app whose spool and pool it uses.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._loops = (Loop(app, "sweep", sweep, SWEEP_SECONDS), Loop(app, "clean", clean, CLEAN_SECONDS))

    def start(self) -> None:
        """Sweep and clean at once, and then again and again."""
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """Stop sweeping, let running deliveries finish, and give back what does not."""
        for loop in self._loops:
            loop.stop()
        ferry: Services = self._app.extensions["ferryman"]
        with self._app.app_context():
            for file_id in ferry.pool.stop(STOP_SECONDS):
                File.put_forward(file_id)
            for file_id, run_id in list(ferry.leases.items()):
                log.info("file %s is given back", file_id)
                File.give_back(file_id, run_id, delay_seconds=0)
