"""A Redis client with a circuit breaker: while Redis fails, no call waits for it."""

from __future__ import annotations

import logging
import time

import redis

log = logging.getLogger(__name__)

SCHEMES = ("redis://", "rediss://")
TIMEOUT_SECONDS = 0.5
AWAY_SECONDS = 5.0  # how long Redis is left alone after a failure


class RedisClient:
    """A Redis client and the state of its circuit breaker. It connects on first use.

    Args:
        uri: the broker's address; if that is no Redis, `client` is None and it is never available.
        without: what happens while Redis fails, for the log, such as "limits are counted by this process alone".
    """

    def __init__(self, uri: str, without: str) -> None:
        self._without = without
        self._away_until = 0.0
        self.client: redis.Redis | None = None
        if uri.startswith(SCHEMES):
            self.client = redis.Redis.from_url(
                uri, socket_connect_timeout=TIMEOUT_SECONDS, socket_timeout=TIMEOUT_SECONDS
            )

    def available(self) -> bool:
        """Returns True if there is a client, and its Redis has not failed in the last AWAY_SECONDS."""
        return self.client is not None and time.monotonic() >= self._away_until

    def failed(self, error: Exception) -> None:
        """Leave Redis alone for AWAY_SECONDS.

        Args:
            error: what it failed with.
        """
        log.warning("%s, since Redis fails: %s", self._without, error)
        self._away_until = time.monotonic() + AWAY_SECONDS

    def close(self) -> None:
        """Close the connections."""
        if self.client:
            self.client.close()
