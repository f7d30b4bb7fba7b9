"""How many uploads an owner may have in progress, by all doors together."""

from __future__ import annotations

from sqlalchemy import Connection

from core.errors import LimitReached
from core.services import services
from intake.direct import rows as direct_rows
from intake.uploads import rows as upload_rows

RETRY_SECONDS = 60


def require_room(connection: Connection, owner: str) -> None:
    """Check that an owner may begin one more upload, in the transaction of the caller.

    Raises:
        LimitReached: enough of them are in progress.
    """
    most = services().config.UPLOADS_UNFINISHED
    count = upload_rows.count_unfinished(connection, owner) + direct_rows.count_unfinished(connection, owner)
    if count >= most:
        raise LimitReached(f"There are {most} uploads in progress.", RETRY_SECONDS)
