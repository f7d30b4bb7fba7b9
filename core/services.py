"""The parts of an app: spool, store, pool, queue and the others. Knows only their types; `app` makes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flask import Flask, current_app

from core.every import Every

if TYPE_CHECKING:
    from celery import Celery

    from access.team_tokens import TeamTokens
    from access.throttle import Throttle
    from config import Config
    from delivery.ahead import Ahead
    from delivery.pool import UploadPool
    from delivery.scanner import Scanner
    from events.bell import Bell
    from events.hub import Hub
    from processing.presets import Presets
    from processing.slots import Slots
    from storage.door import Door
    from storage.spool import Spool
    from storage.store import Store

ROOM_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Services:
    """The parts of one app; they connect to nothing before they are used."""

    config: Config
    spool: Spool
    store: Store
    door: Door
    """The bucket, as clients send to it."""
    pool: UploadPool
    ahead: Ahead
    celery: Celery
    throttle: Throttle
    team_tokens: TeamTokens | None
    """Checks the team's own JWTs; None where they are no credentials."""
    bell: Bell
    hub: Hub
    presets: Presets
    slots: Slots
    scanner: Scanner | None
    """The virus scanner that must pass a file before its delivery; None without one."""
    room_looks: Every = field(default_factory=lambda: Every(ROOM_LOOK_SECONDS))
    """When bytes of failed files may next be dropped to make room."""
    leases: dict[str, str] = field(default_factory=dict)
    """The runs of this process: File id to the run's id."""


def services() -> Services:
    """Return the parts of the current app."""
    found: Services = current_app.extensions["ferryman"]
    return found


def this_app() -> Flask:
    """Return the current app itself, for use in another thread."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    return app
