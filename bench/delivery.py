"""What a delivery costs in CPU: our own job and boto3's defaults, each in a process of its own.

python -m bench.delivery ours|article S3_ENDPOINT FILE ROUNDS   (prints ms of CPU per MB, one line per round)
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import uuid4

import boto3

from config import Config
from file import upload_file
from storage.checksum import Crc64Nvme
from storage.s3.requests import ObjectInfo
from storage.store import Store

MB = 1_000_000


def our_way(endpoint: str, path: Path) -> Callable[[], object]:
    """Deliver a spooled file as the service does: read and compared, then put, then seen in S3."""
    settings = {"S3_BUCKET_NAME": "bench", "AWS_ACCESS_KEY": "bench", "AWS_ACCESS_SECRET": "bench-secret"}
    # The sink only gives back a checksum, as a probe would find out.
    settings |= {"S3_ENDPOINT_URL": endpoint, "S3_CHECKSUM_MODE": "crc64nvme"}
    store, crc64nvme = Store(Config.from_mapping(settings)), Crc64Nvme.of([path.read_bytes()]).text()

    def deliver() -> object:
        info = ObjectInfo(uuid4().hex, "application/octet-stream", path.stat().st_size, crc64nvme)
        return upload_file(store, path.open("rb"), info)

    return deliver


def article_way(endpoint: str, path: Path) -> Callable[[], object]:
    """Upload an open file by boto3's defaults."""
    keys = {"aws_access_key_id": "bench", "aws_secret_access_key": "bench-secret"}
    s3 = boto3.client("s3", region_name="us-east-1", endpoint_url=endpoint, **keys)  # type: ignore[call-overload]

    def deliver() -> object:
        with path.open("rb") as file:
            s3.upload_fileobj(file, "bench", uuid4().hex)
        return None

    return deliver


def cpu_seconds() -> float:
    """What this process has used, all its threads together."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(way: Callable[[], Callable[[], object]], size: int, rounds: int) -> None:
    """Measure, after one round to warm up."""
    deliver = way()
    deliver()
    for _ in range(rounds):
        before = cpu_seconds()
        deliver()
        sys.stdout.write(f"{(cpu_seconds() - before) * 1000 / (size / MB)}\n")


if __name__ == "__main__":
    file = Path(sys.argv[3])
    ways = {"ours": our_way, "article": article_way}
    main(partial(ways[sys.argv[1]], sys.argv[2], file), file.stat().st_size, int(sys.argv[4]))
