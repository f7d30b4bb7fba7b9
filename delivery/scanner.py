"""The virus scanner: passes only files that ClamAV's daemon has found clean."""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from core.errors import Infected, ScannerUnavailable, UploadTooLarge
from storage.section import CHUNK_BYTES

CONNECT_SECONDS = 3
PATIENCE_SECONDS = 150  # clamd itself gives up a file after 120 s (MaxScanTime)
BEAT_MS = 250  # a lease may be as short as a second
MAX_ANSWER_BYTES = 1024
FOUND = re.compile(r"stream: (.+) FOUND")
TOO_LARGE = "INSTREAM size limit exceeded. ERROR"


class Scanner:
    """A client of clamd.

    PyPI's clients for it wait for the verdict without a word, so that a long scan would lose its lease.

    Args:
        address: `host:port`, or `unix:/path`.
        max_bytes: how much it is sent; clamd's own StreamMaxLength must not be less.
        patience_seconds: how long it may neither take bytes nor give its verdict.

    Source: https://linux.die.net/man/8/clamd, INSTREAM: chunks with their length in front, a last one of length 0.
    """

    def __init__(self, address: str, max_bytes: int, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._address = address
        self._max_bytes = max_bytes
        self._patience = patience_seconds

    def scan(self, file: BinaryIO, size: int, on_progress: Callable[[int], None]) -> None:
        """Scan a file; returns if it is clean.

        Args:
            file: an open file, which is read from its start, and left there.
            size: how large it is.
            on_progress: called several times a second meanwhile.

        Raises:
            Infected: something was found in it.
            UploadTooLarge: it is more than the scanner takes.
            ScannerUnavailable: there is no verdict now.
        """
        if size > self._max_bytes:
            raise UploadTooLarge(
                f"The file is too large to be scanned for viruses ({self._max_bytes} bytes at most)."
            )
        file.seek(0)
        answer, heard_all = self._ask(_instream(file), on_progress)
        file.seek(0)
        if found := FOUND.fullmatch(answer):
            raise Infected(f"The file is infected: {found[1]}.")
        if answer == TOO_LARGE:
            raise UploadTooLarge("The file is too large for the virus scanner.")
        if answer != "stream: OK" or not heard_all:
            raise ScannerUnavailable("The virus scanner gave no verdict.")

    def ping(self) -> None:
        """Check that the scanner answers.

        Raises:
            ScannerUnavailable: it is not.
        """
        if self._ask(iter([b"zPING\0"]), lambda sent: None)[0] != "PONG":
            raise ScannerUnavailable("The virus scanner does not answer.")

    def _ask(self, messages: Iterator[bytes], on_progress: Callable[[int], None]) -> tuple[str, bool]:
        """Return the scanner's answer, and True if it had received everything before."""
        try:
            with self._connect() as clamd:
                return self._converse(clamd, messages, on_progress)
        except OSError as error:
            raise ScannerUnavailable("The virus scanner does not answer.") from error

    def _connect(self) -> socket.socket:
        if self._address.startswith("unix:"):
            clamd = socket.socket(socket.AF_UNIX)
            clamd.settimeout(CONNECT_SECONDS)
            try:
                clamd.connect(self._address.removeprefix("unix:"))
            except OSError:
                clamd.close()
                raise
            return clamd
        host, _, port = self._address.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS)

    def _converse(
        self, clamd: socket.socket, messages: Iterator[bytes], on_progress: Callable[[int], None]
    ) -> tuple[str, bool]:
        """Send and receive at once, because clamd can answer and close before it has received everything."""
        clamd.setblocking(False)
        answer, rest = b"", memoryview(next(messages))
        deadline = time.monotonic() + self._patience
        while b"\0" not in answer:
            can_read, can_send = _ready(clamd, bool(rest))
            on_progress(0)
            if can_read:
                answer += _receive(clamd)
            elif can_send:
                rest = _send(clamd, rest) or memoryview(next(messages, b""))
                deadline = time.monotonic() + self._patience
            if time.monotonic() > deadline or len(answer) > MAX_ANSWER_BYTES:
                raise ScannerUnavailable("The virus scanner gave no verdict in time.")
        return answer.partition(b"\0")[0].decode("ascii", "replace"), not rest


def _instream(file: BinaryIO) -> Iterator[bytes]:
    yield b"zINSTREAM\0"
    while chunk := file.read(CHUNK_BYTES):
        yield struct.pack("!L", len(chunk)) + chunk
    yield struct.pack("!L", 0)


def _ready(clamd: socket.socket, wants_to_send: bool) -> tuple[bool, bool]:
    """Wait a moment. Returns two booleans: there is something to read, and more can be sent."""
    poll = select.poll()
    poll.register(clamd, select.POLLIN | (select.POLLOUT if wants_to_send else 0))
    events = poll.poll(BEAT_MS)
    flags = events[0][1] if events else 0
    return bool(flags & ~select.POLLOUT), bool(flags & select.POLLOUT)


def _receive(clamd: socket.socket) -> bytes:
    data = clamd.recv(MAX_ANSWER_BYTES)
    if not data:
        raise ConnectionError("clamd has hung up")
    return data


def _send(clamd: socket.socket, message: memoryview) -> memoryview:
    """Send as much of a message as possible. Returns the rest."""
    try:
        return message[clamd.send(message) :]
    except (BlockingIOError, BrokenPipeError, ConnectionResetError):
        return message  # if it has hung up, it may have said why, which is read next
