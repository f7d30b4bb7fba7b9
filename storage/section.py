"""A piece of a file, as an HTTP client reads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

CHUNK_BYTES = 1024 * 1024


class Section:
    """Reads a section of an open file without moving its position, so that threads can share the file.

    Args:
        descriptor: the open file.
        start: where the piece begins.
        size: how long it is.
        on_progress: called with a number of bytes whenever so many were read.
    """

    def __init__(
        self, descriptor: int, start: int, size: int, on_progress: Callable[[int], None] | None = None
    ) -> None:
        self._descriptor = descriptor
        self._start = start
        self._size = size
        self._position = 0
        self._on_progress = on_progress

    def read(self, size: int = -1) -> bytes:
        """Read a number of bytes, or the rest."""
        left = self._size - self._position
        data = self._at(self._position, left if size < 0 else min(size, left))
        self._position += len(data)
        if self._on_progress:
            self._on_progress(len(data))
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position inside the section."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position inside the section."""
        return self._position

    def chunks(self) -> Iterator[bytes]:
        """Yield the section in chunks, without moving the position or counting progress."""
        for position in range(0, self._size, CHUNK_BYTES):
            yield self._at(position, min(CHUNK_BYTES, self._size - position))

    def _at(self, position: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, self._start + position)
