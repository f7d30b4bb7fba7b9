"""The Celery app and its queues."""

from __future__ import annotations

from typing import Any

from celery import Celery, Task
from flask import Flask
from kombu import Queue

from config import Config
from core import logs

DEFAULT_QUEUE = "ferryman"
OPTIONS: dict[str, Any] = {
    # A message is only a hint to look at the row, so it may come twice but must not be lost.
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    # A dead broker must not hold a request: the row waits in the database, the sweep delivers it.
    "task_publish_retry": False,
    "broker_connection_retry_on_startup": True,
    # An error reply to a worker that waits, as in a failover, is one more reason to connect anew.
    "broker_channel_error_retry": True,
    "broker_transport_options": {
        "body_encoding": None,  # kombu would wrap the JSON body in base64 once more
        "socket_connect_timeout": 2,
        "socket_timeout": 3,
        "max_retries": 0,
    },
    # After QUIT a worker may finish for so long, and what is left goes back to the queue. TERM waits without
    # end, unless Celery is told REMAP_SIGTERM=SIGQUIT.
    "worker_soft_shutdown_timeout": 10,
    "worker_hijack_root_logger": False,
}


def spool_queue(spool_id: str) -> str:
    """Return the name of the queue for files that only a worker with this spool can deliver."""
    return f"{DEFAULT_QUEUE}.spool.{spool_id}"


def process_queue(spool_id: str) -> str:
    """Return the name of the queue for derivatives that are made where this spool is."""
    return f"{DEFAULT_QUEUE}.process.{spool_id}"


def make_celery(app: Flask, config: Config, spool_id: str) -> Celery:
    """Build the Celery app, whose tasks run in the context of a Flask app. It connects on first use.

    Args:
        app: the Flask app.
        config: the settings.
        spool_id: identity of the spool that this process can read, whose queue a worker consumes too; or empty.

    Returns:
        The Celery app.

    Source: https://docs.celeryq.dev/en/stable/userguide/configuration.html,
        https://flask.palletsprojects.com/en/stable/patterns/celery/
    """

    class AppTask(Task):  # type: ignore[type-arg]
        """A task that runs in the app's context."""

        def __call__(self, *args: object, **kwargs: object) -> object:
            with app.app_context(), logs.about(request_id=self.request.get("request_id")):
                return self.run(*args, **kwargs)

    own = (spool_queue(spool_id), process_queue(spool_id)) if spool_id else ()
    queues = (DEFAULT_QUEUE, *own)
    celery: Celery[Any] = Celery(
        "ferryman",
        broker=config.CELERY_BROKER_URL,
        backend=config.CELERY_RESULT_BACKEND,
        task_cls=AppTask,
    )
    celery.conf.update(
        task_ignore_result=config.CELERY_RESULT_BACKEND is None,
        task_default_queue=DEFAULT_QUEUE,
        task_queues=[Queue(name, routing_key=name) for name in queues],
        **OPTIONS,
    )
    celery.set_default()
    return celery
