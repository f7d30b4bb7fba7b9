"""The sweep: finds what nobody delivers, and delivers it; needs the database, but no broker."""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

import events
import idempotency
import quota
import webhooks
from database import utcnow
from deliver import take_digest
from erase import remove_erased
from models import File, UploadStatus
from services import Services, services
from tasks import submit

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
BACKLOG_SECONDS = 0.05  # while more is due than was taken
CLEAN_SECONDS = 10.0
STOP_SECONDS = 10.0  # less than gunicorn's graceful_timeout


def sweep() -> bool:
    """Take what is due and belongs to this spool, as the pool has room for it; True if more may be due."""
    ferry = services()
    free = ferry.pool.threads - ferry.pool.held
    room = 0 if ferry.pool.is_full else max(1, free)
    found = File.due(ferry.spool.id, room)
    for file_id in found:
        log.info("file %s is due, and swept", file_id)
        submit(file_id)
    return 0 < free == len(found)


def clean() -> None:
    """Drop the spool files that nobody needs: delivered ones, long failed ones, and half ones of dead writers."""
    ferry = services()
    ferry.spool.drop_abandoned_parts()
    failed_before = utcnow() - timedelta(seconds=ferry.config.ERROR_RETENTION_SECONDS)
    for row in File.among(ferry.spool.kept()):
        outlived = row.upload_status == UploadStatus.ERROR and row.updated_at < failed_before
        if row.upload_status == UploadStatus.COMPLETE and row.sha256 is None:
            submit(row.id, take_digest)
        elif row.upload_status == UploadStatus.COMPLETE or outlived:
            ferry.spool.drop(row.id)
    remove_erased()
    idempotency.forget_old()
    quota.forget_lapsed()
    events.forget_old()
    webhooks.forget_old()


class Sweeper:
    """Sweeps and cleans in a thread of its own, from the process's start to its stop.

    Args:
        app: the app whose spool and pool it uses.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    def start(self) -> None:
        """Sweep at once, and then again and again."""
        self._thread.start()

    def stop(self) -> None:
        """Stop sweeping, let running deliveries finish, and give back what does not."""
        self._stopping.set()
        ferry: Services = self._app.extensions["ferryman"]
        with self._app.app_context():
            for file_id in ferry.pool.stop(STOP_SECONDS):
                File.put_forward(file_id)
            for file_id, owner in list(ferry.leases.items()):
                log.info("file %s is given back", file_id)
                File.give_back(file_id, owner, delay_seconds=0)

    def _run(self) -> None:
        next_clean = 0.0
        while not self._stopping.is_set():
            has_more = False
            with self._app.app_context():
                try:
                    has_more = sweep()
                    if time.monotonic() >= next_clean:
                        clean()
                        next_clean = time.monotonic() + CLEAN_SECONDS
                except (SQLAlchemyError, OSError) as error:
                    log.warning("the sweep failed, and tries again: %s", error)
            self._stopping.wait(BACKLOG_SECONDS if has_more else SWEEP_SECONDS)
