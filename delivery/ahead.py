"""Delivery while a file arrives: the full parts of a resumable upload go to S3 before its last byte is here."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from config import MIB, Config
from core.errors import StoreError
from core.every import Every
from core.file_row import FileRow
from storage.disk import try_lock
from storage.parts import PartsUpload
from storage.spool import AHEAD, WHOLE, Spool
from storage.store import Store

log = logging.getLogger(__name__)

LEAST_BYTES = 16 * MIB
"""A smaller file is one request, when it is here."""
PART_BYTES = 8 * MIB
"""Little is left to send when the last byte has arrived."""
LOOK_SECONDS = 0.05
IDLE_SECONDS = 30.0
TRY_SECONDS = 1.0
HAND_OVER_SECONDS = 20.0


class Ahead:
    """The senders of this process. One process of all sends a file's parts; the others see that by its mark.

    The mark is a locked file beside the spooled one, which holds the name of the upload in S3. Whoever has the
    lock next goes on where S3 says it is. The checksum of the whole object is the judge of all.

    Args:
        store: where to.
        spool: where from.
        config: the settings.
    """

    def __init__(self, store: Store, spool: Spool, config: Config) -> None:
        self._store = store
        self._spool = spool
        self._most = 0 if config.CLAMD_ADDRESS else config.UPLOAD_THREADS  # what must be scanned cannot go ahead
        self._senders: dict[str, _Sender] = {}
        self._tries = Every(TRY_SECONDS)
        self._lock = threading.Lock()

    def offer(self, file_id: str, path: Path, key: str, content_type: str, length: int) -> None:
        """Send the full parts of a file as they come, unless enough others are sent. Cheap to call.

        Args:
            file_id: the file.
            path: where it grows.
            key: its key in S3.
            content_type: its media type.
            length: the bytes that it will have.
        """
        if length < LEAST_BYTES or file_id in self._senders or not self._most or not self._tries.due():
            return
        if path.with_suffix(WHOLE).exists():
            return
        with self._lock:
            if file_id in self._senders or len(self._senders) >= self._most:
                return
            if (mark := _locked(self._mark(file_id))) is None:
                return
            sender = self._senders[file_id] = _Sender(self._store, path, mark, key, content_type, length)
        threading.Thread(target=self._run, args=(file_id, sender), name="ahead", daemon=True).start()

    def forbid(self, file_id: str) -> None:
        """Send a file only when it is whole, since bytes of it may be taken back."""
        if self._most:
            self._spool.path(file_id).with_suffix(WHOLE).touch()

    def take(self, row: FileRow) -> PartsUpload | None:
        """Return the upload of a file that is whole now, to be finished; None if none of it was sent.

        Raises:
            StoreError: S3 does not say what it has of it.
        """
        if (sender := self._senders.get(row.id)) and (parts := sender.hand_over()):
            return parts
        path, deadline = self._mark(row.id), time.monotonic() + HAND_OVER_SECONDS
        while path.exists() and time.monotonic() < deadline:
            if mark := _locked(path):
                with mark:
                    parts = _resumed(
                        self._store, mark, self._spool.path(row.id), row.key, row.content_type, row.size
                    )
                if parts.upload_id:
                    return parts
                parts.leave()
                return None
            time.sleep(LOOK_SECONDS)  # until the sender of another process has seen that the file is whole
        return None

    def forget(self, file_id: str) -> None:
        """Send a file anew from its first byte, if it has to be sent again."""
        self._mark(file_id).unlink(missing_ok=True)

    def abandon(self, file_id: str, key: str) -> None:
        """Take back what S3 has of an upload that has ended, unless a sender does so."""
        path = self._mark(file_id)
        if not path.exists() or (mark := _locked(path)) is None:
            return
        with mark:
            upload_id = mark.read().decode()
            try:
                if upload_id and key:
                    self._store.abort_parts(key, upload_id)
            except StoreError as error:
                log.warning("the unfinished upload of %s is left to reconcile: %s", key, error.detail)
        path.unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop all senders; other processes go on."""
        for sender in list(self._senders.values()):
            sender.stop()

    def _run(self, file_id: str, sender: _Sender) -> None:
        try:
            sender.run()
        finally:
            del self._senders[file_id]

    def _mark(self, file_id: str) -> Path:
        return self._spool.path(file_id).with_suffix(AHEAD)


class _Sender:
    """Sends the full parts of one growing file, until it is whole or ended, or does not grow."""

    def __init__(self, store: Store, path: Path, mark: BinaryIO, key: str, content_type: str, length: int) -> None:
        self._store = store
        self._path = path
        self._mark = mark
        self._about = (key, content_type, length)
        self._stopping = threading.Event()
        self._is_taken = False
        self._ended = threading.Event()
        self._parts: PartsUpload | None = None

    def run(self) -> None:
        """Send until there is no more to send; then let the mark go."""
        try:
            with self._mark:
                self._send()
        except (StoreError, OSError) as error:
            log.warning("the object %s is sent when its file is whole: %s", self._about[0], error)
            with suppress(OSError):
                self._path.with_suffix(WHOLE).touch()
                self._path.with_suffix(AHEAD).unlink(missing_ok=True)
            if self._parts:
                self._parts.give_up()
                self._parts = None
        finally:
            self._ended.set()

    def hand_over(self) -> PartsUpload | None:
        """Stop, and return the upload to whoever finishes it."""
        self._is_taken = True
        self.stop()
        self._ended.wait(HAND_OVER_SECONDS)
        return self._parts

    def stop(self) -> None:
        """Stop soon."""
        self._stopping.set()

    def _send(self) -> None:
        parts = self._parts = _resumed(self._store, self._mark, self._path, *self._about)
        grew_at, size, is_noted = time.monotonic(), 0, parts.upload_id is not None
        while not self._stopping.wait(LOOK_SECONDS) and time.monotonic() - grew_at < IDLE_SECONDS:
            size, before = parts.file_size(), size
            if self._path.with_suffix(WHOLE).exists() or not self._path.exists():  # in this order
                break
            if size > before:
                grew_at = time.monotonic()
                parts.feed(size)
            if not is_noted and parts.upload_id:
                is_noted = self._note(parts.upload_id)
        if parts.upload_id and not is_noted:
            self._note(parts.upload_id)
        if not self._is_taken:
            self._parts = None
            self._let_go(parts)

    def _let_go(self, parts: PartsUpload) -> None:
        """Leave what S3 has to another process, or take it back if the upload has ended."""
        if self._path.exists() or self._path.with_suffix("").exists():
            parts.leave()
        else:
            parts.give_up()

    def _note(self, upload_id: str) -> bool:
        self._mark.write(upload_id.encode())
        self._mark.flush()
        return True


def _resumed(store: Store, mark: BinaryIO, path: Path, key: str, content_type: str, length: int) -> PartsUpload:
    """Return the upload of a file, at the point where S3 is if its mark has a name there.

    Raises:
        StoreError: S3 does not say.
    """
    parts = PartsUpload(store, path, key, content_type, length, PART_BYTES)
    try:
        if upload_id := mark.read().decode():
            parts.resume(upload_id, store.sent_parts(key, upload_id))
    except BaseException:
        parts.leave()
        raise
    return parts


def _locked(path: Path) -> BinaryIO | None:
    """Open and lock a mark. Returns None if another process has the lock."""
    with suppress(OSError):
        mark = path.open("a+b")
        if try_lock(mark):
            mark.seek(0)
            return mark
        mark.close()
    return None
