"""A receiver of webhooks."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = base64.b64encode(b"a secret of some thirty-two bytes").decode()


SECRET = f"whsec_{KEY}"


TOKEN = "the-address-is-a-secret-too"


Behaviour = Callable[[BaseHTTPRequestHandler], None]


class Receiver:
    """A small real receiver, which answers as it is told, or behaves badly."""

    def __init__(self) -> None:
        self.status = 200
        self.behaviour: Behaviour | None = None
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.paths: list[str] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.paths.append(self.path)
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                if receiver.behaviour:
                    receiver.behaviour(self)
                    self.close_connection = True
                    return
                self.send_response(receiver.status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?token={TOKEN}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
