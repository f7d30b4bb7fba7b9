"""The three ways to run a delivery: in the request, on the thread pool, by Celery."""

from __future__ import annotations

import logging
from collections.abc import Callable

from celery import shared_task
from kombu.exceptions import OperationalError
from sqlalchemy.exc import SQLAlchemyError

from config import spool_queue
from deliver import deliver
from file import process_file_to_stream
from models import File
from services import services, this_app

log = logging.getLogger(__name__)

Runner = Callable[[File], None]


def run_inline(row: File) -> None:
    """Deliver the file now; the client waits, so a failure is told at once instead of tried again."""
    deliver(row.id, retry=False)


def run_in_thread(row: File) -> None:
    """Deliver the file on the process's bounded thread pool."""
    submit(row.id)


def run_in_celery(row: File) -> None:
    """Hand the file to a Celery worker: a small one inside the message, a large one by its id.

    A dead broker is no error: the row is the truth, and the sweep delivers it.
    """
    ferry = services()
    payload, queue = None, spool_queue(row.spool_id)
    if row.size <= ferry.config.CELERY_INLINE_MAX_BYTES:
        with ferry.spool.open(row.id) as spooled:
            payload = process_file_to_stream(spooled, to_utf8=True)
        queue = ferry.celery.conf.task_default_queue
    try:
        ferry.celery.send_task(upload_task.name, (row.id, payload), queue=queue)
    except OperationalError as error:
        log.warning("file %s is left to the sweep, the broker does not take it: %s", row.id, error)
        File.put_forward(row.id)


RUNNERS: dict[str, Runner] = {
    "normal": run_inline,
    "async": run_in_thread,
    "celery": run_in_celery,
}


@shared_task(name="upload_task")
def upload_task(file_id: str, stream: str | None = None) -> None:
    """Deliver a file in a Celery worker.

    Args:
        file_id: the File row.
        stream: the file's bytes in base64; without it they are in this worker's spool.
    """
    deliver(file_id, stream)


def submit(file_id: str) -> None:
    """Queue a delivery on the pool of this process."""
    app = this_app()

    def job() -> None:
        with app.app_context():
            try:
                deliver(file_id)
            except SQLAlchemyError as error:
                log.warning("file %s is left to the sweep, the database failed: %s", file_id, error)

    services().pool.submit(file_id, job)
