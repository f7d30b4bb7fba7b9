"""Housekeeping of a process: the loops that deliver due files and remove unneeded data."""

from __future__ import annotations

import logging

from flask import Flask

from access import quota, tickets
from core.background import Loop, for_each
from core.services import Services
from delivery import lifetime, sweep
from delivery.erase import remove_erased
from events import log as event_log
from events import webhooks
from intake import idempotency
from intake.direct import chores as direct_chores
from intake.uploads import chores
from intake.uploads import rows as upload_rows
from models import File
from processing import slots

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
CLEAN_SECONDS = 10.0
STOP_SECONDS = 10.0  # less than gunicorn's graceful_timeout
CHORES = (
    sweep.record_spool,
    sweep.drop_spooled,
    sweep.end_lost,
    lifetime.expire_files,
    lifetime.forget_rows,
    remove_erased,
    slots.drop_abandoned_work,
    idempotency.forget_old,
    chores.clean,  # before anything expires: what is whole is finished
    chores.expire,
    upload_rows.forget_old,
    direct_chores.forget_old,
    tickets.forget_old,
    quota.forget_lapsed,
    event_log.forget_old,
    webhooks.forget_old,
)


def clean() -> bool:
    """Do all chores, even if some fail. Returns False: no more work is waiting.

    Raises:
        ExceptionGroup: what failed.
    """
    for_each(lambda chore: chore(), CHORES)
    return False


class Sweeper:
    """Sweeps, looks at direct uploads, and cleans from start to stop, in threads, since S3 may keep them waiting.

    Args:
        app: the app whose spool and pool it uses.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._loops = (
            Loop(app, "sweep", sweep.sweep, SWEEP_SECONDS),
            Loop(app, "direct", direct_chores.look_at_due, SWEEP_SECONDS),
            Loop(app, "clean", clean, CLEAN_SECONDS),
        )

    def start(self) -> None:
        """Start the loops."""
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """Stop the loops, let running deliveries finish, and return the others to PENDING."""
        for loop in self._loops:
            loop.stop()
        ferry: Services = self._app.extensions["ferryman"]
        with self._app.app_context():
            for file_id in ferry.pool.stop(STOP_SECONDS):
                File.put_forward(file_id)
            for file_id, run_id in list(ferry.leases.items()):
                log.info("file %s is given back", file_id)
                File.give_back(file_id, run_id, delay_seconds=0)
