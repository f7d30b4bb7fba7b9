"""gunicorn's thread worker with patience: a client holds a thread only while it sends, and keeps pace."""

from __future__ import annotations

import errno
import os
import select
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.http.errors import NoMoreData
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

PATIENCE_SECONDS = float(os.environ.get("CLIENT_PATIENCE_SECONDS") or 20)
MIN_BYTES_PER_SECOND = 500
NEXT_REQUEST_SECONDS = 0.002
REQUESTS_IN_A_ROW = 100


class TooSlow(NoMoreData, TimeoutError):  # type: ignore[misc]
    """The client used up its patience: gunicorn drops it as one that left, the app may still answer."""


class Unreader(SocketUnreader):  # type: ignore[misc]
    """Reads from a client that may let us wait for so long, and earns time anew by what it sends.

    Source: the rule of Apache's mod_reqtimeout, https://httpd.apache.org/docs/2.4/mod/mod_reqtimeout.html
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._left = PATIENCE_SECONDS

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Receive what is there; time counts only while we wait for it."""
        limit = self.sock.gettimeout()
        began = time.monotonic()
        try:
            self.sock.settimeout(min(self._left, PATIENCE_SECONDS if limit is None else limit))
            data: bytes = super().chunk(size_hint)
        except TimeoutError as error:
            raise TooSlow from error
        finally:
            self.sock.settimeout(limit)
        waited = time.monotonic() - began
        earned = len(data) / MIN_BYTES_PER_SECOND
        self._left = max(min(self._left - waited + earned, PATIENCE_SECONDS), 0.001)
        return data


class Connection(TConn):  # type: ignore[misc]
    """A connection that has no thread before its client sends, and is closed once."""

    def init(self) -> None:
        """Let the client's pace be watched, and an answer that it does not read be given up."""
        fresh = not self.initialized
        super().init()
        if fresh and not self.is_http2:
            self.parser.unreader = Unreader(self.sock)
        self.sock.settimeout(PATIENCE_SECONDS)

    def close(self, graceful: bool = False) -> None:
        """Close, unless that is done; wait for the client to close first only where it may still send.

        Source: RFC 9112, section 9.6: what arrives after a close resets the connection, with the answer in it.
        """
        if self.sock.fileno() >= 0:
            super().close(graceful and not self._is_done())

    def _is_done(self) -> bool:
        """Whether the client has sent its whole request, said that no other follows, and kept to it."""
        request = getattr(self.parser, "mesg", None)
        if request is None or not request.should_close() or getattr(request.body.reader, "length", None) != 0:
            return False
        return not _is_readable(self.sock, 0)


class Worker(ThreadWorker):  # type: ignore[misc]
    """gthread, but for three things that let a few dozen clients stop it, and for one that slows it down.

    gunicorn 27 gives every new connection a thread for up to 5 s, waits for bytes without end, and waits up to 2 s
    in its main loop for the other side to close.
    """

    at_stop: Callable[[], None] = staticmethod(lambda: None)

    def init_process(self) -> None:
        """Work in long runs: a thread that wakes up takes no core from the one whose interpreter it must wait for.

        Source: SCHED_BATCH in sched(7). Some systems have none, and some containers do not allow it.
        """
        with suppress(AttributeError, OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        """Let a new connection wait for its first byte in the poller."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        connection = Connection(self.cfg, client, address, listener.getsockname())
        connection.set_timeout()
        self.pending_conns.append(connection)
        self.poller.register(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, connection))

    def handle(self, conn: Any) -> Any:
        """Answer a client that asks again at once without the main loop's help, and close in the thread."""
        keep = super().handle(conn)
        for _ in range(REQUESTS_IN_A_ROW):
            if not keep or not self.alive or not _is_readable(conn.sock, NEXT_REQUEST_SECONDS):
                break
            keep = super().handle(conn)
        if not keep:
            conn.close(graceful=True)
        return keep

    def _cap_keepalive(self, deadline: float) -> None:
        """At a stop, let go those who watch, and do not wait for those that never said anything."""
        self.at_stop()
        super()._cap_keepalive(deadline)
        for connection in self.pending_conns:
            connection.timeout = min(connection.timeout, deadline)


def _is_readable(sock: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
