"""Many watchers of event streams in one thread, over raw sockets."""

from __future__ import annotations

import json
import re
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

EVENT = re.compile(rb"id: (\d+)\nevent: (\w+)\ndata: (.*)\n\n")


class Seen(NamedTuple):
    """One event as it arrived."""

    number: int
    kind: str
    data: dict[str, Any]


class Watcher:
    """One client of an event stream, which can hang up and come again."""

    def __init__(self, port: int, path: str, last: int | None = None) -> None:
        self.port, self.path = port, path
        self.seen: list[Seen] = []
        self.ended = False
        self.head = b""
        self._buffer = b""
        self.connect(last)

    def connect(self, last: int | None = None) -> None:
        """Begin, or go on after the last event that was seen."""
        last = self.seen[-1].number if self.seen else last
        known = f"Last-Event-ID: {last}\r\n" if last is not None else ""
        self._buffer, self.ended = b"", False
        self.socket = socket.create_connection(("127.0.0.1", self.port), 10)
        # HTTP/1.0, so that the stream has no chunks.
        self.socket.sendall(f"GET {self.path} HTTP/1.0\r\nHost: localhost\r\n{known}\r\n".encode())
        self.socket.setblocking(False)

    def receive(self) -> None:
        """Take what is there."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.ended = not data
        self._buffer += data
        if not self.head and b"\r\n\r\n" in self._buffer:
            self.head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        last = 0
        for match in EVENT.finditer(self._buffer):
            self.seen.append(Seen(int(match[1]), match[2].decode(), json.loads(match[3])))
            last = match.end()
        self._buffer = self._buffer[last:]
        if self.ended:
            self.socket.close()

    def hang_up(self) -> None:
        """Leave, as a phone in a tunnel does."""
        self.socket.close()
        self.head = b""


def attend(watchers: list[Watcher], until: Callable[[], bool], seconds: float = 30) -> None:
    """Receive for all of them until something is true."""
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for watcher in watchers:
            if not watcher.ended:
                selector.register(watcher.socket, selectors.EVENT_READ, watcher)
        while not until():
            assert time.monotonic() < deadline, "the watchers did not see in time what they should"
            for key, _ in selector.select(0.05):
                watcher = key.data
                descriptor = watcher.socket.fileno()
                watcher.receive()
                if watcher.ended:
                    selector.unregister(descriptor)
