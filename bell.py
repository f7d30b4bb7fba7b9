"""A bell between processes: whoever watches is woken when something has happened, by Redis, or by the clock."""

from __future__ import annotations

import logging
import time

import redis

log = logging.getLogger(__name__)

CHANNEL = "ferryman:events"
AWAY_SECONDS = 5.0  # how long Redis is left alone after it did not answer
TIMEOUT_SECONDS = 0.5
LOOK_SECONDS = 0.25  # how often one looks without being woken
SELDOM_SECONDS = 1.0  # and how often with a Redis that may lose a message


class Bell:
    """Rings in all processes that share a Redis. It is only a hint: the events themselves are in the database.

    Args:
        uri: address of the Redis; nothing connects before it is needed.
    """

    def __init__(self, uri: str) -> None:
        self._client: redis.Redis | None = None
        if uri.startswith(("redis://", "rediss://")):
            self._client = redis.Redis.from_url(
                uri, socket_connect_timeout=TIMEOUT_SECONDS, socket_timeout=TIMEOUT_SECONDS
            )
        self._listener: redis.client.PubSub | None = None
        self._away_until = 0.0

    def ring(self) -> None:
        """Wake all who wait; a Redis that is away is no error."""
        if self._client and time.monotonic() >= self._away_until:
            try:
                self._client.publish(CHANNEL, "")
            except redis.RedisError as error:
                self._leave_alone(error)

    def wait(self) -> None:
        """Wait until it rings, or until it is time to look anyway; for one thread of a process only."""
        if self._client and time.monotonic() >= self._away_until:
            try:
                self._listen(self._client)
                return
            except redis.RedisError as error:
                self._leave_alone(error)
        time.sleep(LOOK_SECONDS)

    def _listen(self, client: redis.Redis) -> None:
        if self._listener is None:
            listener = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
            listener.subscribe(CHANNEL)
            self._listener = listener
        self._listener.get_message(timeout=SELDOM_SECONDS)
        while self._listener.get_message(timeout=0):  # what has rung meanwhile is heard with this one
            pass

    def close(self) -> None:
        """Let go of Redis."""
        if self._listener:
            self._listener.close()
        if self._client:
            self._client.close()

    def _leave_alone(self, error: redis.RedisError) -> None:
        log.warning("watchers are woken by the clock alone, since Redis fails: %s", error)
        self._away_until = time.monotonic() + AWAY_SECONDS
        if self._listener:
            self._listener.close()
            self._listener = None
