"""gunicorn's thread worker with patience: a client holds a thread only while it sends, and keeps pace."""

from __future__ import annotations

import errno
import os
import select
import selectors
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn import http
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

    The kernel waits and gathers. gunicorn takes a body in the pieces in which it comes, asks before each whether
    it is there, and copies it several times.

    Source: the rule of Apache's mod_reqtimeout, https://httpd.apache.org/docs/2.4/mod/mod_reqtimeout.html
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._left = PATIENCE_SECONDS

    def read(self, size: int | None = None, read_ahead: int | None = None) -> bytes:
        """Read so many bytes, fewer only at the end; without a size, read what is there."""
        if size is None or size < 0:
            return bytes(super().read(size, read_ahead))
        held = self.take_buffered()
        pieces, missing = [held] if held else [], size - len(held)
        while missing > 0 and (piece := self._receive(missing, socket.MSG_WAITALL)):
            pieces.append(piece)
            missing -= len(piece)
        data = b"".join(pieces)
        self.buf.write(data[size:])
        return data[:size]

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Receive what is there; time counts only while we wait for it."""
        return self._receive(min(max(size_hint or 0, self.mxchunk), self.max_body_chunk))

    def _receive(self, size: int, flags: int = 0) -> bytes:
        began = time.monotonic()
        try:
            data: bytes = self.sock.recv(size, flags)
        except (BlockingIOError, TimeoutError) as error:
            raise TooSlow from error
        self._earn(time.monotonic() - began, len(data))
        return data

    def _earn(self, waited: float, received: int) -> None:
        """Count the time that we waited, and what was earned by it."""
        left = max(min(self._left - waited + received / MIN_BYTES_PER_SECOND, PATIENCE_SECONDS), 0.001)
        if left != self._left:
            self._left = left
            _set_timeout(self.sock, socket.SO_RCVTIMEO, left)


class Body(http.body.Body):  # type: ignore[misc]
    """A request's body that hands on what was read, without a copy, while nothing is held back from before."""

    def read(self, size: int | None = None) -> bytes:
        """Read so many bytes, or the rest."""
        if size is None or not 0 < size <= http.body.MAX_READ_STEP or self.buf.tell():
            return bytes(super().read(size))
        return bytes(self._read_reader(size))


class Connection(TConn):  # type: ignore[misc]
    """A connection that has no thread before its client sends, and is closed once."""

    def init(self) -> None:
        """Let the client's pace be watched, and an answer that it does not read be given up."""
        fresh = not self.initialized
        super().init()
        if self.cfg.is_ssl:  # the kernel does not know what TLS will make of its bytes
            self.sock.settimeout(PATIENCE_SECONDS)
        elif fresh:
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                _set_timeout(self.sock, option, PATIENCE_SECONDS)
            if not self.is_http2:
                self.parser.unreader = Unreader(self.sock)

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

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request whose body is read in our way."""
        req.body = Body(req.body.reader)
        return super().handle_request(req, conn)

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


def _set_timeout(sock: socket.socket, option: int, seconds: float) -> None:
    """Set how long the kernel waits for a client in one call; see SO_RCVTIMEO in socket(7)."""
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000)))
