"""A bell between processes: Redis, or else the clock, wakes the hubs when something has happened."""

from __future__ import annotations

import time

import redis

from core.redis_client import RedisClient

CHANNEL = "ferryman:events"
POLL_SECONDS = 0.25  # how often one looks without being woken
SELDOM_SECONDS = 1.0  # and how often with a Redis that may lose a message


class Bell:
    """Rings in all processes that share a Redis. A ring is only a hint: the events are in the database.

    Args:
        uri: address of the Redis; nothing connects before it is needed.
    """

    def __init__(self, uri: str) -> None:
        self._redis = RedisClient(uri, "watchers are woken by the clock alone")
        self._listener: redis.client.PubSub | None = None

    def ring(self) -> None:
        """Wake all waiting hubs. Redis being down is no error."""
        if (client := self._redis.client) and self._redis.available():
            try:
                client.publish(CHANNEL, "")
            except redis.RedisError as error:
                self._redis.failed(error)

    def wait(self) -> None:
        """Wait for a ring, or until the next regular look; for one thread of a process only."""
        if (client := self._redis.client) and self._redis.available():
            try:
                self._listen(client)
                return
            except redis.RedisError as error:
                self._redis.failed(error)
                self._stop_listening()
        time.sleep(POLL_SECONDS)

    def _listen(self, client: redis.Redis) -> None:
        if self._listener is None:
            listener = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
            listener.subscribe(CHANNEL)
            self._listener = listener
        self._listener.get_message(timeout=SELDOM_SECONDS)
        while self._listener.get_message(timeout=0):  # what has rung meanwhile is heard with this one
            pass

    def close(self) -> None:
        """Close the connections to Redis."""
        self._stop_listening()
        self._redis.close()

    def _stop_listening(self) -> None:
        if self._listener:
            self._listener.close()
            self._listener = None
