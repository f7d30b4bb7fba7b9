"""The spool: a local folder where accepted bytes rest, written once, until they are in S3."""

from __future__ import annotations

import base64
import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from awscrt import checksums

from errors import Busy

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FILE_ID = re.compile(r"[0-9a-f]{32}")


class Incoming:
    """A file that is being written into the spool."""

    def __init__(self, path: Path, fsync: bool) -> None:
        self.file_id = path.name
        self.size = 0
        self._crc = 0
        self._part = path.with_suffix(".part")
        self._path = path
        self._fsync = fsync
        with _room():
            self._file = open(self._part, "xb", buffering=0)

    @property
    def crc64nvme(self) -> str:
        """Base64 of the big-endian CRC64NVME of what was written, as S3 writes it."""
        return base64.b64encode(self._crc.to_bytes(8, "big")).decode()

    def write(self, chunk: bytes) -> None:
        """Append a chunk of bytes.

        Raises:
            Busy: the disk is full.
        """
        view = memoryview(chunk)
        with _room():
            while view:
                view = view[self._file.write(view) :]
        self._crc = checksums.crc64nvme(chunk, self._crc)
        self.size += len(chunk)

    def keep(self) -> None:
        """Let the file stay in the spool; with fsync it then outlives a power loss.

        Raises:
            Busy: the disk is full.
        """
        with _room():
            if self._fsync:
                os.fsync(self._file.fileno())
            self._file.close()
            self._part.rename(self._path)
            if self._fsync:
                _fsync_folder(self._path.parent)

    def discard(self) -> None:
        """Leave nothing of the file."""
        self._file.close()
        self._part.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)


class Spool:
    """A folder of spooled files, each named by its File id.

    Args:
        folder: where the files are; made if missing.
        fsync: whether a kept file must outlive a power loss.
    """

    def __init__(self, folder: Path, fsync: bool = False) -> None:
        self.folder = folder
        self.fsync = fsync
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.id = _identity(folder / "spool-id")

    @contextmanager
    def receive(self, file_id: str) -> Iterator[Incoming]:
        """Write a new file; if the block raises, nothing of it stays."""
        incoming = Incoming(self._path(file_id), self.fsync)
        try:
            yield incoming
        except BaseException:
            incoming.discard()
            raise

    def open(self, file_id: str) -> BinaryIO:
        """Open a kept file for reading.

        Raises:
            FileNotFoundError: it is not in this spool.
        """
        return self._path(file_id).open("rb")

    def drop(self, file_id: str) -> None:
        """Remove a kept file; it may be gone already."""
        self._path(file_id).unlink(missing_ok=True)

    def _path(self, file_id: str) -> Path:
        if not FILE_ID.fullmatch(file_id):
            raise ValueError("not a File id")
        return self.folder / file_id


@contextmanager
def _room() -> Iterator[None]:
    """Tell a full disk from other failures."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise Busy("The spool is full; try again later.") from error
        raise


def _identity(path: Path) -> str:
    """Read the spool's identity, made by whoever comes first; it moves with the folder."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    draft.write_text(secrets.token_hex(8))
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text()


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
