"""The limit: a bare server that writes the body to a file and answers 202. It parses nothing but the length.

python -m bench.limit PORT FOLDER
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
from pathlib import Path

from bench.client import HOST

BUFFER_BYTES = 256 * 1024
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


def serve(listener: socket.socket, folder: Path) -> None:
    """Take connections, each in a thread of its own, until killed."""
    number = 0
    while True:
        connection, _ = listener.accept()
        number += 1
        threading.Thread(target=_take, args=(connection, folder / str(number)), daemon=True).start()


def _take(connection: socket.socket, path: Path) -> None:
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        filled = connection.recv_into(buffer)
        head, _, _ = bytes(buffer[:filled]).partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if length is None:
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        left = int(length[1]) - os.write(descriptor, buffer[len(head) + 4 : filled])
        while left and (filled := connection.recv_into(buffer)):
            left -= os.write(descriptor, buffer[:filled])
        os.close(descriptor)
        connection.sendall(ANSWER)
    # Not unlinked: ext4 without a journal looks through all lately deleted inodes for every new file.
    os.truncate(path, 0)


if __name__ == "__main__":
    with socket.create_server((HOST, int(sys.argv[1])), backlog=128) as server:
        serve(server, Path(sys.argv[2]))
