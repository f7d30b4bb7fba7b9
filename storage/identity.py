"""The identity of a spool: a small file in its folder, which moves with the folder."""

from __future__ import annotations

import logging
import os
import re
import secrets
from pathlib import Path

from core.errors import SpoolUnavailable

log = logging.getLogger(__name__)

NAME = "spool-id"
VALID = re.compile(r"[!-~]{1,32}")


class Identity:
    """The spool that this process started with; tells if the folder is still that spool.

    A folder may be unmounted, mounted over, removed or exchanged while the process runs. Another spool is not
    taken for ours then: its files and rows belong to whoever starts with it.

    Args:
        folder: the spool's folder; it is made, and named, if it is new and can be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._mark: tuple[int, ...] = ()
        self._is_here = True
        self.id = ""
        """Empty as long as the folder could neither be read nor made."""
        self.is_here()

    def check(self) -> None:
        """Check that the folder is still the spool that this process started with; costs one stat().

        Raises:
            SpoolUnavailable: it is not.
        """
        try:
            if self._mark and _mark(self._path) == self._mark:
                return
            found = self._read()
            if self.id and found != self.id:
                raise SpoolUnavailable("The spool folder holds another spool; try again later.")
            self.id, self._mark = found, _mark(self._path)
        except OSError as error:
            raise SpoolUnavailable("The spool is unavailable; try again later.") from error

    def is_here(self) -> bool:
        """Returns True if the folder is that spool. Logs when this changes."""
        try:
            self.check()
        except SpoolUnavailable as error:
            if self._is_here:
                log.error("the spool %s is unavailable: %s", self._folder, error.__cause__ or error.detail)
            self._is_here = False
            return False
        if not self._is_here:
            log.warning("the spool %s is back", self._folder)
        self._is_here = True
        return True

    def _read(self) -> str:
        try:
            found = self._path.read_text()
        except FileNotFoundError:
            if self.id:  # what is gone comes back; a new identity would give up its files
                raise
            _make(self._path)
            found = self._path.read_text()
        if not VALID.fullmatch(found):
            raise OSError(f"{self._path} is damaged")
        return found


def _mark(path: Path) -> tuple[int, ...]:
    """Return a value that changes if the file is replaced or written."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_ctime_ns, found.st_size


def _make(path: Path) -> None:
    """Create a spool's identity, unless another process was faster. An existing one is kept."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_text(secrets.token_hex(8))
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
