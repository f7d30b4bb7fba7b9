"""What is measured, one function per block; all of them add their samples to the results."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import redis

from bench import burst, client
from bench.delivery import MB
from bench.memory import Peak
from bench.results import Results
from bench.servers import Destination, PortServer, Stack
from tests.kit.stack import ROOT

MODES = ("normal", "async", "celery")
CLIENTS = 32
READERS = 2
QUEUED = 100
SLOW = 2 * MB
FAST = 50 * MB
ZEROS = bytes(MB)

Turn = tuple[str, str, Callable[[], client.Answer]]
"""Who uploads, in which mode, and how."""


class Files:
    """The files to upload, by their size's name, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, size: str) -> Path:
        return self.folder / size.replace(" ", "-")


class Bench(NamedTuple):
    """What every block needs."""

    results: Results
    files: Files
    sink: Destination

    def land(self, stack: Stack, mode: str, path: Path, rate: float = 0) -> client.Answer:
        """Upload one file, and wait until it is in S3 and nothing of it can disturb what follows."""
        before = self.sink.landed()
        answer = stack.post(mode, path, rate)
        if not 200 <= answer.status < 300:
            self.results.note(f"{stack.who} answered {answer.status} to {mode} {path.name}")
        elif not self.sink.wait_landed(before + 1):
            self.results.note(f"{stack.who} did not bring {mode} {path.name} to S3")
        stack.rest()
        return answer

    def touch_memory(self, path: Path, count: int = 1) -> None:
        """Have the machine hold the memory that so many uploads of a file need.

        A virtual machine may give free memory back to its host. Who writes first after a pause would wait for it:
        five times as long for 1 GB as who writes second.
        """
        with tempfile.TemporaryFile(dir=self.files.folder, buffering=0) as file:
            for _ in range(-(-path.stat().st_size * count // len(ZEROS))):
                file.write(ZEROS)

    def keep(self, who: str, what: str, answer: client.Answer) -> None:
        """Keep how long an upload took; a refusal is quick, and no result."""
        if 200 <= answer.status < 300:
            self.results.add(who, what, answer.seconds * 1000)
        else:
            self.results.note(f"{who} answered {answer.status}, left out of {what}: {answer.body[:80]!r}")


def warm_up(bench: Bench, stacks: Iterable[Stack], sizes: tuple[str, ...] = ("100 kB", "1 MB")) -> None:
    """Upload until every process has imported and connected what it needs."""
    for stack in stacks:
        for mode in MODES:
            for size in sizes:
                before = bench.sink.landed()
                many = burst.uploads(stack.port, f"/{mode}_upload", bench.files[size], 8, 16)
                bench.sink.wait_landed(before + many.accepted)


def latency(
    bench: Bench, stacks: list[Stack], limit: PortServer, peers: PortServer | None, size: str, rounds: int
) -> None:
    """Time single uploads of one size, everybody in turn."""
    path = bench.files[size]
    turns: list[Turn] = []

    def turn(who: str, mode: str, call: Callable[[], client.Answer]) -> None:
        turns.append((who, mode, call))

    turn("limit", "async", lambda: client.post_form(limit.port, "/", path))
    for stack in stacks:
        for mode in MODES:
            turn(stack.who, mode, partial(bench.land, stack, mode, path))
    if peers:
        turn("busboy", "async", lambda: client.post_form(peers.port, "/busboy_file", path))
        turn("busboy", "normal", lambda: client.post_form(peers.port, "/busboy_s3", path))
        turn("tus", "async", lambda: client.post_tus(peers.port, "/tus_file", path))
        turn("tus", "normal", lambda: client.post_tus(peers.port, "/tus_s3", path))
    for who, mode, answer in _in_turn(bench, turns, path, rounds):
        bench.keep(who, f"{mode} {size}", answer)
        if who in ("limit", "busboy", "tus") and mode == "async":  # there is but one way to accept
            bench.keep(who, f"celery {size}", answer)


def normal_only(bench: Bench, stacks: list[Stack], peers: PortServer | None, size: str, rounds: int) -> None:
    """Time single uploads that are answered when S3 has them."""
    path = bench.files[size]
    turns: list[Turn] = [(one.who, "normal", partial(bench.land, one, "normal", path)) for one in stacks]
    if peers:
        turns.append(("busboy", "normal", partial(client.post_form, peers.port, "/busboy_s3", path)))
    for who, mode, answer in _in_turn(bench, turns, path, rounds):
        bench.keep(who, f"{mode} {size}", answer)


def _in_turn(bench: Bench, turns: list[Turn], path: Path, rounds: int) -> Iterator[tuple[str, str, client.Answer]]:
    """Let everybody upload in turn; the first round warms up, and does not count."""
    for number in range(1 + rounds):
        for who, mode, call in turns:
            bench.touch_memory(path)
            answer = call()
            if number > 0:
                yield who, mode, answer


def concurrency(bench: Bench, stacks: list[Stack], limit: PortServer, size: str, count: int, rounds: int) -> None:
    """Count what 32 clients get accepted per second, while deliveries go on."""
    what = f"{CLIENTS} clients, async {size}"
    path = bench.files[size]
    for _ in range(rounds):
        bench.touch_memory(path, count)
        many = burst.uploads(limit.port, "/", path, CLIENTS, count)
        bench.results.add("limit", what, many.per_second)
        for stack in stacks:
            before = bench.sink.landed()
            bench.touch_memory(path, count)
            many = burst.uploads(stack.port, "/async_upload", path, CLIENTS, count)
            bench.results.add(stack.who, what, many.per_second)
            if many.refused:
                bench.results.note(
                    f"{stack.who} refused {many.refused} of {count} uploads of {size} by {CLIENTS} clients"
                )
            if not bench.sink.wait_landed(before + many.accepted):
                landed = bench.sink.landed() - before
                bench.results.note(
                    f"{stack.who} brought {landed} of {many.accepted} accepted uploads of {size} to S3"
                )


def status_reads(bench: Bench, port: int, seconds: float, rounds: int) -> None:
    """Count reads of one file's status, with one web process."""
    created = client.post_form(port, "/async_upload", bench.files["100 kB"])
    place = created.headers["location"]
    burst.reads(port, place, READERS, 0.3)
    for _ in range(rounds):
        bench.results.add(
            "ours", "status reads, 1 web process", burst.reads(port, place, READERS, seconds).per_second
        )


def memory(bench: Bench, stack: Stack, size: str, modes: Iterable[str]) -> None:
    """Take the peak over idle of web and worker for one upload in each mode, on fresh processes."""
    for mode in modes:
        web, worker = Peak(stack.web.pid), Peak(stack.worker.pid)
        bench.land(stack, mode, bench.files[size])
        bench.results.add(stack.who, f"peak over idle, {size}: web, {mode}", web.over_idle_mb())
        if mode == "celery":
            bench.results.add(stack.who, f"peak over idle, {size}: worker, {mode}", worker.over_idle_mb())


def large_by_celery(bench: Bench, stack: Stack) -> None:
    """Send 600 MB by Celery; more than a Redis string can hold as base64."""
    web, worker = Peak(stack.web.pid), Peak(stack.worker.pid)
    before = bench.sink.landed()
    answer = stack.post("celery", bench.files["600 MB"])
    if answer.status == 202:
        bench.sink.wait_landed(before + 1)
    bench.results.add(stack.who, "600 MB by Celery, answer", answer.status)
    bench.results.add(stack.who, "600 MB by Celery, time to answer", answer.seconds * 1000)
    bench.results.add(stack.who, "600 MB by Celery: web", web.over_idle_mb())
    bench.results.add(stack.who, "600 MB by Celery: worker", worker.over_idle_mb())


def redis_peak(bench: Bench, stack: Stack) -> None:
    """Queue uploads while no worker runs, and see what Redis holds; then let a worker deliver them."""
    before = bench.sink.landed()
    stack.worker.kill()
    held: list[int] = []
    ended = threading.Event()

    def watch() -> None:  # Redis's own used_memory_peak remembers what went before
        with redis.Redis(port=stack.redis.port) as connection:
            while not ended.is_set():
                held.append(connection.info("memory")["used_memory"])
                time.sleep(0.005)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        many = burst.uploads(stack.port, "/celery_upload", bench.files["10 MB"], 4, QUEUED)
    finally:
        ended.set()
        watcher.join(10)
    bench.results.add(stack.who, "Redis peak, 100 queued of 10 MB", max(held) / MB)
    if many.refused:
        bench.results.note(f"{stack.who} refused {many.refused} of {QUEUED} uploads by Celery")
    stack.worker.start()
    if not bench.sink.wait_landed(
        before + many.accepted
    ):  # what is left would be swept in the middle of other work
        bench.results.note(f"{stack.who} did not bring all of {many.accepted} queued uploads to S3")


def pickup(bench: Bench, stack: Stack, rounds: int) -> None:
    """Take the time from a row's creation to the line in the worker's log that says `received`, whole ms."""
    pattern = re.compile(
        r'^(?:\[|\{"time": ")([-0-9]+[ T][0-9:]+[,.]\d+Z?).*Task upload_task\[\S+\] received', re.M
    )
    for _ in range(rounds):
        time.sleep(0.1)
        seen = stack.worker.text().count("received")
        answer = bench.land(stack, "celery", bench.files["100 kB"])
        created = re.search(rb'"created_at": *"([^"]+)"', answer.body)
        received = pattern.findall(stack.worker.text())
        if created and stack.worker.text().count("received") == seen + 1:
            began = datetime.fromisoformat(created[1].decode()).timestamp()
            ended = datetime.fromisoformat(received[-1]).timestamp()
            bench.results.add(stack.who, "enqueue to pickup, idle", (ended - began) * 1000)


def delivery_cpu(bench: Bench, scheme: str, port: int, env: dict[str, str], rounds: int) -> None:
    """Take the CPU of deliveries, each way in a fresh process."""
    for who in ("ours", "article"):
        command = [sys.executable, "-m", "bench.delivery", who, f"{scheme}://127.0.0.1:{port}"]
        command += [str(bench.files["100 MB"]), str(rounds)]
        run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
        if run.returncode:
            bench.results.note(f"{who} did not deliver by {scheme}: {run.stderr.strip().splitlines()[-1:]}")
        bench.results.add(who, f"deliver 100 MB, {scheme}", *(float(line) for line in run.stdout.split()))


def slow_link(bench: Bench, stacks: list[Stack], link: PortServer, rounds: int) -> None:
    """Time 10 MB over a link of 2 MB/s; the limit is the bare body over the same link."""
    path = bench.files["10 MB"]
    for number in range(rounds):
        bench.keep("limit", "normal 10 MB, link 2 MB/s", client.put_raw(link.port, f"/bench/raw-{number}", path))
        for stack in stacks:
            bench.keep(stack.who, "normal 10 MB, link 2 MB/s", bench.land(stack, "normal", path))
        before = bench.sink.landed()
        background = [(stack, mode) for mode in ("async", "celery") for stack in stacks]
        for stack, mode in background:
            bench.keep(stack.who, f"{mode} 10 MB, link 2 MB/s", stack.post(mode, path))
            time.sleep(1)  # for decoding and pickup; what then goes over the link takes no core
        if number + 1 < rounds:
            bench.sink.wait_landed(before + len(background))


def overlap(bench: Bench, stacks: list[Stack], link: PortServer, peers: PortServer | None, rounds: int) -> None:
    """Time 100 MB while client and S3 both have 50 MB/s; the limit is the bare body over one of the links."""
    path = bench.files["100 MB"]
    what = "normal 100 MB, both links 50 MB/s"
    for number in range(rounds):
        bench.keep("limit", what, client.put_raw(link.port, f"/bench/raw-{FAST}-{number}", path))
        for stack in stacks:
            bench.keep(stack.who, what, bench.land(stack, "normal", path, FAST))
        if peers:
            bench.keep("busboy", what, client.post_form(peers.port, "/busboy_s3", path, FAST))


def real_s3(bench: Bench, stacks: list[Stack], size: str, rounds: int) -> None:
    """Time single uploads with SeaweedFS as S3, each after the one before has landed."""
    for _ in range(rounds):
        for stack in stacks:
            for mode in MODES:
                bench.touch_memory(bench.files[size])
                bench.keep(stack.who, f"{mode} {size}, SeaweedFS", bench.land(stack, mode, bench.files[size]))
