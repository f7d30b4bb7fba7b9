"""The file of an upload in progress: it grows over several requests, and what is on the disk is the truth."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from core.errors import BytesLost, UploadLocked
from storage.checksum import Crc64Nvme
from storage.disk import disk_errors, is_locked, try_lock
from storage.section import Section
from storage.spool_file import SpoolFile
from storage.writers import STOP

if TYPE_CHECKING:
    from storage.spool import Spool

log = logging.getLogger(__name__)

UP = ".up"
ASK_SECONDS = 0.01
PATIENCE_SECONDS = 5.0
COPY_BYTES = 64 * 1024 * 1024


class Growing(SpoolFile):
    """The file of an upload in progress, held by one request of all processes. Close it to let it go.

    It is appended to in order, so whatever a crash leaves of it is a prefix of what the client sent.
    """

    @classmethod
    def create(cls, spool: Spool, upload_id: str) -> Self:
        """Create the file of a new upload, and hold it.

        Raises:
            Busy: the disk is full.
            SpoolUnavailable: the spool is not there, or cannot be written.
        """
        spool.check()
        path = spool.path(upload_id)
        with disk_errors():
            file = open(path.with_suffix(UP), "x+b", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)
        return cls(spool, path, path.with_suffix(UP), file, spool.room_for_upload())

    @classmethod
    def hold(cls, spool: Spool, upload_id: str, patience_seconds: float = PATIENCE_SECONDS) -> Self:
        """Hold the file of an upload; a request that writes to it is stopped.

        The lock dies with its process, and works between processes and, over NFSv4, between hosts.

        Args:
            spool: where it is.
            upload_id: its name.
            patience_seconds: how long another request may take to let go; 0 to leave it alone.

        Raises:
            FileNotFoundError: it is not in this spool.
            UploadLocked: another request holds it.
            SpoolUnavailable: the spool is not there.
        """
        path = spool.path(upload_id)
        deadline = time.monotonic() + patience_seconds
        while True:
            working_path, file = _open(spool, path)
            if _is_locked(file, working_path):
                path.with_suffix(STOP).unlink(missing_ok=True)
                return cls(spool, path, working_path, file, spool.room_for_upload())
            file.close()
            if time.monotonic() >= deadline:
                raise UploadLocked("Another request holds this upload; try again.")
            with disk_errors():
                path.with_suffix(STOP).touch()
            time.sleep(ASK_SECONDS)

    def catch_up(self, offset: int, crc64nvme: str) -> None:
        """Read what lies behind a checkpoint.

        Args:
            offset: bytes that are known to be here.
            crc64nvme: of them.

        Raises:
            BytesLost: the file is shorter, as after a power loss.
        """
        with disk_errors():
            size = os.fstat(self._file.fileno()).st_size
            if size < offset:
                raise BytesLost("The upload's bytes are lost; begin again.")
            self._crc = Crc64Nvme.parse(crc64nvme)
            for chunk in Section(self._file.fileno(), offset, size - offset).chunks():
                self._crc.update(chunk)
            self._file.seek(size)
        self.size = size

    def cut(self, size: int, crc64nvme: str) -> None:
        """Remove what lies behind a checkpoint.

        Raises:
            SpoolUnavailable: the disk fails.
        """
        with disk_errors():
            os.ftruncate(self._file.fileno(), min(size, os.fstat(self._file.fileno()).st_size))
        self.catch_up(size, crc64nvme)

    def read(self, start: int, stop: int) -> Section:
        """Return a section of the file, up to what is there."""
        return Section(self._file.fileno(), start, max(0, min(stop, self.size) - start))

    def append(self, path: Path, size: int, crc64nvme: str) -> None:
        """Append another file without reading it.

        Args:
            path: of the file.
            size: how many bytes it must have.
            crc64nvme: of them.

        Raises:
            BytesLost: it is shorter.
            Busy: there is no room.
            SpoolUnavailable: the disk fails.
        """
        with disk_errors(), path.open("rb", buffering=0) as source:
            if os.fstat(source.fileno()).st_size != size:
                raise BytesLost("A part of the upload is lost.")
            left = size
            while left:
                left -= self._copy(source, size - left, min(left, COPY_BYTES))
        self._crc.append(Crc64Nvme.parse(crc64nvme), size)
        self.size += size

    def _copy(self, source: BinaryIO, start: int, size: int) -> int:
        """Copy a piece to the end, by the kernel alone where the file system can. Returns its size."""
        try:
            copied = os.copy_file_range(source.fileno(), self._file.fileno(), size, start)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            copied = os.sendfile(self._file.fileno(), source.fileno(), start, size)
        if not copied:
            raise BytesLost("A part of the upload is lost.")
        return copied


def is_held(path: Path) -> bool:
    """Returns True if a request holds an upload's file."""
    try:
        return is_locked(path)
    except OSError:
        return False


def _open(spool: Spool, path: Path) -> tuple[Path, BinaryIO]:
    """Open the file under its working name, or under its last one if a crash came between that and its row."""
    for candidate in (path.with_suffix(UP), path):
        try:
            return candidate, open(candidate, "r+b", buffering=0)
        except FileNotFoundError:
            continue
        except OSError as error:
            with disk_errors():
                raise error
    spool.check()
    raise FileNotFoundError(path.name)


def _is_locked(file: BinaryIO, path: Path) -> bool:
    """Lock a file, which must still have its name. Returns False if another has the lock, or had it just now."""
    if not try_lock(file):
        return False
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
