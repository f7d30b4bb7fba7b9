"""gunicorn's thread worker for slow clients: a client holds a thread only while it sends fast enough."""

from __future__ import annotations

import errno
import os
import select
import selectors
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from ops.server.framing import Parser, Unreader, set_timeout
from ops.server.refusals import WSGI, refusal, watched, wire

NEXT_REQUEST_SECONDS = 0.002
REQUESTS_IN_A_ROW = 100
LINGER_SECONDS = 30.0
LINGER_BYTES = 1024**3
DISCARD_BYTES = 256 * 1024


class Connection(TConn):  # type: ignore[misc]
    """A connection that gets a thread when its client sends, and is closed exactly once.

    Args:
        patience: seconds that the client may let us wait.
        more: what gunicorn's connection takes.
    """

    def __init__(self, patience: float, *more: Any) -> None:
        super().__init__(*more)
        self.is_lingering = False
        self._patience = patience
        self._discarded = 0

    def init(self) -> None:
        """Watch the client's pace, and give up responses that it does not read."""
        fresh = not self.initialized
        super().init()
        if fresh and not self.is_http2:
            self.parser = Parser(self.cfg, self.sock, self.client)
        if self.cfg.is_ssl:  # the kernel does not know what TLS will make of its bytes
            self.sock.settimeout(self._patience)
        elif fresh:
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                set_timeout(self.sock, option, self._patience)
            if not self.is_http2:
                self.parser.unreader = Unreader(self.sock, self._patience)

    def close(self, graceful: bool = False) -> None:
        """Close once; where the client may still send, close only our side.

        Source: RFC 9112, section 9.6: what arrives after a close resets the connection, with the answer in it.
        """
        if self.sock.fileno() < 0:
            return
        if graceful and not self.is_lingering and not self._is_done():
            with suppress(OSError):  # it is gone
                self.sock.shutdown(socket.SHUT_WR)
                self.is_lingering = True
                return
        super().close()

    def discard(self) -> bool:
        """Discard what the client sends. Returns False if it has closed its side or sent too much."""
        try:
            received = len(self.sock.recv(DISCARD_BYTES))
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        self._discarded += received
        return bool(received) and self._discarded < LINGER_BYTES

    def _is_done(self) -> bool:
        """Returns True if the client has sent its whole request, and neither announced nor sent another."""
        request = getattr(self.parser, "mesg", None)
        if request is None or not request.should_close() or getattr(request.body.reader, "length", None) != 0:
            return False
        return not _is_readable(self.sock, 0)


class Worker(ThreadWorker):  # type: ignore[misc]
    """gthread, without three weaknesses by which a few dozen clients can stop it, and one that slows it down.

    gunicorn 27 gives every new connection a thread for up to 5 s, waits for bytes without end, and waits up to 2 s
    in its main loop for the other side to close.
    """

    at_stop: Callable[[], None] = staticmethod(lambda: None)
    at_failure: Callable[[], None] = staticmethod(lambda: None)
    patience = 20.0
    wsgi: WSGI

    def init_process(self) -> None:
        """Use batch scheduling: a thread that wakes up takes no core from the one that holds the interpreter.

        Source: SCHED_BATCH in sched(7). Some systems have none, and some containers do not allow it.
        """
        with suppress(AttributeError, OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        self.lingering: dict[Connection, None] = {}  # those that hung up first, first
        super().init_process()

    def load_wsgi(self) -> None:
        """Watch how the app's responses begin."""
        super().load_wsgi()
        self.wsgi = watched(self.wsgi)

    def accept(self, listener: socket.socket) -> None:
        """Let a new connection wait for its first byte in the poller."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        connection = Connection(self.patience, self.cfg, client, address, listener.getsockname())
        connection.set_timeout()
        self.pending_conns.append(connection)
        self.poller.register(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, connection))

    def handle(self, conn: Any) -> Any:
        """Answer further requests of a client without the main loop, and close in the thread."""
        keep = super().handle(conn)
        for _ in range(REQUESTS_IN_A_ROW):
            if not keep or not self.alive or not _is_readable(conn.sock, NEXT_REQUEST_SECONDS):
                break
            keep = super().handle(conn)
        if not keep:
            conn.close(graceful=True)
        return keep

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Answer requests that never reached the app, or that the app could not answer."""
        answer = refusal(req, addr[0] if isinstance(addr, tuple) else "", exc)
        answer.headers.extend(self.refusal_headers)
        if answer.status_code == 500:
            self.at_failure()
        with suppress(OSError):  # it does not wait for an answer
            client.sendall(wire(answer, with_body=getattr(req, "method", None) != "HEAD"))

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Wait in the poller, for a limited time, until the client has closed its side."""
        if not conn.is_lingering:
            super().finish_request(conn, fs)
            return
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + (LINGER_SECONDS if self.alive else STOP_KEEPALIVE_LINGER)
        self.lingering[conn] = None
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._discard, conn))

    def murder_pending(self) -> None:
        """Close also the connections whose clients did not close in time."""
        super().murder_pending()
        now = time.monotonic()
        while self.lingering and (first := next(iter(self.lingering))).timeout <= now:
            self._let_go(first)

    def _discard(self, conn: Connection, _: socket.socket) -> None:
        if not conn.discard():
            self._let_go(conn)

    def _let_go(self, conn: Connection) -> None:
        del self.lingering[conn]
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def _cap_keepalive(self, deadline: float) -> None:
        """At a stop, close event streams and connections without a request."""
        self.at_stop()
        super()._cap_keepalive(deadline)
        for connection in (*self.pending_conns, *self.lingering):
            connection.timeout = min(connection.timeout, deadline)


def _is_readable(sock: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
