"""gunicorn's settings: threads that wait for slow clients, and a stop that loses nothing."""

import os
from typing import Any

from dotenv import load_dotenv

load_dotenv()

bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '5000')}"
worker_class = "gthread"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
threads = int(os.environ.get("WEB_THREADS", "16"))

# Every process builds the app after the fork, so S3 client, database pool and threads are its own.
preload_app = False

# For gthread this is the heartbeat of the process, not the length of a request: a slow upload lives on.
timeout = 60
# What an orderly stop may take: requests, then deliveries. What is left is handed back and swept later.
graceful_timeout = 15
keepalive = 15

accesslog = "-"
control_socket_disable = True


def worker_exit(server: object, worker: Any) -> None:
    """Finish the running deliveries of a process that stops; queued ones stay PENDING for the sweep."""
    app = worker.app.callable
    if app is not None:
        app.extensions["ferryman"].pool.shutdown(cancel_futures=True)
