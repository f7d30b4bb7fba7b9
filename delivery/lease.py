"""A run's lease on its row: renewed while bytes are sent, given up at once when another run takes over."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import CancelledError

from sqlalchemy.exc import SQLAlchemyError

from core.every import Every
from core.file_row import FileRow
from core.services import this_app
from models import File

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 1.0


class LeaseLost(CancelledError):
    """Another run has taken the row over, or the file was deleted.

    As a CancelledError it passes through botocore, which wraps any other exception and sends the body again.
    Source: https://github.com/boto/botocore/blob/develop/botocore/httpsession.py
    """


class Heartbeat:
    """Renews a run's lease and records its progress while bytes are sent; called by the transfer's threads.

    Args:
        row: the file's row.
        run_id: the run that holds the lease.
        lease_seconds: for how long each renewal holds.
    """

    def __init__(self, row: FileRow, run_id: str, lease_seconds: float) -> None:
        self.is_lost = False
        self._app = this_app()
        self._row = row
        self._lease = (row.id, run_id, lease_seconds)
        self._every = Every(min(PROGRESS_SECONDS, lease_seconds / 3))
        self._sent = 0
        self._lock = threading.Lock()

    def __call__(self, sent_bytes: int) -> None:
        """Count more bytes as sent, and renew the lease when that is due.

        Raises:
            LeaseLost: the lease is another's by now.
        """
        with self._lock:
            # What is sent again, after a failure inside one attempt, is not counted beyond the whole.
            self._sent = min(self._sent + sent_bytes, self._row.size)
            is_due = self._every.due()
        if self.is_lost:
            raise LeaseLost
        if is_due:
            try:
                self.renew()
            except (
                SQLAlchemyError
            ) as error:  # no fault of the transfer; the lease still holds, and the next beat is near
                log.warning("the lease of file %s could not be renewed: %s", self._row.id, error)

    def renew(self) -> None:
        """Renew the lease now, so that the row is this run's for a whole lease.

        Raises:
            LeaseLost: the lease is another's by now.
        """
        with self._app.app_context():
            self.is_lost = self.is_lost or not File.renew(*self._lease, self._sent)
        if self.is_lost:
            raise LeaseLost
