"""A network that falls silent or damages bytes, and the form that tests send through it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
TAIL = b"\r\n--b--\r\n"
FORM = "multipart/form-data; boundary=b"


class DamagingProxy:
    """A network between the service and a server: it can fall silent, and it can damage what passes.

    Args:
        port: the server's port.
        damage: changes the bytes on their way to the server.
    """

    def __init__(self, port: int, damage: Callable[[bytes], bytes] = bytes) -> None:
        self.damage = damage
        self.flowing = threading.Event()
        self.flowing.set()
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.flowing.set()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._sockets += [client, server]
                for pair in ((client, server, self.damage), (server, client, bytes)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.flowing.wait()
                target.sendall(change(data))
            target.shutdown(socket.SHUT_WR)
