"""A slow link: a proxy whose connections share so many bytes per second towards the server.

python -m bench.link PORT TARGET_PORT BYTES_PER_SECOND
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from contextlib import suppress

from bench.client import HOST

PIECE_BYTES = 32 * 1024
SAVED_SECONDS = 0.02
KERNEL_BYTES = 128 * 1024  # what the kernel may hold in front of the link; by itself it would take megabytes


class Bucket:
    """The link's time, handed out piece by piece; what is saved up while it is idle is what a sleep may overrun.

    Args:
        rate: bytes per second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()

    def wait(self, count: int) -> None:
        """Wait until so many bytes have passed the link."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic() - SAVED_SECONDS) + count / self._rate
            free_at = self._free_at
        time.sleep(max(0.0, free_at - time.monotonic()))


def serve(listener: socket.socket, target: int, bucket: Bucket) -> None:
    """Pass connections on until killed."""
    while True:
        client, _ = listener.accept()
        server = socket.create_connection((HOST, target))
        for connection in (client, server):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_pass, args=(client, server, bucket), daemon=True).start()
        threading.Thread(target=_pass, args=(server, client, None), daemon=True).start()


def _pass(source: socket.socket, sink: socket.socket, bucket: Bucket | None) -> None:
    buffer = memoryview(bytearray(PIECE_BYTES))
    with suppress(OSError):
        while count := source.recv_into(buffer):
            if bucket:
                bucket.wait(count)
            sink.sendall(buffer[:count])
    for connection in (source, sink):
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    with socket.create_server((HOST, int(sys.argv[1])), backlog=128) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
        serve(server, int(sys.argv[2]), Bucket(float(sys.argv[3])))
