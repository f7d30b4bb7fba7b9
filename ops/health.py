"""Health: liveness of the process, its readiness to accept, and the state of everything that it depends on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Flask, Response, current_app, jsonify
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from access import auth
from access.principal import Grant
from core import background
from core.database import db, utcnow
from core.errors import ScannerUnavailable, SpoolUnavailable, StoreError
from core.services import services
from intake.uploads import rows as upload_rows
from storage import bucket, file_queries

log = logging.getLogger(__name__)
bp = Blueprint("health", __name__)

STATUS_SECONDS = 1.0
FAILURES = (
    SQLAlchemyError,
    SpoolUnavailable,
    StoreError,
    ScannerUnavailable,
    OperationalError,
    RedisError,
    background.Silent,
)


def init_app(app: Flask) -> None:
    """Keep the state of the app's parts for those who ask soon after each other."""
    app.extensions["ferryman.state"] = State()


@bp.get("/healthz")
@auth.public
@auth.at_any_host
def healthz() -> Response:
    """Return 200 while the process lives.
    ---
    get: {operationId: getHealth, tags: [Service], responses: {200: Alive}}
    """
    return jsonify(status="alive")


@bp.get("/readyz")
@auth.public
@auth.at_any_host
def readyz() -> tuple[Response, HTTPStatus]:
    """Check what it takes to accept a file: the database and the spool.
    ---
    get: {operationId: getReadiness, tags: [Service], responses: {200: Ready, 503: NotReady}}
    """
    checks = {"database": _passes(_check_database), "spool": _passes(services().spool.check_writable)}
    ready = all(checks.values())
    body = jsonify(status="ready" if ready else "not ready", checks=_in_words(checks))
    return body, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE


@bp.get("/status")
@auth.needs(Grant.METRICS)
def status() -> Response:
    """Return the state of all parts, and the age of the oldest undelivered file, as of a second ago at most.
    ---
    get: {operationId: getStatus, tags: [Service], responses: {200: State}}
    """
    state: State = current_app.extensions["ferryman.state"]
    return jsonify(state.read())


class State:
    """The state of all parts, read once a second at most, however many ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Any] = {}
        self._read_at = 0.0

    def read(self) -> dict[str, Any]:
        """Return the state as JSON shows it."""
        with self._lock:
            if not self._known or time.monotonic() - self._read_at > STATUS_SECONDS:
                self._known = _state()
                self._read_at = time.monotonic()
            return self._known


def _state() -> dict[str, Any]:
    ferry = services()
    checks = {
        "database": _passes(_check_database),
        "spool": _passes(ferry.spool.check_writable),
        "bucket": _passes(_check_bucket),
        "broker": _passes(_check_broker),
        "loops": _passes(background.check),
    }
    if ferry.scanner:
        checks["scanner"] = _passes(ferry.scanner.ping)
    oldest = file_queries.oldest_undelivered() if checks["database"] else None
    return {
        "status": "ok" if all(checks.values()) else "degraded",
        "checks": _in_words(checks),
        "oldest_undelivered_seconds": oldest and round((utcnow() - oldest).total_seconds(), 3),
        "unfinished_uploads": upload_rows.totals()[0] if checks["database"] else None,
    }


def _in_words(checks: dict[str, bool]) -> dict[str, str]:
    return {name: "ok" if passed else "failed" for name, passed in checks.items()}


def _passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except Exception as error:  # whatever it is, the part does not answer as it should
        trace = None if isinstance(error, FAILURES) else error
        log.warning("%s failed: %s", check.__name__, error, exc_info=trace)
        return False
    return True


def _check_database() -> None:
    with db.engine.connect() as connection:
        connection.execute(text("SELECT 1"))


def _check_bucket() -> None:
    bucket.check(services().store)


def _check_broker() -> None:
    with services().celery.connection_for_read() as connection:
        connection.default_channel.client.ping()  # type: ignore[attr-defined]
