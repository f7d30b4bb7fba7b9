"""Health: liveness of the process, and readiness of its parts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus

from flask import Blueprint, Response, jsonify
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from access import auth
from core import background
from core.database import db, utcnow
from core.errors import ScannerUnavailable, SpoolUnavailable, StoreError
from core.services import services
from storage import bucket, file_queries

log = logging.getLogger(__name__)
bp = Blueprint("health", __name__)

FAILURES = (
    SQLAlchemyError,
    SpoolUnavailable,
    StoreError,
    ScannerUnavailable,
    OperationalError,
    RedisError,
    background.Silent,
)


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
    """Check database, bucket, broker, spool and loops, and report the age of the oldest undelivered file.
    ---
    get: {operationId: getReadiness, tags: [Service], responses: {200: Ready, 503: NotReady}}
    """
    checks = {
        "database": _passes(_check_database),
        "bucket": _passes(_check_bucket),
        "broker": _passes(_check_broker),
        "loops": _passes(background.check),
        "spool": _passes(services().spool.check_writable),
    }
    if scanner := services().scanner:
        checks["scanner"] = _passes(scanner.ping)
    ready = all(checks.values())
    oldest = file_queries.oldest_undelivered() if checks["database"] else None
    body = jsonify(
        status="ready" if ready else "not ready",
        checks={name: "ok" if passed else "failed" for name, passed in checks.items()},
        oldest_undelivered_seconds=oldest and round((utcnow() - oldest).total_seconds(), 3),
    )
    return body, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE


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
