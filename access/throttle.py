"""Per-minute rate limits, counted in Redis so that all processes agree."""

from __future__ import annotations

import time

from flask import Flask, Response, g
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage, Storage

from core.errors import LimitReached
from core.redis_client import RedisClient

WINDOW_SECONDS = 60
FAILURES_PER_WINDOW = 20


class Throttle:
    """Counters of whole minutes. While Redis is down, each process counts alone: uploads never stop for it.

    Args:
        uri: address of the Redis; nothing connects before it is needed.
        requests_per_minute: how much an owner may ask; 0 for as much as it likes.
    """

    def __init__(self, uri: str, requests_per_minute: int) -> None:
        self._requests = requests_per_minute
        self._own = MemoryStorage()
        self._shared: Storage = self._own
        self._redis = RedisClient(uri, "limits are counted by this process alone")
        if client := self._redis.client:
            self._shared = RedisStorage(uri, connection_pool=client.connection_pool, wrap_exceptions=True)

    def count_request(self, owner: str) -> None:
        """Count a request of an owner, and keep the remaining requests for the response headers.

        Raises:
            LimitReached: the owner has asked too much.
        """
        if not self._requests:
            return
        count, left = self._count("requests", owner), _seconds_left()
        g.rate_limit = (self._requests, max(0, self._requests - count), left)
        if count > self._requests:
            raise LimitReached(f"Rate limit exceeded: {self._requests} requests per minute.", left)

    def count_failure(self, address: str) -> None:
        """Count an invalid key from an address. Valid keys are never counted or refused.

        Raises:
            LimitReached: too many were wrong.
        """
        if self._count("failures", address) > FAILURES_PER_WINDOW:
            raise LimitReached("Too many invalid keys from this address.", _seconds_left())

    def _count(self, what: str, who: str) -> int:
        key = f"ferryman:{what}:{who}:{int(time.time()) // WINDOW_SECONDS}"
        if self._redis.available():
            try:
                return self._shared.incr(key, WINDOW_SECONDS)
            except StorageError as error:
                self._redis.failed(error)
        return self._own.incr(key, WINDOW_SECONDS)


def init_app(app: Flask) -> None:
    """Send the rate limit of the owner in the response headers.

    Source: https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-07
    """
    app.after_request(_add_headers)


def _add_headers(response: Response) -> Response:
    if limit := g.get("rate_limit"):
        for name, value in zip(("Limit", "Remaining", "Reset"), limit, strict=True):
            response.headers[f"RateLimit-{name}"] = str(value)
    return response


def _seconds_left() -> int:
    return WINDOW_SECONDS - int(time.time()) % WINDOW_SECONDS
