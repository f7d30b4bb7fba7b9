"""The hub: one thread of a process reads the event log, and hands each event to the watchers of its file."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from flask import Flask

from access.principal import Principal
from core.background import Loop
from core.errors import Busy
from events import log as event_log
from events.bell import Bell
from events.log import EventRow

MAX_WATCHERS = 256  # a process has as many threads besides those for other requests
BACKLOG = 1000
GATHER_SECONDS = 0.25  # what happens meanwhile is handed out at once, since each time wakes every watcher


class Watcher:
    """A subscriber to the events of an owner's files, or of one file.

    Args:
        principal: whose events.
        file_id: only of this file, and of what is derived from it.
        after: the number of the last event it knows.
    """

    def __init__(self, principal: Principal, file_id: str | None, after: int) -> None:
        self.after = after
        self._principal = principal
        self._file_id = file_id
        self._waiting: queue.Queue[EventRow | None] = queue.Queue(BACKLOG)
        self._closing = False

    def offer(self, event: EventRow) -> bool:
        """Queue the event if this watcher subscribes to it. Returns False if its queue is full."""
        is_own = event.owner == self._principal.owner and self._principal.subject in (None, event.subject)
        is_of_concern = is_own and self._file_id in (None, event.file_id, event.parent_id)
        if is_of_concern and event.id > self.after:
            try:
                self._waiting.put_nowait(event)
            except queue.Full:
                return False
        return True

    def take(self, seconds: float) -> list[EventRow]:
        """Return all queued events, or wait for the next one.

        Args:
            seconds: how long to wait.

        Returns:
            The events; none if none came in time.

        Raises:
            Closed: no more events will come.
        """
        taken: list[EventRow] = []
        with suppress(queue.Empty):
            while not self._closing:
                event = self._waiting.get_nowait() if taken else self._waiting.get(timeout=seconds)
                if event is None:
                    self._closing = True
                else:
                    taken.append(event)
        if self._closing and not taken:
            raise Closed
        return taken

    def close(self) -> None:
        """Close the watcher, after its queued events."""
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            self._waiting = queue.Queue()
            self._waiting.put(None)


class Closed(Exception):
    """The watcher was closed: it was too slow, or the process stops. Its client can reconnect."""


class Hub:
    """All watchers of a process. Its thread starts with the first watcher.

    Args:
        bell: wakes it.
    """

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._lock = threading.Lock()
        self._watchers: set[Watcher] = set()
        self._loop: Loop | None = None
        self._closed = False
        self._read_up_to = 0

    @contextmanager
    def watching(
        self, app: Flask, principal: Principal, file_id: str | None = None, after: int | None = None
    ) -> Iterator[tuple[Watcher, int]]:
        """Subscribe to events while the block runs.

        Args:
            app: the app in which the hub reads.
            principal: whose events.
            file_id: only of this file, and of what is derived from it.
            after: the number of the last event that is known; by default the present one.

        Returns:
            The watcher, and the number up to which events were handed out before: those in between are to be read.

        Raises:
            Busy: too many are watching.
        """
        self._begin(app)
        with self._lock:
            if len(self._watchers) >= MAX_WATCHERS or self._closed:
                raise Busy("Too many clients are watching; try again later.")
            watcher = Watcher(principal, file_id, max(after or 0, self._read_up_to))
            self._watchers.add(watcher)
            read_up_to = self._read_up_to
        try:
            yield watcher, read_up_to
        finally:
            with self._lock:
                self._watchers.discard(watcher)

    def close(self) -> None:
        """Close all watchers, and accept no more."""
        with self._lock:
            self._closed = True
            for watcher in self._watchers:
                watcher.close()

    def _begin(self, app: Flask) -> None:
        with self._lock:
            if self._loop is None:
                self._read_up_to = event_log.begin()
                self._loop = Loop(app, "events", self._turn, pause_seconds=0)  # the bell makes it wait
                self._loop.start()

    def _turn(self) -> bool:
        rows = event_log.settled(event_log.read(self._read_up_to), self._read_up_to)
        self._hand_out(rows)
        if rows:
            time.sleep(GATHER_SECONDS)
        self._bell.wait()
        if self._closed and self._loop:
            self._bell.close()
            self._loop.stop()
        return False

    def _hand_out(self, rows: Sequence[EventRow]) -> None:
        with self._lock:
            for event in rows:
                slow = [watcher for watcher in self._watchers if not watcher.offer(event)]
                for watcher in slow:
                    watcher.close()
                    self._watchers.discard(watcher)
                self._read_up_to = event.id
