"""Per-minute rate limits, counted in Redis so that all processes agree."""

from __future__ import annotations

import time
from hashlib import sha256

from flask import Flask, Response, g
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage, Storage

from access.principal import Principal
from config import Config
from core.errors import LimitReached
from core.redis_client import RedisClient

WINDOW_SECONDS = 60
FAILURES_PER_WINDOW = 20


class Throttle:
    """Counters of whole minutes. While Redis is down, each process counts alone: uploads never stop for it.

    Args:
        config: the limits, and the address of the Redis; nothing connects before it is needed.
    """

    def __init__(self, config: Config) -> None:
        uri = config.CELERY_BROKER_URL
        # In a service without keys only users, who come with tokens, have limits.
        self._of_owners = config.KEY_REQUESTS_PER_MINUTE if config.AUTH == "required" else 0
        self._of_users = config.SUBJECT_REQUESTS_PER_MINUTE
        self._own = MemoryStorage()
        self._shared: Storage = self._own
        self._redis = RedisClient(uri, "limits are counted by this process alone")
        if client := self._redis.client:
            self._shared = RedisStorage(uri, connection_pool=client.connection_pool, wrap_exceptions=True)

    def count_request(self, principal: Principal) -> None:
        """Count a request of an owner's key or of one of its users; what remains is kept for the response headers.

        Users count for themselves alone, so that none of them uses up what the others, and the owner, may ask.

        Raises:
            LimitReached: it has asked too much.
        """
        is_user = principal.subject is not None
        most = self._of_users if is_user else self._of_owners
        if not most:
            return
        who = sha256("\0".join(principal.scope).encode()).hexdigest() if is_user else principal.owner
        count, seconds = self._count("requests", who), _seconds_left()
        g.rate_limit = (most, max(0, most - count), seconds)
        if count > most:
            raise LimitReached(f"Rate limit exceeded: {most} requests per minute.", seconds)

    def count_failure(self, address: str) -> None:
        """Count an invalid credential from an address. Valid ones are never counted or refused.

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
