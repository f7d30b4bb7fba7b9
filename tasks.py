"""The three ways to run a delivery: in the request, on the thread pool, by Celery."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from contextvars import copy_context

from celery import shared_task
from flask import Response, after_this_request
from kombu.exceptions import OperationalError
from sqlalchemy.exc import SQLAlchemyError

import logs
from config import MIB, spool_queue
from deliver import deliver, take_digest
from errors import SpoolUnavailable
from metrics import metrics
from models import File, FileRow
from parts import PartsUpload
from receive import Received
from services import services, this_app
from spool import Incoming

log = logging.getLogger(__name__)

AHEAD_BYTES = 16 * MIB  # smaller files are one request, when they are here
AHEAD_PART_BYTES = 8 * MIB  # little is left to send when the last byte has arrived


class Run:
    """One upload on its way through a request: bytes arrive, then it is handed off, or nothing comes of it."""

    def arrived(self, received: Received, incoming: Incoming, chunk: bytes) -> None:
        """A chunk of the file has arrived and is written."""

    def hand_off(self, row: FileRow) -> None:
        """The file is accepted; see that it is delivered."""
        raise NotImplementedError

    def give_up(self) -> None:
        """The file is not accepted."""


class InlineRun(Run):
    """Deliver the file in the request, a large one already while it arrives.

    The client waits, so a failure is told at once instead of tried again.
    """

    def __init__(self) -> None:
        self._ahead: PartsUpload | None = None

    def arrived(self, received: Received, incoming: Incoming, chunk: bytes) -> None:
        # What must be scanned first cannot go ahead.
        if self._ahead is None and incoming.expected_bytes >= AHEAD_BYTES and not services().scanner:
            self._ahead = PartsUpload(
                services().store,
                incoming.path,
                received.key,
                received.content_type,
                incoming.expected_bytes,
                AHEAD_PART_BYTES,
            )
        if self._ahead:
            self._ahead.update(chunk)

    def hand_off(self, row: FileRow) -> None:
        try:
            failure = deliver(row.id, self._ahead, retry=False)
        finally:
            self.give_up()  # for the case that it could not be delivered by this run
        if failure:
            raise failure
        if self._ahead and not row.sha256:
            submit_once_answered(row.id, take_digest)

    def give_up(self) -> None:
        if self._ahead:
            self._ahead.give_up()


class ThreadRun(Run):
    """Deliver the file on the process's bounded thread pool."""

    def hand_off(self, row: FileRow) -> None:
        submit_once_answered(row.id)


class CeleryRun(Run):
    """Hand the file to a Celery worker: a small one inside the message, a large one by its id.

    A dead broker is no error: the row is the truth, and the sweep delivers it.
    """

    def hand_off(self, row: FileRow) -> None:
        try:
            self._send(row)
        except (OperationalError, OSError, SpoolUnavailable) as error:
            log.warning("file %s is left to the sweep: %s", row.id, error)
            File.put_forward(row.id)

    def _send(self, row: FileRow) -> None:
        ferry = services()
        payload, queue = None, spool_queue(row.spool_id)
        if row.size <= ferry.config.CELERY_INLINE_MAX_BYTES:
            with ferry.spool.open(row.id) as spooled:
                payload = base64.b64encode(spooled.read()).decode()
            queue = ferry.celery.conf.task_default_queue
        ferry.celery.send_task(upload_task.name, (row.id, payload), queue=queue, headers=logs.subject())


RUNS: dict[str, type[Run]] = {"normal": InlineRun, "async": ThreadRun, "celery": CeleryRun}


@shared_task(name="upload_task")
def upload_task(file_id: str, stream: str | None = None) -> None:
    """Deliver a file in a Celery worker.

    Args:
        file_id: the File row.
        stream: the file's bytes in base64; without it they are in this worker's spool.
    """
    deliver(file_id, stream)


def submit(file_id: str, work: Callable[[str], object] = deliver) -> None:
    """Queue a file's work, by default its delivery, on the pool of this process."""
    app, subject = this_app(), logs.subject()

    def job() -> None:
        with app.app_context(), logs.about(**subject):
            try:
                work(file_id)
            except SQLAlchemyError as error:
                log.warning("file %s is left to the sweep, the database failed: %s", file_id, error)
            except Exception:  # the pool has no caller that would see it
                log.exception("file %s is left to the sweep", file_id)
                metrics().failed("Unexpected")

    services().pool.submit(file_id, job)


def submit_once_answered(file_id: str, work: Callable[[str], object] = deliver) -> None:
    """The same when the client of this request has its answer, which would wait for the interpreter otherwise."""
    context = copy_context()  # with this app, what its lines are about, and what traces the request

    def submit_at_close(response: Response) -> Response:
        response.call_on_close(lambda: context.run(submit, file_id, work))
        return response

    after_this_request(submit_at_close)
