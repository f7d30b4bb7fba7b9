"""What resumable uploads cost: make bench-doors prints MB/s, milliseconds and ratios, beside @tus/server.

All stand on one disk, with one keep-alive client. Our service delivers to a fast S3 end meanwhile, as it always
does; the rows named `no delivery` are parts of a file (Upload-Concat: partial), which go nowhere, as those of
@tus/server do.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from bench import servers
from bench.memory import Peak
from bench.servers import PortServer, Sink, our_settings, running, s3_settings
from config import MIB
from tests.kit.stack import ROOT, RedisServer, Web, wait_for

BODY = "application/offset+octet-stream"
WORKS = ((1, 256 * MIB), (32, 8 * MIB), (256, 1 * MIB), (500, 64 * 1024))
ROUNDS = 5
HEADS = 300
TAKEOVERS = 20
MUST = {"256 MiB": 1.5, "8 MiB": 1.3, "1 MiB": 1.0}
MEGABYTE = 1_000_000
LINK_BYTES_PER_SECOND = 50 * MEGABYTE
LARGE = 1024 * MIB


class Client:
    """A keep-alive client of a tus server."""

    def __init__(self, port: int, more: dict[str, str] | None = None, *, is_delivered: bool = False) -> None:
        self.port = port
        self.is_delivered = is_delivered
        self._more = more or {}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> http.client.HTTPResponse:
        """Send a request, and read its answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, body, {"Tus-Resumable": "1.0.0", **named})  # type: ignore[arg-type]
        answer = self._connection.getresponse()
        answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status}")
        return answer

    def create(self, length: int) -> str:
        """Begin an upload."""
        answer = self.ask("POST", "/uploads", Upload_Length=str(length), **self._more)
        return answer.headers["Location"].partition(f":{self.port}")[2] or answer.headers["Location"]

    def send(self, count: int, size: int) -> float:
        """Send an upload in pieces. Returns the seconds that its PATCHes took."""
        self._connection.close()  # Node closes idle ones
        path, piece = self.create(count * size), bytes(size)
        began = time.perf_counter()
        for number in range(count):
            self.ask("PATCH", path, piece, Content_Type=BODY, Upload_Offset=str(number * size))
        taken = time.perf_counter() - began
        if self.is_delivered:
            self._settle(path.rpartition("/")[2])
        return taken

    def _settle(self, file_id: str) -> None:
        """Wait until nothing more is done for a file, so that the next server has the machine for itself."""
        wait_for(lambda: self._read(file_id)["sha256"], 120, "digest")

    def _read(self, file_id: str) -> dict[str, object]:
        self._connection.request("GET", f"/files/{file_id}")
        found: dict[str, object] = json.loads(self._connection.getresponse().read())
        return found


class Speed(NamedTuple):
    """What a server has reached."""

    name: str
    seconds: dict[str, float]

    def line(self, base: Speed) -> str:
        """Return a line of the table, with ratios to another server."""
        cells = []
        for (count, size), (what, seconds) in zip(WORKS, self.seconds.items(), strict=True):
            if size < MIB:
                cells.append(f"{1000 * seconds / count:6.2f} ms")
            else:
                cells.append(f"{count * size / MEGABYTE / seconds:6.0f} ({base.seconds[what] / seconds:4.2f} x)")
        return f"  {self.name:22}" + "  ".join(f"{cell:>16}" for cell in cells)


def name_of(size: int) -> str:
    """Return a size in words."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // 1024} KiB"


def speeds(clients: dict[str, Client]) -> list[Speed]:
    """Send all works to all servers in turn, and take the medians."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in clients}
    for count, size in WORKS:
        for _ in range(ROUNDS):
            for name, client in clients.items():
                found[name].setdefault(name_of(size), []).append(client.send(count, size))
                time.sleep(0.2)
    return [
        Speed(name, {what: statistics.median(times) for what, times in works.items()})
        for name, works in found.items()
    ]


def heads(client: Client) -> float:
    """Return the median milliseconds of a HEAD of an upload in progress."""
    client.send(1, 1)  # on a new connection
    path = client.create(10)
    return 1000 * statistics.median(timed(lambda: client.ask("HEAD", path)) for _ in range(HEADS))


def timed(work: Callable[[], object]) -> float:
    """Return how long a piece of work takes, in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def takeovers(port: int) -> list[float]:
    """Return how long a HEAD waits for the offset while a client has stalled in a PATCH, in milliseconds."""
    found = []
    for _ in range(TAKEOVERS):
        client = Client(port)  # a new connection may meet the other process
        path = client.create(MIB)
        lines = [f"PATCH {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Tus-Resumable: 1.0.0", "Upload-Offset: 0"]
        lines += [f"Content-Type: {BODY}", f"Content-Length: {MIB}", "", ""]
        with socket.create_connection(("127.0.0.1", port)) as stalled:
            stalled.sendall("\r\n".join(lines).encode() + bytes(1000))
            time.sleep(0.2)
            found.append(1000 * timed(lambda client=client, path=path: client.ask("HEAD", path)))  # type: ignore[misc]
    return found


def paced(size: int, bytes_per_second: int) -> object:
    """Yield bytes as a link of this speed would."""
    piece, began, sent = bytes(256 * 1024), time.perf_counter(), 0
    while sent < size:
        yield piece
        sent += len(piece)
        time.sleep(max(0.0, began + sent / bytes_per_second - time.perf_counter()))


def last_byte_to_complete(web: Web) -> float:
    """Return the seconds from the last byte of a large upload to COMPLETE, over slow links on both sides."""
    client = Client(int(web.url.rpartition(":")[2]))
    path = client.create(LARGE)
    body = paced(LARGE, LINK_BYTES_PER_SECOND)
    client.ask("PATCH", path, body, Content_Type=BODY, Upload_Offset="0", Content_Length=str(LARGE))
    began = time.perf_counter()
    wait_for(lambda: web.file(path.rpartition("/")[2])["upload_status"] == "COMPLETE", 120, "COMPLETE")
    return time.perf_counter() - began


def memory(web: Web) -> float:
    """Return the megabytes over idle that one PATCH of 1 GiB takes."""
    client = Client(int(web.url.rpartition(":")[2]), {"Upload_Concat": "partial"})
    client.send(1, MIB)
    path = client.create(LARGE)
    peak = Peak(web.pid)
    piece = bytes(MIB)
    body = (piece for _ in range(LARGE // MIB))
    client.ask("PATCH", path, body, Content_Type=BODY, Upload_Offset="0", Content_Length=str(LARGE))
    return peak.over_idle_mb()


def raw_puts(port: int, limit_port: int, size: int) -> tuple[float, float]:
    """Return the median milliseconds of a raw PUT to its answer, and of one to a bare server that writes it."""
    body = bytes(size)

    def put(to: int, path: str) -> float:
        connection = http.client.HTTPConnection("127.0.0.1", to, timeout=60)
        began = time.perf_counter()
        connection.request("PUT", path, body)
        answer = connection.getresponse()
        answer.read()
        taken = time.perf_counter() - began
        connection.close()
        if answer.status >= 400:
            raise RuntimeError(f"PUT {path}: {answer.status}")
        return taken

    pairs = []
    for _ in range(9):
        pairs.append((put(port, "/async_upload/a.bin"), put(limit_port, "/")))
        time.sleep(0.5)
    ours, bare = zip(*pairs, strict=True)
    return 1000 * statistics.median(ours), 1000 * statistics.median(bare)


def tus_server(folder: Path, sink_port: int) -> PortServer | None:
    """Return @tus/server, installed on first use; None where it cannot be had."""
    if servers.node_peers(folder, sink_port) is None:
        return None
    script = servers.RESULTS / "node" / "tus_server.mjs"
    script.write_text((ROOT / "bench" / "node" / "tus_server.mjs").read_text())
    (folder / "tus").mkdir()
    return PortServer(folder, "tus", ["node", str(script), "{port}", str(folder / "tus")])


def main() -> int:
    """Measure all, and print it."""
    disk = Path(os.environ.get("BENCH_DIR") or servers.RESULTS)
    disk.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="tmp-", dir=disk, ignore_cleanup_errors=True) as name,
        ExitStack() as stack,
    ):
        folder = Path(name)
        sink, redis = Sink(folder), RedisServer(folder)
        stack.enter_context(running(sink, redis))
        peer = tus_server(folder, sink.port)
        env = our_settings(folder, s3_settings(sink.port), redis) | {"UPLOADS_UNFINISHED": "100000"}
        web = Web(folder, env, servers.WEB_PROCESSES)
        (folder / "limit").mkdir()
        limit = servers.python_server(folder, "limit", str(folder / "limit"))
        stack.enter_context(running(web, limit, *([peer] if peer else [])))
        web.wait()
        measure(folder, web, limit, peer, env)
    return 0


def measure(folder: Path, web: Web, limit: PortServer, peer: PortServer | None, env: dict[str, str]) -> None:
    """Measure everything, and print it."""
    port = int(web.url.rpartition(":")[2])
    clients = {
        "ours": Client(port, is_delivered=True),
        "ours, no delivery": Client(port, {"Upload_Concat": "partial"}),
    }
    clients |= {"@tus/server": Client(peer.port)} if peer else {}
    found = speeds(clients)
    base = found[-1]
    print("PATCH, MB/s; of 64 KiB, ms each. In brackets the ratio to " + base.name)
    print(" " * 24 + "  ".join(f"{f'{count} x {name_of(size)}':>16}" for count, size in WORKS))
    for one in found:
        print(one.line(base))
    for name, client in clients.items():
        print(f"HEAD, {name}: {heads(client):.2f} ms")
    for size in (10 * MEGABYTE, 100 * MEGABYTE):
        ours, bare = raw_puts(port, limit.port, size)
        ratio = f"{ours / bare:.2f} x a bare server"
        print(f"raw PUT of {size // MEGABYTE} MB, async, to the answer: {ours:.1f} ms, {ratio}")
    times = sorted(takeovers(port))
    print(
        f"takeover of a stalled PATCH by HEAD: median {times[len(times) // 2]:.0f} ms, longest {times[-1]:.0f} ms"
    )
    print(f"memory over idle, 1 GiB by one PATCH: {memory(web):.0f} MB")
    slow_link(folder, env)


def slow_link(folder: Path, env: dict[str, str]) -> None:
    """Measure the end of a long upload, with an S3 as slow as the client."""
    slow = folder / "slow"
    slow.mkdir()
    sink = Sink(slow)
    with running(sink):
        throttle = Throttle(sink.port, LINK_BYTES_PER_SECOND)
        settings = {
            **env,
            "S3_ENDPOINT_URL": f"http://127.0.0.1:{throttle.port}",
            "SPOOL_DIR": str(slow / "spool"),
        }
        web = Web(
            slow, settings | {"SQLALCHEMY_DATABASE_URI": f"sqlite:///{slow / 'files.db'}"}, servers.WEB_PROCESSES
        )
        with running(web):
            web.wait()
            seconds = last_byte_to_complete(web)
    print(f"last byte to COMPLETE, 1 GiB over 50 MB/s into S3 at 50 MB/s: {seconds:.2f} s")


class Throttle:
    """Passes connections on to a port; what clients send, no faster in all than a link of some speed."""

    def __init__(self, upstream: int, bytes_per_second: int) -> None:
        self._upstream = upstream
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._upstream))
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_slow: bool) -> None:
        try:
            while data := source.recv(128 * 1024):
                if is_slow:
                    self._wait(len(data))
                target.sendall(data)
        except OSError:
            pass
        for side in (source, target):
            side.close()

    def _wait(self, size: int) -> None:
        with self._lock:
            now = time.perf_counter()
            self._free_at = max(now, self._free_at) + size / self._rate
            pause = self._free_at - now
        time.sleep(pause)


if __name__ == "__main__":
    sys.exit(main())
