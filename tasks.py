"""The one job, deliver, and the three ways to run it: in the request, on the thread pool, by Celery."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from celery import Celery, Task, shared_task
from flask import Flask, current_app
from kombu.exceptions import OperationalError

from config import Config, make_celery, spool_queue
from errors import UploadError
from file import Uploaded, process_file_to_stream, upload_file_from_stream
from models import File, new_id
from spool import Spool
from store import ObjectInfo, Store

log = logging.getLogger(__name__)

Runner = Callable[[File], None]


class LeaseLost(Exception):
    """Another run has taken the row over."""


@dataclass(frozen=True)
class Services:
    """What a process needs to deliver files; made once per app, connected on first use."""

    config: Config
    spool: Spool
    store: Store
    pool: ThreadPoolExecutor
    celery: Celery


def init_app(app: Flask, config: Config) -> None:
    """Give the app its services, under `app.extensions["ferryman"]`."""

    class AppTask(Task):  # type: ignore[type-arg]
        """A task that runs inside the app's context."""

        def __call__(self, *args: object, **kwargs: object) -> object:
            with app.app_context():
                return self.run(*args, **kwargs)

    spool = Spool(config.SPOOL_DIR, config.SPOOL_FSYNC)
    app.extensions["ferryman"] = Services(
        config=config,
        spool=spool,
        store=Store(config),
        pool=ThreadPoolExecutor(config.UPLOAD_THREADS, "upload"),
        celery=make_celery(config, spool.id, AppTask),
    )


def services() -> Services:
    """The services of the current app."""
    found: Services = current_app.extensions["ferryman"]
    return found


def run_inline(row: File) -> None:
    """Deliver the file now."""
    deliver(row.id)


def run_in_thread(row: File) -> None:
    """Deliver the file on the process's bounded thread pool."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]

    def job() -> None:
        with app.app_context():
            deliver(row.id)

    services().pool.submit(job)


def run_in_celery(row: File) -> None:
    """Hand the file to a Celery worker: a small one inside the message, a large one by its id.

    A dead broker is no error: the row is the truth, and waits.
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
        log.warning("file %s waits, the broker does not take it: %s", row.id, error)


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


def deliver(file_id: str, stream: str | None = None) -> None:
    """Bring one file to S3 and tell its row what became of it; does nothing if another run has the row.

    Args:
        file_id: the File row.
        stream: the file's bytes in base64; without it they are read from the spool.
    """
    owner = new_id()
    row = File.claim(file_id, owner, services().config.LEASE_SECONDS)
    if row is None:
        log.info("file %s needs no delivery", file_id)
        return
    try:
        uploaded = _send(row, owner, stream)
    except UploadError as error:
        log.warning("file %s was not delivered: %s", file_id, error.detail)
        File.fail(file_id, owner, error.detail)
    except Exception:
        log.exception("file %s was not delivered", file_id)
        File.fail(file_id, owner, "The delivery failed unexpectedly.")
    else:
        if File.complete(file_id, owner, uploaded.url, uploaded.sha256):
            services().spool.drop(file_id)


def _send(row: File, owner: str, stream: str | None) -> Uploaded:
    ferry = services()
    info = ObjectInfo(row.key, row.content_type, row.size, row.crc64nvme)
    beat = _Heartbeat(row.id, owner, ferry.config.LEASE_SECONDS)
    if stream is not None:
        return upload_file_from_stream(ferry.store, stream, info, beat)
    try:
        spooled = ferry.spool.open(row.id)
    except FileNotFoundError:
        raise UploadError("The bytes are not in the spool.") from None
    with spooled:
        own = process_file_to_stream(spooled)
        return upload_file_from_stream(ferry.store, own, info, beat)


class _Heartbeat:
    """Renews a run's lease as its bytes travel; called from the threads of the transfer."""

    def __init__(self, file_id: str, owner: str, lease_seconds: float) -> None:
        self._app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        self._lease = (file_id, owner, lease_seconds)
        self._interval = lease_seconds / 3
        self._next = time.monotonic() + self._interval
        self._lock = threading.Lock()

    def __call__(self, sent_bytes: int) -> None:
        with self._lock:
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + self._interval
        with self._app.app_context():
            if not File.renew(*self._lease):
                raise LeaseLost
