"""A file that is being written into the spool."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import Busy
from storage.checksum import Crc64Nvme
from storage.disk import disk_errors, fsync_folder, remove

if TYPE_CHECKING:
    from storage.spool import Spool

PART = ".part"
CHECK_BYTES = 16 * 1024 * 1024


class Incoming:
    """A file that is being written into the spool."""

    def __init__(self, spool: Spool, path: Path, expected_bytes: int) -> None:
        self.file_id = path.name
        self.expected_bytes = expected_bytes
        self.size = 0
        self.is_released = False
        self._crc = Crc64Nvme()
        self._spool = spool
        self.path = path.with_suffix(PART)
        self._path = path
        self._next_check = CHECK_BYTES
        self._room = spool.max_bytes - spool.used_bytes() if spool.max_bytes else None
        with disk_errors():
            self._file = open(self.path, "xb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # tells that its writer lives

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
        if self._room is not None and self.size + len(chunk) > self._room:
            raise Busy("The spool is full; try again later.")
        view = memoryview(chunk)
        with disk_errors():
            while view:
                view = view[self._file.write(view) :]
        self._crc.update(chunk)
        self.size += len(chunk)
        if self.size >= self._next_check:
            self._next_check += CHECK_BYTES
            self._spool.require(0)

    def keep(self) -> None:
        """Keep the file in the spool; with fsync it then survives a power loss.

        Raises:
            Busy: the disk is full.
            SpoolUnavailable: the spool cannot be written, or is another one by now.
        """
        with disk_errors():
            if self._spool.fsync:
                os.fsync(self._file.fileno())
            self.path.rename(self._path)
            self._file.close()
            if self._spool.fsync:
                fsync_folder(self._path.parent)
        self._spool.check()  # its row will say that the bytes are in this spool

    def release(self) -> None:
        """Keep the file even if the caller fails from now on."""
        self.is_released = True

    def discard(self) -> None:
        """Remove the file, as far as the spool is writable."""
        self._file.close()
        for path in (self.path, self._path):
            remove(path)
