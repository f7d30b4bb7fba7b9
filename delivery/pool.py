"""The bounded pool of threads on which a web process delivers files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

LOOK_SECONDS = 0.1
BUSY_SHARE = 0.4  # of one core: of the interpreter, that is
PUT_OFF_SECONDS = 5.0


class UploadPool:
    """Runs one job per file, and never two for the same file at once.

    Threads help while S3 lets them wait. In a busy process they wait for the interpreter, and requests with them;
    so there a job waits for the one before it, if there is room for what comes meanwhile, and not for long.

    Args:
        threads: how many jobs run at a time.
        backlog: how many files it holds at most, running ones included, before it counts as full.
    """

    def __init__(self, threads: int, backlog: int) -> None:
        self.threads = threads
        self.backlog = backlog
        self._executor = ThreadPoolExecutor(threads, "upload")
        self._jobs: dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._load = _Load()
        self._stopped = False

    @property
    def held(self) -> int:
        """The number of files in the pool."""
        return len(self._jobs)

    @property
    def is_full(self) -> bool:
        """True if the pool accepts no more files."""
        return self.held >= self.backlog

    def submit(self, file_id: str, job: Callable[[], None]) -> None:
        """Queue a file's job, unless the pool holds that file already or has stopped."""
        with self._lock:
            if file_id in self._jobs or self._stopped:
                return
            future = self._jobs[file_id] = self._executor.submit(self._run, job, time.monotonic())
        future.add_done_callback(lambda _: self._forget(file_id))

    def stop(self, seconds: float) -> list[str]:
        """Start no more jobs and let the running ones finish.

        Args:
            seconds: how long they may take.

        Returns:
            The files whose job never began.
        """
        with self._lock:
            self._stopped = True
            jobs = dict(self._jobs)
        never_began = [file_id for file_id, future in jobs.items() if future.cancel()]
        self._executor.shutdown(wait=False)
        wait(jobs.values(), seconds)
        return never_began

    def _run(self, job: Callable[[], None], submitted_at: float) -> None:
        spare = submitted_at + PUT_OFF_SECONDS - time.monotonic() if self.held < self.backlog / 2 else 0
        in_turn = spare > 0 and self._load.is_high() and self._turn.acquire(timeout=spare)
        try:
            job()
        finally:
            if in_turn:
                self._turn.release()

    def _forget(self, file_id: str) -> None:
        with self._lock:
            self._jobs.pop(file_id, None)


class _Load:
    """The share of a core that this process has used lately."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = time.monotonic()
        self._used = time.process_time()
        self._share = 0.0

    def is_high(self) -> bool:
        """Returns True if one more thread would slow the process down."""
        with self._lock:
            at, used = time.monotonic(), time.process_time()
            if at - self._at >= LOOK_SECONDS:
                self._share = (used - self._used) / (at - self._at)
                self._at, self._used = at, used
            return self._share > BUSY_SHARE
