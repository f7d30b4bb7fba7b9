"""The bounded pool of threads on which a web process delivers files."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait


class UploadPool:
    """Runs one job per file; knows what it holds, and takes no file twice at once.

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
        self._stopped = False

    @property
    def held(self) -> int:
        """How many files it holds."""
        return len(self._jobs)

    @property
    def is_full(self) -> bool:
        """Whether it should be given no more files."""
        return self.held >= self.backlog

    def submit(self, file_id: str, job: Callable[[], None]) -> None:
        """Queue a file's job, unless the pool holds that file already, or has stopped and leaves it to others."""
        with self._lock:
            if file_id in self._jobs or self._stopped:
                return
            future = self._jobs[file_id] = self._executor.submit(job)
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

    def _forget(self, file_id: str) -> None:
        with self._lock:
            self._jobs.pop(file_id, None)
