"""What direct uploads cost: make bench-direct prints CPU of the web processes, milliseconds and ratios.

Beside each stands the same file through the service, in mode async, in the same run. S3 is SeaweedFS on the same
cores; for many clients at once it is a fast S3 end that drops the bytes, or SeaweedFS would be what is measured.
"""

from __future__ import annotations

import http.client
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import requests

from bench import servers
from bench.doors import timed
from bench.servers import Sink, our_settings, running, s3_settings
from config import MIB, Config
from storage.door import Door
from storage.store import Store
from tests.kit.direct import crc64nvme
from tests.kit.stack import RedisServer, S3Server, Web, wait_for

Work = tuple[Callable[..., object], tuple[object, ...]]
MEGABYTE = 1_000_000
SMALL = 10 * MEGABYTE
PARTS = 16
"""Of a file of 1 GB."""
LEAST_PART = bytes(5 * MIB)
CLIENTS, EACH = 32, 4
SIGNED = 2000
ROUNDS = 15
IDLE_SECONDS = 8


class Ferry:
    """The service, and a client of it."""

    def __init__(self, web: Web) -> None:
        self.web = web
        self._session = requests.Session()

    def ask(self, method: str, path: str, json: Any = None) -> Any:
        """Send a request. Returns the JSON of its answer."""
        answer = self._session.request(method, self.web.url + path, json=json, timeout=120)
        answer.raise_for_status()
        return answer.json()

    def direct(self, content: bytes, digest: str) -> float:
        """Upload straight to S3. Returns the seconds that the finish took."""
        begun = self.ask("POST", "/direct", {"name": "a.bin", "size": len(content), "crc64nvme": digest})
        if "put" in begun:
            put(begun["put"], content)
        else:
            size = begun["part_size"]
            for number in range(1, begun["parts"] + 1):
                address = self.ask("GET", f"/direct/{begun['id']}/parts/{number}")
                put(address, memoryview(content)[(number - 1) * size : number * size])
        began = time.perf_counter()
        file = self.ask("POST", f"/direct/{begun['id']}/finish")
        if file["upload_status"] != "COMPLETE":
            raise RuntimeError(file)
        return time.perf_counter() - began

    def in_parts(self) -> None:
        """Upload as many parts as a file of 1 GB has, the smallest that S3 takes."""
        upload = self.ask("POST", "/direct/s3/multipart", {"filename": "a.bin", "type": "text/plain"})
        path = f"/direct/s3/multipart/{upload['uploadId']}"
        for number in range(1, PARTS + 1):
            put({**self.ask("GET", f"{path}/{number}?key={upload['key']}"), "headers": {}}, LEAST_PART)
        parts = self.ask("GET", f"{path}?key={upload['key']}")
        self.ask("POST", f"{path}/complete?key={upload['key']}", {"parts": parts})

    def proxied(self, content: bytes) -> None:
        """Upload through the service, and wait until the file is in S3."""
        connection = http.client.HTTPConnection(urlsplit(self.web.url).netloc, timeout=120)
        connection.request("PUT", "/async_upload/a.bin", content)
        location = connection.getresponse().headers["Location"]
        connection.close()
        wait_for(lambda: self.ask("GET", location)["upload_status"] == "COMPLETE", 120, "COMPLETE")


def put(address: dict[str, Any], content: bytes | memoryview) -> None:
    """PUT bytes to an address."""
    url = urlsplit(address["url"])
    connection = http.client.HTTPConnection(url.netloc, timeout=120)
    connection.request("PUT", f"{url.path}?{url.query}", content, address["headers"])
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"PUT: {answer.status}")


@contextmanager
def cpu_of(web: Web) -> Iterator[Callable[[], float]]:
    """Count the milliseconds of CPU of the web processes while the block runs."""
    root = psutil.Process(web.pid)
    processes = [root, *root.children(recursive=True)]

    def spent() -> float:
        return 1000 * sum(sum(process.cpu_times()[:2]) for process in processes)

    before = spent()
    yield lambda: spent() - before


def cpu(web: Web, work: Callable[[], object], times: int) -> float:
    """Return the milliseconds of CPU of the web processes for each repetition, less what they take idle."""
    began = time.perf_counter()
    with cpu_of(web) as spent:
        time.sleep(IDLE_SECONDS)
        idle = spent() / (time.perf_counter() - began)
    began = time.perf_counter()
    with cpu_of(web) as spent:
        for _ in range(times):
            work()
        return (spent() - idle * (time.perf_counter() - began)) / times


def signing(env: dict[str, str]) -> None:
    """Print what the address of a part costs."""
    config = Config.from_mapping(env)
    store = Store(config)
    signer, client = Door(config, store).signer, store.signing_client
    named = {"Bucket": config.S3_BUCKET_NAME, "Key": "a/b.bin", "UploadId": "x" * 32, "PartNumber": 3}

    def sign() -> None:
        signer.part("a/b.bin", "x" * 32, 3)

    def boto3() -> None:
        client.generate_presigned_url("upload_part", Params=named, ExpiresIn=900)

    for work in (sign, boto3):
        work()  # the first makes what the others use
    ours, theirs = ([timed(work) for _ in range(SIGNED)] for work in (sign, boto3))
    ms = 1000 * statistics.median(ours)
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"signing a part: {ms:.3f} ms, {ratio:.2f} x boto3's generate_presigned_url")


def works(ferry: Ferry, content: bytes, digest: str) -> Iterator[Work]:
    """Yield both ways of a file, with what they are given."""
    yield ferry.direct, (content, digest)
    yield ferry.proxied, (content,)


def many(ferry: Ferry) -> None:
    """Print how many files of 32 clients are COMPLETE per second."""
    content = os.urandom(SMALL)
    digest = crc64nvme(content)
    for _ in range(8):
        ferry.direct(content, digest)

    def rate(work: Callable[[], object]) -> float:
        with ThreadPoolExecutor(CLIENTS) as pool:
            seconds = timed(
                lambda: [future.result() for future in [pool.submit(work) for _ in range(CLIENTS * EACH)]]
            )
        return CLIENTS * EACH / seconds

    proxied = rate(lambda: Ferry(ferry.web).proxied(content))
    direct = rate(lambda: Ferry(ferry.web).direct(content, digest))
    print(f"{CLIENTS} clients, 10 MB, COMPLETE per second: {direct:.1f}, {direct / proxied:.2f} x proxied async")


def main() -> int:
    """Measure all, and print it."""
    disk = Path(os.environ.get("BENCH_DIR") or servers.RESULTS)
    disk.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=disk, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        s3, redis = S3Server(folder), RedisServer(folder)
        with running(s3, redis):
            env = our_settings(folder, s3.settings, redis) | {"DIRECT": "true", "UPLOADS_UNFINISHED": "100000"}
            web = Web(folder, env, servers.WEB_PROCESSES)
            with running(web):
                web.wait()
                measure(Ferry(web), env)
        sink = Sink(folder)
        (folder / "many").mkdir()
        with running(sink, redis):
            env = our_settings(folder / "many", s3_settings(sink.port), redis) | {"DIRECT": "true"}
            web = Web(folder / "many", env | {"UPLOADS_UNFINISHED": "100000"}, servers.WEB_PROCESSES)
            with running(web):
                web.wait()
                many(Ferry(web))
    return 0


def measure(ferry: Ferry, env: dict[str, str]) -> None:
    """Measure everything, and print it."""
    signing(env)
    small = os.urandom(SMALL)
    digest = crc64nvme(small)
    for _ in range(8):  # so that every process has probed the store
        ferry.direct(small, digest)
    finishes = [ferry.direct(small, digest) for _ in range(ROUNDS)]
    print(f"finish of a single PUT, to the answer: {1000 * statistics.median(finishes):.1f} ms")
    ways = works(ferry, small, digest)
    direct, proxied = (cpu(ferry.web, partial(work, *what), ROUNDS) for work, what in ways)
    print(
        f"CPU of the web processes for 10 MB: {direct:.1f} ms, {direct / proxied:.3f} x proxied ({proxied:.0f} ms)"
    )
    large = cpu(ferry.web, ferry.in_parts, ROUNDS)
    print(f"CPU of the web processes for {PARTS} parts, as of 1 GB: {large:.1f} ms")


if __name__ == "__main__":
    sys.exit(main())
