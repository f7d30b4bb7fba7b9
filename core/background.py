"""Background loops: threads that repeat their work despite any error, and report their last completed turn."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from flask import Flask, current_app
from sqlalchemy.exc import SQLAlchemyError

from core.errors import UploadError
from core.metrics import metrics

log = logging.getLogger(__name__)

Thing = TypeVar("Thing")

BACKLOG_SECONDS = 0.05  # between turns while more work is waiting
FAILURE_SECONDS = 1.0  # the least between a turn that failed and the next, so that no failure can spin
SILENCE_SECONDS = 90.0  # without a completed turn for so long, a loop no longer does its work
OUTAGES = (SQLAlchemyError, OSError, UploadError)  # expected while a part is away; their text says enough


class Silent(Exception):
    """A loop has completed no turn for too long."""


class Loop:
    """Repeats its work in a thread of its own, in the app's context, from `start` to `stop`. No exception ends it.

    Args:
        app: the app that the work is for.
        name: names the loop in logs and metrics; loops that share their work may share it.
        work: one turn; returns True if more work is waiting.
        pause_seconds: between two turns when no more is waiting.
        wake: ends a pause when it is set; loops may share it.
        patience_seconds: without a completed turn for so long, it no longer does its work; by default
            SILENCE_SECONDS.
    """

    def __init__(
        self,
        app: Flask,
        name: str,
        work: Callable[[], bool],
        pause_seconds: float,
        wake: threading.Event | None = None,
        patience_seconds: float | None = None,
    ) -> None:
        self.name = name
        self._patience_seconds = patience_seconds
        self._app = app
        self._work = work
        self._pause_seconds = pause_seconds
        self._stopping, self._wake = threading.Event(), wake or threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._last_turn = time.monotonic()
        self._last_failure = ""

    @property
    def silent_seconds(self) -> float:
        """Seconds since the last completed turn."""
        return time.monotonic() - self._last_turn

    @property
    def is_silent(self) -> bool:
        """True if it has completed no turn for too long."""
        return self.silent_seconds > (self._patience_seconds or SILENCE_SECONDS)

    def start(self) -> None:
        """Begin the first turn at once."""
        self._last_turn = time.monotonic()
        _loops_of(self._app).append(self)
        self._thread.start()

    def stop(self, wait_seconds: float = 0) -> None:
        """Begin no more turns, and wait up to so many seconds for the running one."""
        self._stopping.set()
        self._wake.set()
        if wait_seconds and self._thread.is_alive():
            self._thread.join(wait_seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._app.app_context():
                    has_more = self._work()
                self._succeeded()
                pause = BACKLOG_SECONDS if has_more else self._pause_seconds
            except BaseException as error:  # a thread has no caller: what passed here would end the loop for good
                pause = max(FAILURE_SECONDS, self._pause_seconds)
                with suppress(BaseException):
                    self._failed(error)
            if not self._stopping.is_set():
                self._wake.wait(pause)
            self._wake.clear()

    def _succeeded(self) -> None:
        self._last_turn = time.monotonic()
        if self._last_failure:
            self._last_failure = ""
            log.info("loop %s works again", self.name)

    def _failed(self, error: BaseException) -> None:
        """Count the failure, and log it unless it only repeats the one before."""
        failure = repr(error)
        if failure != self._last_failure:
            trace = None if isinstance(error, OUTAGES) else error
            log.warning("loop %s failed, and goes on: %s", self.name, error, exc_info=trace)
        self._last_failure = failure
        with self._app.app_context():
            metrics().loop_failures.labels(self.name).inc()


def init_app(app: Flask) -> None:
    """Prepare the app's list of loops."""
    app.extensions["ferryman.loops"] = []


def check() -> None:
    """Check that every loop of this process still completes turns.

    Raises:
        Silent: one does not.
    """
    loops = _loops_of(current_app)
    if silent := {loop.name for loop in list(loops) if loop.is_silent}:
        raise Silent(f"no completed turn for too long: {', '.join(sorted(silent))}")


def silent_seconds() -> dict[str, float]:
    """Return the seconds since the last completed turn, by loop name; of loops with one name, the longest."""
    silent: dict[str, float] = {}
    for loop in list(_loops_of(current_app)):
        silent[loop.name] = max(silent.get(loop.name, 0), loop.silent_seconds)
    return silent


def for_each(work: Callable[[Thing], object], things: Iterable[Thing]) -> None:
    """Call the work for every item, even if some calls fail.

    Raises:
        ExceptionGroup: what the failed calls raised.
    """
    failures: list[Exception] = []
    for thing in things:
        try:
            work(thing)
        except Exception as error:
            failures.append(error)
    if failures:
        raise ExceptionGroup("Some of the work failed", failures)


def _loops_of(app: Flask) -> list[Loop]:
    found: list[Loop] = app.extensions["ferryman.loops"]
    return found
