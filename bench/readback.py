"""What reading an object back costs: deliveries to SeaweedFS in both modes, by turns: python -m bench.readback."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from uuid import uuid4

from bench.delivery import MB, cpu_seconds
from config import Config
from file import upload_file
from storage.checksum import Crc64Nvme
from storage.s3.requests import ObjectInfo
from storage.store import Store
from tests.kit.stack import S3Server

SIZES = {"100 kB": MB // 10, "10 MB": 10 * MB, "100 MB": 100 * MB}
ROUNDS = 7


def delivery(server: S3Server, mode: str, path: Path) -> Callable[[], object]:
    """Make what delivers a file, as the service does, in one mode."""
    store = Store(Config.from_mapping({**server.settings, "S3_CHECKSUM_MODE": mode}))
    crc64nvme = Crc64Nvme.of([path.read_bytes()]).text()

    def deliver() -> object:
        info = ObjectInfo(uuid4().hex, "application/octet-stream", path.stat().st_size, crc64nvme)
        return upload_file(store, path.open("rb"), info)

    return deliver


def main() -> None:
    """Deliver by turns, and print the medians of time and processor time, and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        server = S3Server(Path(name))
        server.start()
        try:
            server.wait()
            for label, size in SIZES.items():
                path = Path(name) / "file"
                path.write_bytes(os.urandom(size))
                sys.stdout.write(f"{label:7}  {compare(server, path)}\n")
        finally:
            server.stop()


def compare(server: S3Server, path: Path) -> str:
    """Time both modes by turns, after one round to warm up."""
    ways = {mode: delivery(server, mode, path) for mode in ("crc64nvme", "readback")}
    times: dict[str, list[tuple[float, float]]] = {mode: [] for mode in ways}
    for turn in range(ROUNDS + 1):
        for mode, deliver in ways.items():
            began, used = time.perf_counter(), cpu_seconds()
            deliver()
            if turn:
                times[mode].append((time.perf_counter() - began, cpu_seconds() - used))
    middle = {mode: [median(one) * 1000 for one in zip(*taken, strict=True)] for mode, taken in times.items()}
    shown = [f"{mode} {wall:.1f} ms, CPU {cpu:.1f} ms" for mode, (wall, cpu) in middle.items()]
    ratios = [back / plain for plain, back in zip(middle["crc64nvme"], middle["readback"], strict=True)]
    return f"{shown[0]}; {shown[1]}; x {ratios[0]:.2f}, CPU x {ratios[1]:.2f}"


if __name__ == "__main__":
    main()
