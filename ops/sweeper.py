"""Housekeeping of a process: the loops that deliver due files, and that remove what nobody needs any more."""

from __future__ import annotations

import logging

from flask import Flask

from access import quota
from core.background import Loop, for_each
from core.services import Services
from delivery import sweep
from delivery.erase import remove_erased
from events import log as event_log
from events import webhooks
from intake import idempotency
from models import File

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
CLEAN_SECONDS = 10.0
STOP_SECONDS = 10.0  # less than gunicorn's graceful_timeout
CHORES = (
    sweep.tell_of_spool,
    sweep.drop_spooled,
    sweep.end_lost,
    remove_erased,
    idempotency.forget_old,
    quota.forget_lapsed,
    event_log.forget_old,
    webhooks.forget_old,
)


def clean() -> bool:
    """Do all housekeeping, also when some of it fails. Returns False: no more is waiting.

    Raises:
        ExceptionGroup: what failed.
    """
    for_each(lambda chore: chore(), CHORES)
    return False


class Sweeper:
    """Sweeps and cleans from the process's start to its stop; in two threads, since cleaning may wait for S3.

    Args:
        app: the app whose spool and pool it uses.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._loops = (Loop(app, "sweep", sweep.sweep, SWEEP_SECONDS), Loop(app, "clean", clean, CLEAN_SECONDS))

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
