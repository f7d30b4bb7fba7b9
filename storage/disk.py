"""Files on the spool's disk: removal, flushing, and the meaning of its errors."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from core.errors import Busy, SpoolUnavailable

log = logging.getLogger(__name__)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def remove(path: Path) -> bool:
    """Remove a file. Returns False if that fails, as on a read-only disk."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s cannot be removed from the spool: %s", path.name, error)
        return False
    return True


def try_lock(file: BinaryIO) -> bool:
    """Lock an open file until it is closed. Returns False if another holder lives."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Returns True if a living process holds a lock on a file.

    Raises:
        OSError: the file is gone, or cannot be read.
    """
    with path.open("rb") as file:
        return not try_lock(file)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Translate OSError: a full disk is Busy; a missing, read-only or broken one is SpoolUnavailable."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise Busy("The spool is full; try again later.") from error
        log.warning("the spool cannot be used: %s", error)
        raise SpoolUnavailable("The spool cannot be used; try again later.") from error


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
