"""What the rows of uploads in progress have in common, by whatever door: columns, questions, and their end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import Connection, Row, String, Text, bindparam, func, insert, select, text, update
from sqlalchemy.orm import Mapped, mapped_column

from access.principal import Principal, dump_limits, load_limits
from core.database import UtcDateTime, db, utcnow
from core.errors import UploadGone

KEPT = timedelta(days=1)
"""How long a row outlives its upload, for a client that has not seen the last answer."""
UNFINISHED = text("finished_at IS NULL AND gone_at IS NULL")
GONE = "The upload was ended, or has expired; begin a new one."

AnyRow = Row[tuple[Any, ...]]


class InProgress:
    """The columns of an upload in progress, which has the id that its File will have."""

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str | None] = mapped_column(String(255))
    token_id: Mapped[str | None] = mapped_column(String(32))
    limits: Mapped[str] = mapped_column(Text)
    """Those of the credential that created it, as JSON."""
    name: Mapped[str] = mapped_column(Text)
    content_type: Mapped[str] = mapped_column(String(255))
    key: Mapped[str] = mapped_column(String(255))
    """Where the object will be."""
    options: Mapped[str] = mapped_column(Text)
    """The texts of what is asked for besides, as JSON."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    gone_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Rows:
    """The rows of one table of uploads in progress.

    Args:
        table: one with the columns of `InProgress`.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        # What every request runs is made once: building a statement takes as long as running it.
        self._by_id = select(table).where(table.c.id == bindparam("upload"))
        self._insert = insert(table).returning(table)
        unfinished = select(func.count()).select_from(table).where(UNFINISHED)
        self._count = unfinished.where(table.c.owner == bindparam("owner"))

    def insert(self, connection: Connection, values: dict[str, Any]) -> AnyRow:
        """Write a new row, in the transaction of the caller. Returns it."""
        return cast(AnyRow, connection.execute(self._insert, values).one())

    def find(self, upload_id: str) -> AnyRow | None:
        """Return the row, or None; holds no connection afterwards."""
        with db.engine.connect() as connection:
            return cast(AnyRow | None, connection.execute(self._by_id, {"upload": upload_id}).first())

    def earlier(self, upload_id: str) -> AnyRow:
        """Return the upload of an earlier request with the same Idempotency-Key.

        Raises:
            UploadGone: it has ended.
        """
        row = self.find(upload_id)
        if row is None or row.gone_at:
            raise UploadGone("The upload of this Idempotency-Key has ended.")
        return row

    def end(self, connection: Connection, upload_ids: Sequence[str]) -> int:
        """End unfinished uploads for good, in the transaction of the caller. Returns how many it has ended."""
        now = utcnow()
        ending = update(self._table).where(self._table.c.id.in_(upload_ids), UNFINISHED)
        return connection.execute(ending.values(gone_at=now, updated_at=now)).rowcount

    def count_unfinished(self, connection: Connection, owner: str) -> int:
        """Return how many uploads of an owner are in progress."""
        return int(connection.execute(self._count, {"owner": owner}).scalar_one())

    def unfinished(self, limit: int) -> Sequence[AnyRow]:
        """Return the uploads in progress, those first that expire first."""
        return self.read(select(self._table).where(UNFINISHED).order_by(self._table.c.expires_at).limit(limit))

    def read(self, statement: Any) -> Sequence[AnyRow]:
        """Return the rows that a SELECT finds."""
        with db.engine.connect() as connection:
            return connection.execute(statement).all()


def is_own(row: AnyRow, principal: Principal) -> bool:
    """Returns True if a principal may see an upload, as it may see the File that comes of it."""
    return bool(row.owner == principal.owner and principal.subject in (None, row.subject))


def owner_values(principal: Principal) -> dict[str, Any]:
    """Return the columns that say for whom an upload is, as `principal_of` reads them."""
    return {
        "owner": principal.owner,
        "subject": principal.subject,
        "token_id": principal.token_id,
        "limits": dump_limits(principal.limits),
    }


def principal_of(row: AnyRow) -> Principal:
    """Return for whom an upload was created, with the limits of then."""
    return Principal(row.owner, row.subject, limits=load_limits(row.limits), token_id=row.token_id)
