"""A TCP proxy that sees what passes, and can cut, refuse or tell at an exact moment."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

METHODS = (b"GET ", b"PUT ", b"POST", b"PATCH", b"HEAD", b"DELE")


class Link:
    """One connection through the proxy, with the head of its latest HTTP request and what was sent since."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.request = b""
        self.sent = 0
        self.marks: set[str] = set()

    def note(self, data: bytes) -> None:
        """Remember what the client sends."""
        if data.startswith(METHODS):
            self.request, self.sent = data[:500], 0
        self.sent += len(data)

    def cut(self) -> None:
        """Break the connection on both sides."""
        for side in (self.client, self.server):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


Watch = Callable[[Link, bytes], bool]
"""Sees data before it is passed on; True breaks the connection instead."""


def nothing(link: Link, data: bytes) -> bool:
    return False


class Proxy:
    """Passes connections on to a local port."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.on_request: Watch = nothing
        self.on_response: Watch = nothing
        self._links: list[Link] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._listen()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def refuse(self) -> None:
        """Be away: break every connection and take no new one."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            link.cut()

    def recover(self) -> None:
        """Be back, on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listen()

    def close(self) -> None:
        """Stop for good."""
        with suppress(OSError):
            self.refuse()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.upstream))
                except OSError:
                    client.close()
                    continue
                link = Link(client, server)
                self._links.append(link)
                threading.Thread(target=self._requests, args=(link,), daemon=True).start()
                threading.Thread(target=self._responses, args=(link,), daemon=True).start()

    def _requests(self, link: Link) -> None:
        def watch(data: bytes) -> bool:
            link.note(data)
            return self.on_request(link, data)

        self._pump(link, link.client, link.server, watch)

    def _responses(self, link: Link) -> None:
        self._pump(link, link.server, link.client, lambda data: self.on_response(link, data))

    def _pump(
        self, link: Link, source: socket.socket, target: socket.socket, watch: Callable[[bytes], bool]
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if watch(data):
                    break
                target.sendall(data)
        link.cut()
        source.close()
