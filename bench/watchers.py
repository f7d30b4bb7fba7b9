"""What 200 watchers cost the uploads beside them: python -m bench.watchers prints the ratio.

Uploads with and without watchers take turns on one real service, so that what else the machine does meets both.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Event
from pathlib import Path

from bench import client
from bench.servers import Sink, ours, running, s3_settings, started
from tests.kit.stack import RedisServer
from tests.kit.watchers import Watcher, attend

WATCHERS, UPLOADS, CLIENTS, ROUNDS = 200, 20, 4, 9
SIZE = 1_000_000


def upload_all(port: int, path: Path) -> float:
    """Upload by async, and give the seconds until all are accepted."""
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(lambda _: client.post_form(port, "/async_upload", path), range(UPLOADS)))
    assert all(answer.status == 202 for answer in answers)
    return time.perf_counter() - began


def upload_watched(port: int, path: Path) -> float:
    """The same while watchers receive every event of it."""
    ready, done = multiprocessing.Event(), multiprocessing.Event()
    attending = multiprocessing.Process(target=watch, args=(port, ready, done))
    attending.start()
    ready.wait()
    seconds = upload_all(port, path)
    time.sleep(1)
    done.set()
    attending.join()
    return seconds


def watch(port: int, ready: Event, done: Event) -> None:
    """Be all watchers, in a process of their own."""
    watchers = [Watcher(port, "/events") for _ in range(WATCHERS)]
    attend(watchers, lambda: all(watcher.head for watcher in watchers))
    ready.set()
    attend(watchers, done.is_set, 60)


def main() -> None:
    """Measure, and print one line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "file.bin"
        path.write_bytes(bytes(SIZE))
        sink = Sink(folder)
        (folder / "broker").mkdir()
        with running(sink):
            stack = ours(folder / "ours", s3_settings(sink.port), RedisServer(folder / "broker"))
            with started(stack):
                upload_all(stack.port, path)
                alone, watched = [], []
                for _ in range(ROUNDS):
                    alone.append(upload_all(stack.port, path))
                    time.sleep(1)
                    watched.append(upload_watched(stack.port, path))
                    time.sleep(1)
    first, second = statistics.median(alone) * 1000, statistics.median(watched) * 1000
    sys.stdout.write(
        f"{UPLOADS} uploads of 1 MB by {CLIENTS} clients: {first:.0f} ms alone, {second:.0f} ms beside {WATCHERS}"
        f" watchers, {second / first:.2f} x\n"
    )


if __name__ == "__main__":
    main()
