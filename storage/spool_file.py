"""A file that is being written into the spool: its bytes, its checksum, and its end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from core.errors import Busy
from storage.checksum import Crc64Nvme
from storage.disk import disk_errors, fsync_folder, remove

if TYPE_CHECKING:
    from storage.spool import Spool

CHECK_BYTES = 16 * 1024 * 1024


class SpoolFile:
    """A file that is being written into the spool, by the only writer of all processes.

    Args:
        spool: the spool.
        path: where it will be kept.
        working_path: where it is until then.
        file: it, open for writing at its end, and locked.
        room: how many more bytes it may get; None if nobody counts them.
        expected_bytes: about how large it will be; 0 if nobody knows.
    """

    def __init__(
        self,
        spool: Spool,
        path: Path,
        working_path: Path,
        file: BinaryIO,
        room: int | None,
        expected_bytes: int = 0,
    ) -> None:
        self.file_id = path.name
        self.path = working_path
        self.expected_bytes = expected_bytes
        self.size = 0
        self.is_released = False
        self._spool = spool
        self._path = path
        self._file = file
        self._crc = Crc64Nvme()
        self._next_check = CHECK_BYTES
        self._room = room

    @property
    def crc64nvme(self) -> str:
        """Base64 of the CRC64NVME of what was written, as S3 writes it."""
        return self._crc.text()

    def write(self, chunk: bytes) -> None:
        """Append a chunk of bytes.

        Raises:
            Busy: there is no more room.
            SpoolUnavailable: the spool cannot be written.
        """
        if self._room is not None:
            self._room -= len(chunk)
            if self._room < 0:
                raise Busy("The spool is full; try again later.")
        self._append(chunk)
        if self.size >= self._next_check:
            self._next_check = self.size + CHECK_BYTES
            self._spool.require(0)

    def _append(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        with disk_errors():
            while view:
                written = self._file.write(view)
                self._crc.update(view[:written])
                self.size += written
                view = view[written:]

    def flush(self) -> None:
        """Make what was written survive a power loss, if the spool is to.

        Raises:
            SpoolUnavailable: the disk fails.
        """
        if self._spool.fsync:
            with disk_errors():
                os.fsync(self._file.fileno())

    def keep(self) -> None:
        """Keep the file in the spool; with fsync it then survives a power loss.

        Raises:
            Busy: the disk is full.
            SpoolUnavailable: the spool cannot be written, or is another one by now.
        """
        self.flush()
        with disk_errors():
            self.path.rename(self._path)
            if self._spool.fsync:
                fsync_folder(self._path.parent)
        self._spool.check()  # its row will say that the bytes are in this spool

    def release(self) -> None:
        """Keep the file even if the caller fails from now on."""
        self.is_released = True

    def close(self) -> None:
        """Close the file, and so let go its lock."""
        self._file.close()

    def discard(self) -> None:
        """Remove the file, as far as the spool is writable."""
        for path in (self.path, self._path):
            remove(path)
        self.close()
