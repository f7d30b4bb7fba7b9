"""Sending a file to S3 while it is still arriving, so that a client waits for the slower link and not for both."""

from __future__ import annotations

import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path

from config import MIB
from file import Uploaded
from store import ObjectInfo, Progress, Store

AHEAD_BYTES = 16 * MIB  # smaller files are one request, when they are here


class ClientGone(Exception):
    """The rest of the file does not come."""


class Tail(io.RawIOBase):
    """Reads a file that is still being written; waits for what is not there yet."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._written = 0
        self._whole = False
        self._gone = False
        self._changed = threading.Condition()
        self.sha256 = hashlib.sha256()

    def grown(self, written: int, whole: bool = False) -> None:
        """Tell that so many bytes are written by now, and whether these are all."""
        with self._changed:
            self._written, self._whole = written, whole
            self._changed.notify()

    def give_up(self) -> None:
        """Tell that no more bytes come: whoever reads gets an error."""
        with self._changed:
            self._gone = True
            self._changed.notify()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Read exactly so many bytes, or what there is at the end.

        Raises:
            ClientGone: the file stays incomplete.
        """
        with self._changed:
            end = self._file.tell() + size
            self._changed.wait_for(lambda: self._gone or self._whole or (size >= 0 and self._written >= end))
            if self._gone:
                raise ClientGone
        data = self._file.read(size)
        self.sha256.update(data)
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


class UploadAhead:
    """One file on its way to S3. The object appears only when `finish` says that the file is whole.

    Args:
        store: where to.
        path: the file that is being written.
        key: the object's name.
        content_type: its media type.
        expected_bytes: about how large the file will be; decides the size of the parts.
    """

    def __init__(self, store: Store, path: Path, key: str, content_type: str, expected_bytes: int) -> None:
        self._store = store
        self._tail = Tail(path)
        thread = ThreadPoolExecutor(1, "upload-ahead")
        self._sent = thread.submit(store.put_unsized, self._tail, key, content_type, expected_bytes)
        thread.shutdown(wait=False)

    def grown(self, written: int) -> None:
        """Tell that so many bytes are written by now."""
        self._tail.grown(written)

    def finish(self, info: ObjectInfo, on_progress: Progress) -> Uploaded:
        """Let the upload come to its end, and see that S3 holds these very bytes.

        Args:
            info: what the object must be.
            on_progress: called now and then while the rest is sent.

        Raises:
            StoreError: S3 did not take the bytes.
        """
        self._tail.grown(info.size, whole=True)

        def wait() -> None:
            while not wait_for([self._sent], timeout=1).done:
                on_progress(0)
            self._sent.result()

        return Uploaded(self._store.settle(info, wait), self._tail.sha256.hexdigest())

    def give_up(self) -> None:
        """Leave nothing of the upload in S3, and wait until that is done."""
        self._tail.give_up()
        self._sent.exception()
