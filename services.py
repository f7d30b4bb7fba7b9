"""What a process needs to deliver files: spool, store, pool and queue; made once per app."""

from __future__ import annotations

from dataclasses import dataclass, field

from celery import Celery, Task
from flask import Flask, current_app

import logs
from bell import Bell
from config import Config, make_celery
from every import Every
from pool import UploadPool
from scan import Scanner
from spool import Spool
from store import Store
from throttle import Throttle
from watch import Hub

ROOM_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Services:
    """The parts of one app; they connect to nothing before they are used."""

    config: Config
    spool: Spool
    store: Store
    pool: UploadPool
    celery: Celery
    throttle: Throttle
    bell: Bell
    hub: Hub
    scanner: Scanner | None
    """What must find nothing in a file before it is delivered, if there is one."""
    room_looks: Every = field(default_factory=lambda: Every(ROOM_LOOK_SECONDS))
    """When bytes of failed files may next be dropped to make room."""
    leases: dict[str, str] = field(default_factory=dict)
    """The runs of this process: File id to the run's id."""


def init_app(app: Flask, config: Config) -> None:
    """Give the app its services, under `app.extensions["ferryman"]`."""

    class AppTask(Task):  # type: ignore[type-arg]
        """A task that runs inside the app's context."""

        def __call__(self, *args: object, **kwargs: object) -> object:
            with app.app_context(), logs.about(request_id=self.request.get("request_id")):
                return self.run(*args, **kwargs)

    bell = Bell(config.CELERY_BROKER_URL)
    spool = Spool(config.SPOOL_DIR, config.SPOOL_MAX_BYTES, config.SPOOL_FSYNC)
    app.extensions["ferryman"] = Services(
        config=config,
        spool=spool,
        store=Store(config),
        pool=UploadPool(config.UPLOAD_THREADS, config.UPLOAD_BACKLOG),
        celery=make_celery(config, spool.id, AppTask),
        throttle=Throttle(config.CELERY_BROKER_URL, config.KEY_REQUESTS_PER_MINUTE),
        bell=bell,
        hub=Hub(bell),
        scanner=Scanner(config.CLAMD_ADDRESS, config.CLAMD_MAX_BYTES) if config.CLAMD_ADDRESS else None,
    )


def services() -> Services:
    """The services of the current app."""
    found: Services = current_app.extensions["ferryman"]
    return found


def this_app() -> Flask:
    """The current app itself, to be used in another thread."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    return app
