"""The processes of `make run`: started together, restarted if one ends, and stopped in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from honcho import manager as honcho
from honcho.process import Popen, Process

STOP_SECONDS = 20  # gunicorn and Celery may finish what runs; honcho kills after this
STOP_FIRST = ("web", "worker")
MAX_RESTARTS = 5
FIRST_PAUSE_SECONDS = 0.5  # doubled with each restart
STEADY_SECONDS = 60.0  # a process that ran for so long has all its restarts again
ORPHANS_SECONDS = 5.0
STOPPED_BY_USER = (128 + signal.SIGINT, 128 + signal.SIGTERM)

honcho.KILL_WAIT = STOP_SECONDS


class Part(Process):  # type: ignore[misc]
    """A process whose children end with it; they would otherwise keep its port."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._child_ctor = self._begin

    def _begin(self, *args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        child: subprocess.Popen[bytes] = Popen(*args, **kwargs)
        threading.Thread(target=_end_with, args=(child,), daemon=True).start()
        return child


class Manager(honcho.Manager):  # type: ignore[misc]
    """honcho's manager, with restarts, and a stop that works during the start.

    A process that ends again and again ends all, with exit code 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self._process_ctor = Part
        self._stopping = False
        self._restarts: dict[str, _Restarts] = {}

    @property
    def was_stopped_by_user(self) -> bool:
        """True if a signal to this process has ended the loop."""
        return self.returncode in STOPPED_BY_USER

    def terminate(self) -> None:
        """Stop every process in order."""
        if not self._stopping:
            self._stopping = True
            threading.Thread(target=self._stop_in_order).start()

    def _stop_in_order(self) -> None:
        _wait_until(self._all_started)
        processes = self._processes.items()
        first = [process for name, process in processes if name in STOP_FIRST]
        for process in first:
            if "returncode" not in process:
                self._procmgr.terminate(process["pid"])
        _wait_until(lambda: all("returncode" in process for process in first))
        super().terminate()

    def _all_stopped(self) -> bool:
        return self._stopping and bool(super()._all_stopped())

    def _any_stopped(self) -> bool:
        """Returns True if a process has ended for good; honcho then stops the others."""
        if self._stopping:
            return bool(super()._any_stopped())
        ended = [name for name, process in self._processes.items() if "returncode" in process]
        return not all(self._may_go_on(name) for name in ended)

    def _may_go_on(self, name: str) -> bool:
        """Restart a process when its pause is over. Returns False after its last restart."""
        process = self._processes[name]
        restarts = self._restarts.setdefault(name, _Restarts())
        if restarts.at is None:
            if not restarts.plan():
                self._system_print(f"{name} has ended {MAX_RESTARTS + 1} times; stopping all\n")
                self.returncode = 1
                return False
            self._system_print(f"{name} has ended by itself; restart {restarts.count} of {MAX_RESTARTS}\n")
        elif time.monotonic() >= restarts.at:
            restarts.done()
            del process["returncode"], process["pid"]
            process["process"] = multiprocessing.Process(
                name=name, target=process["obj"].run, args=(self.events, True)
            )
            process["process"].start()
        return True


class _Restarts:
    """The restarts of one process."""

    def __init__(self) -> None:
        self.count = 0
        self.at: float | None = None
        self._began = 0.0

    def plan(self) -> bool:
        """Choose the time of the next restart. Returns False if there is none left."""
        now = time.monotonic()
        if now - self._began > STEADY_SECONDS:
            self.count = 0
        self.count += 1
        self.at = now + FIRST_PAUSE_SECONDS * 2 ** (self.count - 1)
        return self.count <= MAX_RESTARTS

    def done(self) -> None:
        """Record that the process runs again."""
        self._began, self.at = time.monotonic(), None


def _end_with(leader: subprocess.Popen[bytes]) -> None:
    """Wait for the leader of a process group, and end the group with it."""
    leader.wait()
    deadline = time.monotonic() + ORPHANS_SECONDS
    with suppress(ProcessLookupError):  # none is left
        os.killpg(leader.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.killpg(leader.pid, 0)
            time.sleep(0.1)
        os.killpg(leader.pid, signal.SIGKILL)


def _wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)
