"""The requests of this process that write to uploads, which other requests may ask to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

STOP = ".stop"
LOOK_SECONDS = 0.02


class Writers:
    """The requests of this process that write to uploads, each with what stops it.

    Another process asks by a file beside the upload's: for a client that has lost its connection, but not yet the
    request that waits for its bytes. A thread looks for such files as long as anybody writes.

    Args:
        folder: the spool's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stops: dict[str, Callable[[], None]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_stopping = False

    @contextmanager
    def writing(self, upload_id: str, stop: Callable[[], None]) -> Iterator[None]:
        """Let others stop this request while the block runs.

        Args:
            upload_id: the upload, which the caller holds.
            stop: called in another thread, perhaps several times; it must end the request's waiting for bytes.
        """
        with self._changed:
            self._stops[upload_id] = stop
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="writers", daemon=True)
                self._thread.start()
            self._changed.notify()
        if self._is_stopping:
            stop()
        try:
            yield
        finally:
            with self._changed:
                del self._stops[upload_id]

    def stop_all(self) -> None:
        """Stop all requests that write, and those that will."""
        self._is_stopping = True
        for stop in list(self._stops.values()):
            stop()

    def _look(self) -> None:
        while True:
            with self._changed:
                while not self._stops:
                    self._changed.wait()
                waiting = list(self._stops.items())
            for upload_id, stop in waiting:
                if (self._folder / f"{upload_id}{STOP}").exists():
                    log.info("the upload %s is taken over by another request", upload_id)
                    stop()
            time.sleep(LOOK_SECONDS)
