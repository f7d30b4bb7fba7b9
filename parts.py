"""Sending a file to S3 in parts, which may begin while the file is still arriving."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from checksum import Crc64Nvme
from config import MIB
from errors import BytesLost, StoreError
from section import Section
from store import ObjectInfo, Part, Progress, Store

PART_BYTES = 32 * MIB
MAX_PARTS = 9_000  # S3 takes 10,000, and a file may be larger than expected
PARTS_AT_ONCE = 2


class PartsUpload:
    """One file on its way to S3, read from the disk part by part; it appears only when `finish` says it is whole.

    Args:
        store: where to.
        path: the file, which may still be growing.
        key: the object's name.
        content_type: its media type.
        expected_bytes: about how large the file will be.
        part_bytes: the size of the parts, unless they would be too many.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
    """

    def __init__(
        self,
        store: Store,
        path: Path,
        key: str,
        content_type: str,
        expected_bytes: int,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._store = store
        self._key = key
        self._content_type = content_type
        self._part_bytes = max(part_bytes, expected_bytes // MAX_PARTS + 1)
        self._file = path.open("rb", buffering=0)
        self._given = 0
        self._begun: Future[str] | None = None
        self._is_complete = False
        self._parts: list[Future[Part]] = []
        self._sender = ThreadPoolExecutor(PARTS_AT_ONCE, "part")
        # The digests of the whole need the parts in order, so they have a thread of their own.
        self._reader = ThreadPoolExecutor(1, "digest")
        self._sent = 0
        self._counting = threading.Lock()
        self._sha256 = hashlib.sha256()
        self._crc = Crc64Nvme()

    def grown(self, written: int) -> None:
        """Tell that so many bytes are written by now; every full part of them is sent."""
        while written - self._given > self._part_bytes:
            self._give(self._part_bytes)

    def finish(self, info: ObjectInfo, on_progress: Progress) -> tuple[str, str]:
        """Send the rest, make the object appear, and see that S3 holds these very bytes.

        Args:
            info: what the object must be.
            on_progress: called now and then meanwhile.

        Returns:
            The object's url, and the hexadecimal SHA-256 of what was sent.

        Raises:
            BytesLost: the file's bytes are not those that were received.
            StoreError: S3 did not take the bytes.
        """
        try:
            self.grown(info.size)
            begun = self._give(info.size - self._given)
            url = self._store.settle(info, lambda: self._complete(begun, info, on_progress))
            return url, self._sha256.hexdigest()
        finally:
            self.give_up()

    def give_up(self) -> None:
        """Leave nothing unfinished in S3, and wait until that is done; does nothing after a success."""
        self._sender.shutdown(cancel_futures=True)
        self._reader.shutdown(cancel_futures=True)
        self._file.close()
        begun, self._begun = self._begun, None
        if begun and not begun.cancelled() and not begun.exception() and not self._is_complete:
            with suppress(StoreError):  # what S3 does not take back now, reconcile finds
                self._store.abort_parts(self._key, begun.result())

    def _give(self, size: int) -> Future[str]:
        if self._begun is None:
            self._begun = self._sender.submit(self._store.begin_parts, self._key, self._content_type)
        start, number = self._given, len(self._parts) + 1
        self._reader.submit(self._digest, start, size)
        self._parts.append(self._sender.submit(self._send, self._begun, number, start, size))
        self._given += size
        return self._begun

    def _digest(self, start: int, size: int) -> None:
        for chunk in Section(self._file.fileno(), start, size).chunks():
            self._sha256.update(chunk)
            self._crc.update(chunk)

    def _send(self, begun: Future[str], number: int, start: int, size: int) -> Part:
        section = Section(self._file.fileno(), start, size, self._count)
        return self._store.put_part(self._key, begun.result(), number, section)

    def _count(self, sent: int) -> None:
        with self._counting:
            self._sent += sent

    def _complete(self, begun: Future[str], info: ObjectInfo, on_progress: Progress) -> None:
        digested = self._reader.submit(lambda: None)  # comes after all that was given to it
        running: list[Future[Any]] = [*self._parts, digested]
        told = 0
        while wait(running, timeout=1).not_done:
            on_progress(self._sent - told)
            told = self._sent
        parts = [part.result() for part in self._parts]
        if self._crc.text() != info.crc64nvme:
            raise BytesLost("The bytes were damaged after they were received.")
        self._store.complete_parts(info, begun.result(), parts)
        self._is_complete = True
