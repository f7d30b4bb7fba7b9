"""Reads requests from a connection: pace, framing, and unread bodies."""

from __future__ import annotations

import array
import fcntl
import re
import socket
import struct
import termios
import time
from typing import Any

from gunicorn import http
from gunicorn.http.errors import InvalidHeader, NoMoreData, ParseException, UnsupportedTransferCoding
from gunicorn.http.unreader import SocketUnreader

MIN_BYTES_PER_SECOND = 500
DISCARD_BYTES = 64 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.~%!$&'()*+,;=-]*)(:\d*)?", re.ASCII)


class TooSlow(NoMoreData, TimeoutError):  # type: ignore[misc]
    """The client is too slow. gunicorn treats it as gone; the app may still answer."""


class Malformed(NoMoreData, ValueError):  # type: ignore[misc]
    """The body's framing is malformed, so the start of the next request is unknown; the app may still answer."""


class Unreader(SocketUnreader):  # type: ignore[misc]
    """Reads from a client with limited patience, which the client's bytes extend.

    The kernel waits and gathers. gunicorn takes a body in the pieces in which it comes, asks before each whether
    it is there, and copies it several times.

    Args:
        sock: the connection.
        patience: seconds that the client may let us wait.

    Source: the rule of Apache's mod_reqtimeout, https://httpd.apache.org/docs/2.4/mod/mod_reqtimeout.html
    """

    def __init__(self, sock: socket.socket, patience: float) -> None:
        super().__init__(sock)
        self._patience = self._left = patience

    def read(self, size: int | None = None, read_ahead: int | None = None) -> bytes:
        """Read a number of bytes, fewer if the body ends or the client stalls; without a size, the available ones.

        What a stalled client has sent is passed on first: the next read finds that its time is over.
        """
        if size is None or size < 0:
            return bytes(super().read(size, read_ahead))
        held = self.take_buffered()
        pieces, missing = [held] if held else [], size - len(held)
        try:
            while missing > 0 and (piece := self._receive(missing, socket.MSG_WAITALL)):
                pieces.append(piece)
                missing -= len(piece)
        except TooSlow:
            if not pieces:
                raise
        data = b"".join(pieces)
        self.buf.write(data[size:])
        return data[:size]

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Receive the available bytes; only the waiting time counts."""
        return self._receive(min(max(size_hint or 0, self.mxchunk), self.max_body_chunk))

    def available(self) -> int:
        """Return how many bytes can be read without waiting.

        Source: FIONREAD, called SIOCINQ in tcp(7).
        """
        waiting = array.array("i", [0])
        fcntl.ioctl(self.sock, termios.FIONREAD, waiting)
        return int(self.buf.getbuffer().nbytes + waiting[0])

    def _receive(self, size: int, flags: int = 0) -> bytes:
        began = time.monotonic()
        try:
            data: bytes = self.sock.recv(size, flags)
        except (BlockingIOError, TimeoutError) as error:
            raise TooSlow from error
        self._earn(time.monotonic() - began, len(data))
        return data

    def _earn(self, waited: float, received: int) -> None:
        """Count the waiting time, and the time earned by the received bytes."""
        left = max(min(self._left - waited + received / MIN_BYTES_PER_SECOND, self._patience), 0.001)
        if left != self._left:
            self._left = left
            set_timeout(self.sock, socket.SO_RCVTIMEO, left)


class Body(http.body.Body):  # type: ignore[misc]
    """A request's body that passes read bytes on without a copy while its buffer is empty.

    Args:
        reader: gunicorn's reader of the body.
        awaiting: the socket of a client that waits for 100 Continue before it sends the body.
    """

    def __init__(self, reader: Any, awaiting: socket.socket | None = None) -> None:
        super().__init__(reader)
        self._awaiting = awaiting

    def read(self, size: int | None = None) -> bytes:
        """Read a number of bytes, or the rest."""
        if size is None or not 0 < size <= http.body.MAX_READ_STEP or self.buf.tell():
            return bytes(super().read(size))
        return bytes(self._read_reader(size))

    def is_read(self) -> bool:
        """Returns True if the whole body was read. A small rest that has arrived is discarded."""
        if self.failed:
            return False
        left = getattr(self.reader, "length", None)
        if left is None:
            return self.reader.parser is None and not self.reader.buf.tell()
        unreader = self.reader.unreader
        if 0 < left <= DISCARD_BYTES and isinstance(unreader, Unreader) and left <= unreader.available():
            self.reader.read(left)
        return bool(self.reader.length == 0)

    def _read_reader(self, size: int) -> bytes:
        """Read from the client, after `100 Continue` if it expects that.

        Source: RFC 9110, section 10.1.1: who decides by the headers alone answers at once.
        """
        if self._awaiting:
            self._awaiting.sendall(CONTINUE)
            self._awaiting = None
        try:
            return bytes(super()._read_reader(size))
        except ParseException as error:
            raise Malformed(str(error)) from error


class Request(http.message.Request):  # type: ignore[misc]
    """A request that closes the connection unless its whole body was read before the response.

    Source: RFC 9112, section 9.6: what is left of it would be taken for the next request.
    """

    body: Any
    _expected_100_continue: bool

    def set_body_reader(self) -> None:
        """Check the framing headers and the Host, and choose how the body is read.

        Raises:
            InvalidHeader: there is no Host, or it is none.
            UnsupportedTransferCoding: the body is compressed for the transfer.

        Source: RFC 9112, sections 3.2 and 6.1.
        """
        fields = dict(self.headers)  # gunicorn refuses a second Host
        if ("HOST" not in fields and self.version >= (1, 1)) or not HOST.fullmatch(fields.get("HOST", "")):
            raise InvalidHeader("HOST", req=self)
        super().set_body_reader()
        if self.must_close:  # gunicorn leaves such a coding to the app
            raise UnsupportedTransferCoding(fields["TRANSFER-ENCODING"])
        self.body = Body(self.body.reader, self.unreader.sock if self._expected_100_continue else None)
        self._expected_100_continue = False  # gunicorn would say it before the app has seen the headers

    def should_close(self) -> bool:
        """Returns True if no other request can follow on the connection."""
        if not self.must_close and not self.body.is_read():
            self.force_close()
        return bool(super().should_close())


class Parser(http.parser.RequestParser):  # type: ignore[misc]
    """Parses the requests of a connection."""

    mesg_class = Request


def set_timeout(sock: socket.socket, option: int, seconds: float) -> None:
    """Set how long the kernel waits for a client in one call; see SO_RCVTIMEO in socket(7)."""
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000)))
