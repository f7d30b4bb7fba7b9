"""Many clients at once: a few processes of the load client, started on the same signal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from bench.client import Done, Job

ROOT = Path(__file__).parent.parent
CLIENTS_PER_PROCESS = 8
LONGEST_SECONDS = 600


class Burst(NamedTuple):
    """What all processes did together."""

    accepted: int
    refused: int
    seconds: float
    times: list[float]

    @property
    def per_second(self) -> float:
        """How many were answered with 2xx, per second from the first start to the last end."""
        return self.accepted / self.seconds


def uploads(port: int, route: str, path: Path, clients: int, count: int) -> Burst:
    """Upload a file `count` times by so many clients."""
    job = Job(port=port, route=route, path=str(path), threads=0, uploads_per_thread=count // clients, seconds=0)
    return _run(job, clients)


def reads(port: int, route: str, clients: int, seconds: float) -> Burst:
    """Read by so many clients, each over one connection, for some seconds."""
    return _run(Job(port=port, route=route, path="", threads=0, uploads_per_thread=0, seconds=seconds), clients)


def _run(job: Job, count: int) -> Burst:
    processes = max(1, count // CLIENTS_PER_PROCESS)
    job["threads"] = count // processes
    command = [sys.executable, "-m", "bench.client", json.dumps(job)]
    clients: list[subprocess.Popen[str]] = []
    try:
        for _ in range(processes):
            clients.append(
                subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        for client in clients:
            assert client.stdout
            client.stdout.readline()
        for client in clients:
            assert client.stdin
            client.stdin.write("go\n")
            client.stdin.flush()
        done: list[Done] = [json.loads(client.communicate(timeout=LONGEST_SECONDS)[0]) for client in clients]
    finally:
        for client in clients:
            client.kill()
            client.wait()
    return Burst(
        accepted=sum(one["accepted"] for one in done),
        refused=sum(one["refused"] for one in done),
        seconds=max(one["ended"] for one in done) - min(one["began"] for one in done),
        times=[seconds for one in done for seconds in one["times"]],
    )
