"""The working folder of one run, in the spool; what is made in it becomes files of the spool."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO, NamedTuple, Self

from core.errors import BytesLost, ProcessorDied
from core.file_row import FileRow
from delivery.lease import Heartbeat
from processing.sandbox.parent import NONSENSE
from storage.checksum import Crc64Nvme
from storage.disk import disk_errors, is_locked, try_lock
from storage.section import CHUNK_BYTES
from storage.spool import GRACE_SECONDS, Spool

WORK = "work"
LOCK = ".lock"
SLOT = "slot-"
SOURCE = "original"


class Taken(NamedTuple):
    """A file that was taken into the spool."""

    size: int
    crc64nvme: str


class Scratch:
    """A new folder below the spool, gone at the end of the block.

    Args:
        spool: where it is.
        name: its name.
    """

    def __init__(self, spool: Spool, name: str) -> None:
        self._spool = spool
        self._home = spool.folder / WORK / name
        self.folder = self._home / "out"

    def __enter__(self) -> Self:
        self._spool.check_writable()
        with disk_errors():
            self.folder.mkdir(parents=True, mode=0o700)
            self._lock = open(self._home / LOCK, "xb")
            fcntl.flock(self._lock, fcntl.LOCK_EX)  # tells that its run lives
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._home, ignore_errors=True)
        self._lock.close()

    def fetch(self, chunks: Iterator[bytes], parent: FileRow, beat: Heartbeat) -> BinaryIO:
        """Write an original that is no more in the spool, and open it.

        Raises:
            BytesLost: they are not the bytes that were uploaded.
        """
        path, crc, size = self._home / SOURCE, Crc64Nvme(), 0
        with disk_errors(), path.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
                crc.update(chunk)
                size += len(chunk)
                beat(0)
        if (size, crc.text()) != (parent.size, parent.crc64nvme):
            raise BytesLost("The original is damaged in S3.")
        return path.open("rb")

    def take(self, name: str, file_id: str) -> Taken:
        """Move a file that a child has made into the spool, as the bytes of a File.

        Raises:
            ProcessorDied: there is no such regular file in the folder.
        """
        path = self.folder / name
        if path.parent != self.folder:
            raise ProcessorDied(NONSENSE)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            raise ProcessorDied(NONSENSE) from None
        with open(descriptor, "rb") as made:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ProcessorDied(NONSENSE)
            with self._spool.receive(file_id) as incoming:
                while chunk := made.read(CHUNK_BYTES):
                    incoming.write(chunk)
                incoming.keep()
                incoming.release()
                return Taken(incoming.size, incoming.crc64nvme)


@contextmanager
def slot(spool: Spool, count: int) -> Iterator[bool]:
    """Take one of the slots that all processes with this spool share. Gives False if none is free.

    Args:
        spool: theirs.
        count: how many slots there are.
    """
    (spool.folder / WORK).mkdir(exist_ok=True, mode=0o700)
    is_free = False
    with ExitStack() as stack:
        for number in range(count):
            lock = stack.enter_context(open(spool.folder / WORK / f"{SLOT}{number}", "ab"))
            if is_free := try_lock(lock):
                break
        yield is_free


def drop_abandoned(spool: Spool) -> None:
    """Remove the folders of dead runs; a living one holds a lock."""
    for home in (spool.folder / WORK).glob("*.*"):
        with suppress(OSError):
            is_old, lock = time.time() - home.stat().st_mtime > GRACE_SECONDS, home / LOCK
            if is_old and not (lock.exists() and is_locked(lock)):
                shutil.rmtree(home, ignore_errors=True)
