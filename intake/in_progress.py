"""What an owner may have in progress, by all doors together: a number of uploads, and their quota."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection

from access import quota
from access.principal import Principal
from core.errors import LimitReached
from core.services import services
from intake.direct import rows as direct_rows
from intake.uploads import rows as upload_rows

RETRY_SECONDS = 60
RESERVATION_MARGIN = timedelta(hours=1)


def require_room(connection: Connection, owner: str) -> None:
    """Check that an owner may begin one more upload, in the transaction of the caller.

    Raises:
        LimitReached: enough of them are in progress.
    """
    most = services().config.UPLOADS_UNFINISHED
    count = upload_rows.count_unfinished(connection, owner) + direct_rows.count_unfinished(connection, owner)
    if count >= most:
        raise LimitReached(f"There are {most} uploads in progress.", RETRY_SECONDS)


def reservation_of(upload_id: str, principal: Principal) -> quota.Reservation:
    """Return the quota reservation of an upload, which lives a little longer than the upload."""
    config = services().config
    lease = config.UPLOAD_EXPIRES_SECONDS + RESERVATION_MARGIN.total_seconds()
    return quota.Reservation(upload_id, principal, quota.quotas_of(principal, config), lease)
