"""A file that one request writes into the spool."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TYPE_CHECKING

from storage.disk import disk_errors
from storage.spool_file import SpoolFile

if TYPE_CHECKING:
    from storage.spool import Spool

PART = ".part"


class Incoming(SpoolFile):
    """A file that one request writes into the spool.

    Args:
        spool: the spool.
        path: where it will be kept.
        expected_bytes: about how large it will be; 0 if nobody knows.
    """

    def __init__(self, spool: Spool, path: Path, expected_bytes: int) -> None:
        working_path = path.with_suffix(PART)
        with disk_errors():
            file = open(working_path, "xb", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)  # tells that its writer lives
        super().__init__(spool, path, working_path, file, spool.room(), expected_bytes)
