"""Uploading a file to S3 in parts, from before its last byte has arrived."""

from __future__ import annotations

import os
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from config import MIB
from core.errors import BytesLost, StoreError
from storage.checksum import Crc64Nvme
from storage.s3.features import Features
from storage.s3.requests import ObjectInfo, Part, SentPart
from storage.section import Section
from storage.store import Progress, Store

Result = TypeVar("Result")

PART_BYTES = 32 * MIB
MAX_PART_BYTES = 5 * 1024 * MIB
S3_MAX_PARTS = 1_000  # S3 takes 10,000, but some stores no more than these
S3_MOST_PARTS = 10_000
PARTS_AT_ONCE = 2


class PartsUpload:
    """A multipart upload of one spooled file. The object appears only when `finish` has verified it.

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
        self.part_bytes = max(part_bytes, min(expected_bytes // S3_MAX_PARTS + 1, MAX_PART_BYTES))
        self._file = path.open("rb", buffering=0)
        self._is_complete = False
        self._sender = ThreadPoolExecutor(PARTS_AT_ONCE, "part")
        self._sent = 0
        self._told = 0
        self._counting = threading.Lock()
        self._is_given_up = False
        self._start(store.features)

    def _start(self, features: Features) -> None:
        self._features = features
        self._begun: Future[str] | None = None
        self._parts: list[Future[Part]] = []
        self._given = 0
        self._next_bytes = 0
        self._next_crc = Crc64Nvme()
        self._crc = Crc64Nvme()

    def update(self, chunk: bytes) -> None:
        """Count the next bytes, which the file already holds, and send each full part."""
        view = memoryview(chunk)
        while view:
            piece = view[: self.part_bytes - self._next_bytes]
            self._next_crc.update(piece)
            self._next_bytes += len(piece)
            view = view[len(piece) :]
            if self._next_bytes == self.part_bytes:
                self._submit_part()

    def resume(self, upload_id: str, sent: list[SentPart]) -> None:
        """Go on with an upload that another process has begun.

        Args:
            upload_id: its name in S3.
            sent: the parts that S3 has, in their order; they count as far as they are whole and without a gap.
        """
        self._begun = _done(upload_id)
        for number, part in enumerate(sent, 1):
            if part.entry["PartNumber"] != number or part.size != self.part_bytes:
                break
            self._parts.append(_done(part.entry))
        self._given = len(self._parts) * self.part_bytes
        self._crc = Crc64Nvme.of(Section(self._file.fileno(), 0, self._given).chunks())

    @property
    def upload_id(self) -> str | None:
        """Its name in S3, once that is known."""
        begun = self._begun
        return begun.result() if begun and begun.done() and not begun.exception() else None

    def feed(self, size: int) -> None:
        """Send each full part of a growing file.

        Args:
            size: how many bytes are there.

        Raises:
            StoreError: S3 did not take a part.
        """
        self._catch_up(size // self.part_bytes * self.part_bytes, lambda sent: None)

    def leave(self) -> None:
        """Stop, and leave what S3 has for another process."""
        self._sender.shutdown(cancel_futures=True)
        self._file.close()

    def finish(self, info: ObjectInfo, on_progress: Progress) -> str:
        """Send the rest, complete the object, and verify that S3 holds exactly these bytes.

        Args:
            info: what the object must be.
            on_progress: called now and then meanwhile.

        Returns:
            The object's url.

        Raises:
            BytesLost: the file's bytes are not those that were received.
            StoreError: S3 did not take the bytes.
        """
        try:
            return self._store.settle(
                info, lambda features: self._upload(info, features, on_progress), on_progress
            )
        finally:
            self.give_up()

    def give_up(self) -> None:
        """Abort the upload in S3, and wait until that is done. A no-op after a success."""
        self._is_given_up = True
        self._sender.shutdown(cancel_futures=True)
        self._file.close()
        self._take_back()

    def _take_back(self) -> None:
        begun, self._begun = self._begun, None
        if begun and not begun.cancelled() and not begun.exception() and not self._is_complete:
            with suppress(StoreError):  # what S3 does not take back now, reconcile finds
                self._store.abort_parts(self._key, begun.result())

    def file_size(self) -> int:
        """Return how many bytes the file has now."""
        return os.fstat(self._file.fileno()).st_size

    def _catch_up(self, size: int, on_progress: Progress) -> None:
        """Feed in the bytes that `update` has not seen, at most PARTS_AT_ONCE parts ahead of the sender."""
        start = self._given + self._next_bytes
        for chunk in Section(self._file.fileno(), start, size - start).chunks():
            self.update(chunk)
            self._sent_parts(self._parts[-PARTS_AT_ONCE - 1 : -PARTS_AT_ONCE], on_progress)

    def _submit_part(self) -> Future[str]:
        if self._begun is None:
            self._begun = self._sender.submit(
                self._store.begin_parts, self._key, self._content_type, self._features
            )
        section = Section(self._file.fileno(), self._given, self._next_bytes, self._count)
        number, crc = len(self._parts) + 1, self._next_crc
        self._parts.append(self._sender.submit(self._send, self._begun, number, section, crc))
        self._crc.append(crc, self._next_bytes)
        self._given += self._next_bytes
        self._next_bytes, self._next_crc = 0, Crc64Nvme()
        return self._begun

    def _send(self, begun: Future[str], number: int, section: Section, crc: Crc64Nvme) -> Part:
        return self._store.put_part(self._key, begun.result(), number, section, crc.text(), self._features)

    def _count(self, sent: int) -> None:
        """Count the bytes that a running part has sent, or end the part after `give_up`."""
        if self._is_given_up:
            raise CancelledError  # which botocore lets pass; after anything else it would send the part again
        with self._counting:
            self._sent += sent

    def _sent_parts(self, parts: list[Future[Part]], on_progress: Progress) -> list[Part]:
        """Wait for parts to be sent."""
        while wait(parts, timeout=1).not_done:
            on_progress(self._sent - self._told)
            self._told = self._sent
        return [part.result() for part in parts]

    def _upload(self, info: ObjectInfo, features: Features, on_progress: Progress) -> bool:
        """Send the rest; or all parts again, if S3 has refused a header of those sent so far."""
        if features.headers != self._features.headers:
            for part in self._parts:
                part.cancel()
            wait(self._parts)
            self._take_back()
            self._start(features)
        return self._complete(info, on_progress)

    def _complete(self, info: ObjectInfo, on_progress: Progress) -> bool:
        self._catch_up(info.size, on_progress)
        begun = self._submit_part() if self._next_bytes or self._begun is None else self._begun
        parts = self._sent_parts(self._parts, on_progress)
        if (self._given, self._crc.text()) != (info.size, info.crc64nvme):
            raise BytesLost("The bytes were damaged after they were received.")
        is_confirmed = self._store.complete_parts(info, begun.result(), parts, self._features)
        self._is_complete = True
        return is_confirmed


def _done(result: Result) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(result)
    return future
