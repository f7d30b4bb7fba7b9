"""The three ways to run a delivery: in the request, on the thread pool, by Celery."""

from __future__ import annotations

import base64
import logging

from celery import shared_task
from kombu.exceptions import OperationalError

from core import logs
from core.errors import SpoolUnavailable
from core.file_row import FileRow
from core.services import services
from delivery import ahead
from delivery.deliver import deliver, take_digest
from delivery.queue import spool_queue
from delivery.submit import submit_once_answered
from models import File, Mode
from processing import slots
from processing.make import make
from storage.parts import PartsUpload
from storage.spool_file import SpoolFile

log = logging.getLogger(__name__)


class Run:
    """The delivery of one upload, seen from its request: bytes arrive, then it is handed off or given up."""

    def arrived(self, incoming: SpoolFile, key: str, content_type: str, chunk: bytes) -> None:
        """Handle a chunk that has arrived and is in the spool.

        Args:
            incoming: the file in the spool.
            key: the object's key in S3.
            content_type: the file's media type, as the client declares it.
            chunk: the bytes; none at the file's end.
        """

    def hand_off(self, row: FileRow) -> None:
        """Deliver the accepted file, or queue its delivery."""
        raise NotImplementedError

    def give_up(self) -> None:
        """Undo what was begun for a file that is not accepted."""


class InlineRun(Run):
    """Delivers the file in the request; a large one while it still arrives.

    The client waits, so a failure is told at once instead of tried again.
    """

    def __init__(self) -> None:
        self._ahead: PartsUpload | None = None

    def arrived(self, incoming: SpoolFile, key: str, content_type: str, chunk: bytes) -> None:
        # What must be scanned first cannot go ahead.
        if self._ahead is None and incoming.expected_bytes >= ahead.LEAST_BYTES and not services().scanner:
            self._ahead = PartsUpload(
                services().store,
                incoming.path,
                key,
                content_type,
                incoming.expected_bytes,
                ahead.PART_BYTES,
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
    """Delivers the file on the process's bounded thread pool."""

    def hand_off(self, row: FileRow) -> None:
        submit_once_answered(row.id)


class CeleryRun(Run):
    """Hands the file to a Celery worker: a small file inside the message, a large one by its id.

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


RUNS: dict[Mode, type[Run]] = {Mode.NORMAL: InlineRun, Mode.ASYNC: ThreadRun, Mode.CELERY: CeleryRun}


@shared_task(name=slots.TASK)
def process_task(file_id: str) -> None:
    """Make a derivative in a Celery worker.

    Args:
        file_id: the derivative's row.
    """
    make(file_id)


@shared_task(name="upload_task")
def upload_task(file_id: str, stream: str | None = None) -> None:
    """Deliver a file in a Celery worker.

    Args:
        file_id: the File row.
        stream: the file's bytes in base64; without it they are in this worker's spool.
    """
    deliver(file_id, stream)
