"""gunicorn's settings: threads that wait for slow clients, and a stop that loses nothing."""

import gc
import logging.config
import os
import resource
from functools import partial
from typing import Any

from dotenv import load_dotenv
from gunicorn.glogging import Logger

from config import Config
from core import logs
from core.services import Services
from events.hub import MAX_WATCHERS
from events.webhook_sender import Sender
from ops.sweeper import Sweeper
from web import cors

load_dotenv()

ours = Config.of_process()
bind = ours.bind
worker_class = "ops.server.patient_worker.Worker"
workers = ours.WEB_CONCURRENCY
# A slow upload holds a thread, and one process may get nearly all of them; see docs/slow-clients.md.
# Those who watch hold threads of their own, so that they never take one from an upload.
threads = ours.WEB_THREADS + MAX_WATCHERS

# Every process builds the app after the fork, so S3 client, database pool and threads are its own.
preload_app = False

# For gthread this is the heartbeat of the process, not the length of a request: a slow upload lives on.
timeout = 60
# What an orderly stop may take: requests, then deliveries. What is left is handed back and swept later.
graceful_timeout = 15
keepalive = 15

# A process that has no descriptor left for a connection dies: take what the system grants, half of it for clients.
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
files = 16_384 if most == resource.RLIM_INFINITY else min(most, 16_384)
resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
worker_connections = files // 2

# The heartbeat's file must not wait for a busy disk, says gunicorn's FAQ.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108
control_socket_disable = True


class logger_class(Logger):  # type: ignore[misc]  # noqa: N801
    """gunicorn's logger in our format. gunicorn's own setting would turn on the access log, with query strings."""

    def setup(self, cfg: Any) -> None:
        """Send gunicorn's log lines through our handlers."""
        super().setup(cfg)
        logging.config.dictConfig(logs.configuration(os.environ))
        logging.captureWarnings(True)


def post_worker_init(worker: Any) -> None:
    """Start the sweep and the webhooks with the process, so that work of an earlier process resumes at once."""
    gc.freeze()  # what is loaded stays; to look through it again and again stops all requests for 0.1 s each time
    worker.parts = [
        Sender(worker.app.callable),
        worker.app.callable.extensions["ferryman"].slots,
        Sweeper(worker.app.callable),
    ]
    for part in worker.parts:
        part.start()
    worker.patience = ours.CLIENT_PATIENCE_SECONDS
    worker.at_failure = partial(worker.app.callable.extensions["ferryman.metrics"].failed, "Unexpected")
    worker.refusal_headers = cors.refusal_headers(ours.CORS_ORIGINS)
    worker.at_stop = partial(at_stop, worker.app.callable.extensions["ferryman"])


def at_stop(ferry: Services) -> None:
    """End the event streams, and let the clients of resumable uploads go on at the next process."""
    ferry.hub.close()
    ferry.spool.writers.stop_all()
    ferry.ahead.stop()


def worker_exit(server: object, worker: Any) -> None:
    """Let running deliveries finish, and return the others to PENDING."""
    for part in getattr(worker, "parts", ()):
        part.stop()
