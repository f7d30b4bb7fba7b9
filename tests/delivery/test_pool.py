"""The pool delivers side by side while threads help, and one after the other where they would be in the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest

from delivery.pool import LOOK_SECONDS, PUT_OFF_SECONDS, UploadPool
from tests.kit.stack import wait_for

THREADS = 3
BACKLOG = 100


class Jobs:
    """Jobs that wait, as for S3, and count how many of them do so at a time."""

    def __init__(self, seconds: float = 0.1) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._running = 0
        self.most = 0
        self.ended = 0

    def __call__(self) -> None:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        time.sleep(self._seconds)
        with self._lock:
            self._running -= 1
            self.ended += 1


@pytest.fixture
def uploads() -> Iterator[UploadPool]:
    """A pool with room for many."""
    made = UploadPool(THREADS, BACKLOG)
    yield made
    made.stop(10)


@contextmanager
def busy_process() -> Iterator[None]:
    """Let the clock of the process say that it uses a whole core; on a busy machine it would not get one."""
    with mock.patch("delivery.pool.time.process_time", time.monotonic):
        time.sleep(2 * LOOK_SECONDS)
        yield


def run(uploads: UploadPool, jobs: Jobs, count: int) -> None:
    """Run so many jobs to their end."""
    for number in range(count):
        uploads.submit(str(number), jobs)
    wait_for(lambda: uploads.held == 0)


def test_while_the_process_has_time_deliveries_go_side_by_side(uploads: UploadPool) -> None:
    jobs = Jobs()
    run(uploads, jobs, 2 * THREADS)
    assert jobs.most == THREADS


def test_in_a_busy_process_they_go_one_after_the_other(uploads: UploadPool) -> None:
    jobs = Jobs()
    with busy_process():
        run(uploads, jobs, 2 * THREADS)
    assert jobs.most == 1


def test_but_they_are_not_put_off_for_long(uploads: UploadPool) -> None:
    jobs = Jobs(seconds=PUT_OFF_SECONDS / 2)
    with busy_process():
        run(uploads, jobs, 2 * THREADS)
    assert jobs.most > 1


def test_nor_when_many_wait() -> None:
    jobs, crowded = Jobs(), UploadPool(THREADS, 2 * THREADS)
    with busy_process():
        run(crowded, jobs, 2 * THREADS)
    crowded.stop(10)
    assert jobs.most > 1


def test_a_stop_lets_those_end_that_wait_for_their_turn(uploads: UploadPool) -> None:
    jobs = Jobs(seconds=PUT_OFF_SECONDS / 4)
    with busy_process():
        for number in range(THREADS + 2):
            uploads.submit(str(number), jobs)
        wait_for(lambda: jobs.most == 1)
        assert len(uploads.stop(10)) == 2
    assert jobs.ended == THREADS
