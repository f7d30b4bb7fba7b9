"""Minutes of load in all modes while things die at random: nothing lost, nothing twice, memory and files flat."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import psutil
import pytest

from tests.faults.kit import MODES, NO_ANSWER, Kit, Result, kill_worker_child

SECONDS = int(os.environ.get("SOAK_SECONDS", "240"))
CLIENTS = 4
SIZES = [0, 1, 1_000, 50_000, 300_000, 3_000_000, 20_000_000]
WEIGHTS = [1, 1, 20, 20, 10, 3, 1]


class Load:
    """Clients that upload until they are told to stop."""

    def __init__(self, kit: Kit) -> None:
        self.accepted: dict[str, bytes] = {}
        self.refused = 0
        self._kit = kit
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _client(self) -> None:
        while not self._stop.is_set():
            content = random.randbytes(random.choices(SIZES, WEIGHTS)[0])
            answer = None
            with suppress(*NO_ANSWER):
                answer = self._kit.web.upload(random.choice(MODES), "soak.bin", content)
            if answer is not None and answer.ok:
                self.accepted[answer.json()["id"]] = content
            else:
                self.refused += 1
                time.sleep(0.2)


def kill_and_restart_web(kit: Kit) -> None:
    kit.restart(kit.web)


def kill_and_restart_worker(kit: Kit) -> None:
    kit.restart(kit.worker)


def kill_and_restart_redis(kit: Kit) -> None:
    kit.redis.kill()
    kit.redis.start()


def stop_and_start_web(kit: Kit) -> None:
    kit.web.stop(40)
    kit.web.start()


def take_s3_away(kit: Kit) -> None:
    kit.s3_proxy.refuse()
    time.sleep(5)
    kit.s3_proxy.recover()


def take_the_database_away(kit: Kit) -> None:
    assert kit.db_proxy
    kit.db_proxy.refuse()
    time.sleep(3)
    kit.db_proxy.recover()


def pause_the_worker(kit: Kit) -> None:
    kit.worker.signal(signal.SIGSTOP)
    time.sleep(4)
    kit.worker.signal(signal.SIGCONT)


FAULTS: list[Callable[[Kit], None]] = [
    kill_and_restart_web,
    kill_and_restart_worker,
    kill_and_restart_redis,
    kill_worker_child,
    stop_and_start_web,
    take_s3_away,
    take_the_database_away,
    pause_the_worker,
]


class Usage(NamedTuple):
    """What the service's processes hold: MB of memory of their own, and open files."""

    megabytes: float
    files: int


def usage(kit: Kit) -> Usage:
    processes = []
    for service in (kit.web, kit.worker):
        parent = psutil.Process(service.pid)
        processes += [parent, *parent.children(recursive=True)]
    memory = sum(process.memory_full_info().uss for process in processes)
    return Usage(memory / 1e6, sum(process.num_fds() for process in processes))


@pytest.mark.soak
@pytest.mark.timeout(SECONDS * 3 + 300)
def test_a_soak(kit: Kit, results: list[Result]) -> None:
    load = Load(kit)
    strikes = 0
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        time.sleep(random.uniform(2, 6))
        random.choice(FAULTS)(kit)
        strikes += 1
    since = time.monotonic()
    kit.web.wait()
    time.sleep(10)
    early = usage(kit)
    time.sleep(SECONDS / 4)
    load.stop()
    kit.settle(load.accepted, 120)
    late = usage(kit)
    name = f"soak: {strikes} faults in {SECONDS} s, {load.refused} refused"
    result = kit.count(name, "all", load.accepted, since)
    results.append(result)
    print(f"memory {early.megabytes:.0f} -> {late.megabytes:.0f} MB, files {early.files} -> {late.files}")  # noqa: T201
    assert (result.lost, result.duplicated) == (0, 0)
    kit.assert_nothing_is_left()
    assert late.megabytes < early.megabytes * 1.25 + 20
    assert late.files < early.files + 30
