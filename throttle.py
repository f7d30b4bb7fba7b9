"""Counting what an owner or an address does in a minute, where all processes agree: in Redis."""

from __future__ import annotations

import logging
import time
from typing import Any

from flask import Flask, Response, g
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage, Storage

from errors import LimitReached

log = logging.getLogger(__name__)

WINDOW_SECONDS = 60
FAILURES_PER_WINDOW = 20
AWAY_SECONDS = 5.0  # how long Redis is left alone after it did not answer
TIMEOUT_SECONDS = 0.5


class Throttle:
    """Counters of whole minutes. While Redis is away each process counts for itself: limits never stop uploads.

    Args:
        uri: address of the Redis; nothing connects before it is needed.
        requests_per_minute: how much an owner may ask; 0 for as much as it likes.
    """

    def __init__(self, uri: str, requests_per_minute: int) -> None:
        self._requests = requests_per_minute
        self._own = MemoryStorage()
        self._shared: Storage = self._own
        if uri.startswith(("redis://", "rediss://")):
            timeouts: dict[str, Any] = dict.fromkeys(("socket_connect_timeout", "socket_timeout"), TIMEOUT_SECONDS)
            self._shared = RedisStorage(uri, wrap_exceptions=True, **timeouts)
        self._away_until = 0.0

    def count_request(self, owner: str) -> None:
        """Count a request of an owner, and remember what is left for the answer's headers.

        Raises:
            LimitReached: the owner has asked too much.
        """
        if not self._requests:
            return
        count, left = self._count("requests", owner, 1), _seconds_left()
        g.rate_limit = (self._requests, max(0, self._requests - count), left)
        if count > self._requests:
            raise LimitReached(f"More than {self._requests} requests in a minute.", left)

    def count_failure(self, address: str) -> None:
        """Count a key from an address that was wrong. Right keys are never counted, and always let in.

        Raises:
            LimitReached: too many were wrong.
        """
        if self._count("failures", address, 1) > FAILURES_PER_WINDOW:
            raise LimitReached("Too many wrong keys from this address.", _seconds_left())

    def _count(self, what: str, who: str, more: int) -> int:
        key = f"ferryman:{what}:{who}:{int(time.time()) // WINDOW_SECONDS}"
        if time.monotonic() >= self._away_until:
            try:
                return _counted(self._shared, key, more)
            except StorageError as error:
                log.warning("limits are counted by this process alone, since Redis fails: %s", error)
                self._away_until = time.monotonic() + AWAY_SECONDS
        return _counted(self._own, key, more)


def init_app(app: Flask) -> None:
    """Tell each owner in the answers what it has left.

    Source: https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-07
    """
    app.after_request(_add_headers)


def _add_headers(response: Response) -> Response:
    if limit := g.get("rate_limit"):
        for name, value in zip(("Limit", "Remaining", "Reset"), limit, strict=True):
            response.headers[f"RateLimit-{name}"] = str(value)
    return response


def _counted(storage: Storage, key: str, more: int) -> int:
    return storage.incr(key, WINDOW_SECONDS, amount=more) if more else storage.get(key)


def _seconds_left() -> int:
    return WINDOW_SECONDS - int(time.time()) % WINDOW_SECONDS
