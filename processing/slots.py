"""The slots of a process: threads that take derivatives to be made, one at a time each."""

from __future__ import annotations

import logging
import threading

from flask import Flask
from kombu.exceptions import OperationalError

from core.background import Loop
from core.services import services
from delivery.queue import process_queue
from models import File
from processing.make import make
from processing.scratch import drop_abandoned, slot
from storage import file_queries

log = logging.getLogger(__name__)

TASK = "process_task"
PAUSE_SECONDS = 1.0
PATIENCE_SECONDS = 2 * 3600.0  # a turn makes and delivers
HANDED_OUT_AT_ONCE = 20


class Slots:
    """Makes derivatives on PROCESS_SLOTS threads; with none it hands them to the Celery workers.

    All processes of a host share so many slots: a child takes a core, and much memory.

    Args:
        app: the app.
        threads: how many are made at a time on this host.
    """

    def __init__(self, app: Flask, threads: int) -> None:
        self._work = threading.Event()
        turn = _make_one if threads else _hand_out
        self._is_running = False
        self._loops = [
            Loop(app, "process", turn, PAUSE_SECONDS, self._work, PATIENCE_SECONDS) for _ in range(max(threads, 1))
        ]

    def start(self) -> None:
        """Begin to take what is due."""
        self._is_running = True
        for loop in self._loops:
            loop.start()

    def hand_off(self, parent_id: str) -> None:
        """Let what is to be made of an original be made soon: by these slots, else by a Celery worker."""
        if self._is_running:
            self._work.set()
            return
        for row in file_queries.derivatives([parent_id]):
            if row.made_at is None and not row.upload_status.is_final:
                _send(row.id)

    def stop(self) -> None:
        """Take no more."""
        for loop in self._loops:
            loop.stop()


def _make_one() -> bool:
    """Make one derivative, if a slot of this host is free. Returns True if there was one."""
    ferry = services()
    found = file_queries.to_make(ferry.spool.id, 1) if ferry.spool.is_here() else ()
    if not found:
        return False
    with slot(ferry.spool, ferry.config.PROCESS_SLOTS) as is_free:
        if is_free:
            make(found[0].id)
        return is_free


def _hand_out() -> bool:
    """Tell the Celery workers what is due, which is then put off until they should have taken it."""
    for row in file_queries.to_make(services().spool.id, HANDED_OUT_AT_ONCE):
        if not _send(row.id):
            return False
        File.put_forward(row.id, services().config.LEASE_SECONDS)
    return False


def _send(file_id: str) -> bool:
    """Hand a derivative to the Celery workers of this spool. Returns False if the broker does not take it."""
    try:
        services().celery.send_task(TASK, (file_id,), queue=process_queue(services().spool.id))
    except (OperationalError, OSError) as error:
        log.warning("derivative %s waits, the broker is away: %s", file_id, error)
        return False
    return True


def drop_abandoned_work() -> None:
    """Remove the working folders of dead runs."""
    if services().spool.is_here():
        drop_abandoned(services().spool)
