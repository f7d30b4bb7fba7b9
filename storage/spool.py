"""The spool: a local folder where accepted bytes rest, written once, until they are in S3."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from core.errors import Busy, SpoolUnavailable, UploadError
from storage.disk import disk_errors, is_locked, remove
from storage.growing import UP
from storage.identity import Identity
from storage.incoming import PART, Incoming
from storage.writers import STOP, Writers

log = logging.getLogger(__name__)

USAGE_SECONDS = 0.5
USAGE_PAUSE = 20  # times as long as the last count took
GRACE_SECONDS = 10  # between the creation of what a process writes, and its lock
FILE_ID = re.compile(r"[0-9a-f]{32}")
PREFIX = re.compile(r"[0-9a-f]{8}")
AHEAD, WHOLE = MARKS = (".ahead", ".whole")
"""Beside a file that is sent while it arrives: its upload's name in S3; beside one that must not be so sent."""
UPLOADS_SHARE = 2  # half of the spool, so that uploads that wait for their clients leave room for all others


class Spool:
    """A folder of spooled files, each named by its File id.

    Whether the folder is the one of a moment ago is looked at before anything is accepted, or said to be lost.

    Args:
        folder: where the files are; made if missing.
        max_bytes: how much it may hold; 0 for as much as the disk.
        fsync: whether a kept file must outlive a power loss.
    """

    def __init__(self, folder: Path, max_bytes: int = 0, fsync: bool = False) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.fsync = fsync
        self.writers = Writers(folder)
        self._used, self._growing = 0, 0
        self._next_count, self._counting = 0.0, threading.Lock()
        self._identity = Identity(folder)
        self.check, self.is_here = self._identity.check, self._identity.is_here

    @property
    def id(self) -> str:
        """The spool's identity, which moves with the folder; empty while the folder is unusable."""
        return self._identity.id

    @property
    def prefix(self) -> str:
        """The first eight characters of the ids of its uploads, by which a proxy finds their host."""
        return self.id[:8] if PREFIX.match(self.id) else hashlib.sha256(self.id.encode()).hexdigest()[:8]

    def check_writable(self) -> None:
        """Check that the spool is available and writable.

        Raises:
            SpoolUnavailable: it is not.
        """
        self.check()
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise SpoolUnavailable("The spool is not writable; try again later.")

    def require(self, more: int) -> None:
        """Check that so many more bytes fit, on the disk and under the spool's own limit.

        Raises:
            Busy: they do not.
            SpoolUnavailable: the spool is not there.
        """
        self.check()
        with disk_errors():
            free = shutil.disk_usage(self.folder).free
        if free < more:
            raise Busy("The disk is full; try again later.")
        if self.max_bytes and self.used_bytes() + more > self.max_bytes:
            raise Busy("The spool is full; try again later.")

    def capacity_bytes(self) -> int:
        """Return the capacity in bytes: the spool's own limit, or its disk's size if that is smaller."""
        with disk_errors():
            disk_bytes = shutil.disk_usage(self.folder).total
        return min(self.max_bytes or disk_bytes, disk_bytes)

    def has_room(self, more: int) -> bool:
        """Returns True if so many more bytes fit now."""
        try:
            self.require(more)
        except UploadError:
            return False
        return True

    def room(self) -> int | None:
        """Return how many more bytes its own limit lets in; None without one."""
        return self.max_bytes - self.used_bytes() if self.max_bytes else None

    @property
    def most_of_uploads(self) -> int:
        """How many bytes all uploads in progress may hold together; 0 without a limit."""
        return self.max_bytes // UPLOADS_SHARE

    def room_for_upload(self) -> int | None:
        """Return how many more bytes of uploads in progress are let in; None without a limit."""
        room = self.room()
        return None if room is None else min(room, self.most_of_uploads - self._growing)

    def require_for_upload(self, more: int) -> None:
        """Check that so many more bytes of uploads in progress fit, which may hold half of the spool.

        Raises:
            Busy: they do not.
            SpoolUnavailable: the spool is not there.
        """
        self.require(more)
        if self.max_bytes and self._growing + more > self.most_of_uploads:
            raise Busy("Too much is held by uploads in progress; try again later.")

    def growing_bytes(self) -> int:
        """Return the bytes of all uploads in progress. Counted as `used_bytes`."""
        self.used_bytes()
        return self._growing

    def used_bytes(self) -> int:
        """Return the bytes of all files, partial ones too. Counted every half second; less often if large."""
        is_first = not self._next_count  # else the last count will do while another thread counts
        if time.monotonic() >= self._next_count and self._counting.acquire(blocking=is_first):
            try:
                self._count()
            finally:
                self._counting.release()
        return self._used

    def _count(self) -> None:
        began = time.monotonic()
        if began >= self._next_count:  # nobody has counted while this thread waited
            with suppress(OSError):  # then it is not there, and comes back with what it held
                sizes = {entry.name: _size(entry) for entry in os.scandir(self.folder)}
                self._used = sum(sizes.values())
                self._growing = sum(size for name, size in sizes.items() if name.endswith(UP))
            ended = time.monotonic()
            self._next_count = ended + max(USAGE_SECONDS, USAGE_PAUSE * (ended - began))

    @contextmanager
    def receive(self, file_id: str, expected_bytes: int = 0) -> Iterator[Incoming]:
        """Write a new file. Unless the block releases it, nothing of it stays when the block raises.

        Args:
            file_id: its name.
            expected_bytes: about how large it will be; 0 if nobody knows.

        Raises:
            Busy: there is no room for it.
            SpoolUnavailable: the spool is not there, or cannot be written.
        """
        self.require(expected_bytes)
        incoming = Incoming(self, self.path(file_id), expected_bytes)
        try:
            yield incoming
        except BaseException:
            if not incoming.is_released:
                incoming.discard()
            raise
        finally:
            incoming.close()

    def open(self, file_id: str) -> BinaryIO:
        """Open a kept file for reading.

        Raises:
            FileNotFoundError: it is not in this spool.
            SpoolUnavailable: the spool is not there.
        """
        path = self.path(file_id)
        try:
            return path.open("rb")
        except FileNotFoundError:
            self.check()
            return path.open("rb")  # the spool may have come back in between

    def has(self, file_id: str) -> bool:
        """Returns True if it keeps the file.

        Raises:
            SpoolUnavailable: the spool is not there.
        """
        path = self.path(file_id)
        with disk_errors():
            if path.exists():
                return True
            self.check()
            return path.exists()

    def drop(self, file_id: str) -> bool:
        """Remove a kept file, which may be gone already. Returns False if it may be there still."""
        self._next_count = min(self._next_count, time.monotonic())  # so that the room is seen at once
        for mark in MARKS:
            remove(self.path(file_id).with_suffix(mark))
        return remove(self.path(file_id)) and self.is_here()

    def kept(self) -> list[str]:
        """Return the ids of all kept files.

        Raises:
            SpoolUnavailable: the spool is not there.
        """
        with disk_errors():
            return [name for name in os.listdir(self.folder) if FILE_ID.fullmatch(name)]

    def growing(self) -> list[str]:
        """Return the ids of all uploads in progress.

        Raises:
            SpoolUnavailable: the spool is not there.
        """
        with disk_errors():
            names = [Path(name) for name in os.listdir(self.folder)]
        return [name.stem for name in names if name.suffix == UP and FILE_ID.fullmatch(name.stem)]

    def age_seconds(self, file_id: str) -> float:
        """Return the age of a kept file in seconds; 0 if it is gone."""
        try:
            return time.time() - self.path(file_id).stat().st_mtime
        except FileNotFoundError:
            return 0

    def drop_abandoned_parts(self) -> None:
        """Remove partial files of dead writers, which hold no lock, and marks without a file."""
        for part in self.folder.glob(f"*{PART}"):
            with suppress(OSError):
                if time.time() - part.stat().st_mtime > GRACE_SECONDS and not is_locked(part):
                    part.unlink()
        for mark in (mark for kind in (STOP, AHEAD, WHOLE) for mark in self.folder.glob(f"*{kind}")):
            if not mark.with_suffix(UP).exists() and not mark.with_suffix("").exists():
                remove(mark)

    def path(self, file_id: str) -> Path:
        """Return where a file is kept.

        Raises:
            ValueError: that is no id.
        """
        if not FILE_ID.fullmatch(file_id):
            raise ValueError("not a File id")
        return self.folder / file_id


def _size(entry: os.DirEntry[str]) -> int:
    try:
        if entry.is_dir(follow_symlinks=False):
            return sum(map(_size, os.scandir(entry)))
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # dropped in between
        return 0
