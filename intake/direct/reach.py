"""What a request can reach: the bucket's own door, where it is open, and the principal's own direct uploads."""

from __future__ import annotations

from werkzeug.exceptions import NotFound

from access import auth
from core.services import services
from intake.direct import rows
from intake.direct.rows import DirectRow
from intake.upload_rows import is_own


def require_open() -> None:
    """Check that clients may send bytes to the bucket themselves.

    Raises:
        NotFound: they may not.
    """
    if not services().config.takes_direct:
        raise NotFound("Direct uploads are off here.")


def own(upload_id: str) -> DirectRow:
    """Return a direct upload of the current principal.

    Raises:
        NotFound: there is none, it is another's, or the door is closed.
    """
    require_open()
    row = rows.find(upload_id)
    if row is None or not is_own(row, auth.principal()):
        raise NotFound("Upload not found.")
    return row
