"""Quotas: an owner's bytes per day and files in flight, reserved before a body is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta

from sqlalchemy import BigInteger, Connection, Date, String, case, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from config import Config
from core.database import UtcDateTime, db, transaction, utcnow
from core.errors import Conflict, LengthRequired, LimitReached
from core.every import Every
from storage import file_queries

IN_FLIGHT_SECONDS = 5
EVER = date.min


class Account(db.Model):  # type: ignore[name-defined,misc]
    """An owner's uploaded bytes on its latest day. The row is the lock under which its requests reserve."""

    __tablename__ = "accounts"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    day: Mapped[date] = mapped_column(Date)
    uploaded_bytes: Mapped[int] = mapped_column(BigInteger)


class ReservationRow(db.Model):  # type: ignore[name-defined,misc]
    """The reservation of an upload that is still arriving. It lapses unless renewed, as after a crash."""

    __tablename__ = "reservations"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)
    reserved_bytes: Mapped[int] = mapped_column(BigInteger)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Reservation:
    """One request's reservation. A no-op for owners without limits."""

    def __init__(self, reservation_id: str, owner: str, config: Config) -> None:
        self._id = reservation_id
        self._owner = owner
        self._bytes_per_day = config.KEY_BYTES_PER_DAY
        self._in_flight = config.KEY_FILES_IN_FLIGHT
        self._lease = timedelta(seconds=config.LEASE_SECONDS)
        self.is_limited = config.AUTH == "required" and bool(self._bytes_per_day or self._in_flight)
        self._renewals = Every(config.LEASE_SECONDS / 3)

    def begin(self, size: int) -> None:
        """Reserve a number of bytes, and one file.

        Raises:
            LimitReached: that is more than the owner has left.
        """
        with transaction() as connection:
            used = self._lock(connection)
            reserved, receiving = connection.execute(
                select(func.coalesce(func.sum(ReservationRow.reserved_bytes), 0), func.count()).where(
                    ReservationRow.owner == self._owner, ReservationRow.due_at > utcnow()
                )
            ).one()
            if self._bytes_per_day and used + reserved + size > self._bytes_per_day:
                raise LimitReached(f"Quota exceeded: {self._bytes_per_day} bytes per day.", _seconds_to_midnight())
            if (
                self._in_flight
                and receiving + file_queries.count_in_flight(connection, self._owner) >= self._in_flight
            ):
                raise LimitReached(f"Quota exceeded: {self._in_flight} files in flight.", IN_FLIGHT_SECONDS)
            values = {"id": self._id, "owner": self._owner, "reserved_bytes": size}
            connection.execute(insert(ReservationRow), values | {"due_at": utcnow() + self._lease})

    def renew(self) -> None:
        """Keep the reservation while the body arrives. Cheap to call: it writes each third of the lease."""
        if self.is_limited and self._renewals.due():
            mine = update(ReservationRow).where(ReservationRow.id == self._id)
            with transaction() as connection:
                connection.execute(mine.values(due_at=utcnow() + self._lease))

    def settle(self, connection: Connection, size: int) -> None:
        """Turn the reservation into uploaded bytes, in the transaction of the caller.

        Raises:
            Conflict: the reservation has lapsed, so others may have taken the room.
        """
        if not self.is_limited:
            return
        self._lock(connection)
        alive = delete(ReservationRow).where(ReservationRow.id == self._id, ReservationRow.due_at > utcnow())
        if connection.execute(alive).rowcount != 1:
            raise Conflict("The request paused for too long; send it again.")
        mine = update(Account).where(Account.owner == self._owner)
        connection.execute(mine.values(uploaded_bytes=Account.uploaded_bytes + size))

    def release(self) -> None:
        """Give the reservation back, unless it is settled."""
        if self.is_limited:
            with transaction() as connection:
                connection.execute(delete(ReservationRow).where(ReservationRow.id == self._id))

    def _lock(self, connection: Connection) -> int:
        """Lock the owner's account until the transaction ends. Returns the bytes uploaded today."""
        today = utcnow().date()
        same_day = case((Account.day == today, Account.uploaded_bytes), else_=0)
        mine = Account.owner == self._owner
        connection.execute(update(Account).where(mine).values(day=today, uploaded_bytes=same_day))
        return connection.scalars(select(Account.uploaded_bytes).where(mine)).one()


@contextmanager
def reserve(reservation_id: str, owner: str, size: int, config: Config) -> Iterator[Reservation]:
    """Reserve quota for an upload while the block runs; an unsettled reservation is released at its end.

    Args:
        reservation_id: a name that is new.
        owner: whose upload.
        size: bytes of the request's body; 0 if the client does not say.
        config: the limits.

    Raises:
        LimitReached: the owner has no room left.
        LengthRequired: the client must say how much it sends, because it has a limit.
    """
    reservation = Reservation(reservation_id, owner, config)
    if not reservation.is_limited:
        yield reservation
        return
    if not size and config.KEY_BYTES_PER_DAY:
        raise LengthRequired("The request must have a Content-Length, since uploads count against a quota.")
    _open_account(owner)
    reservation.begin(size)
    try:
        yield reservation
    finally:
        reservation.release()


def forget_lapsed() -> None:
    """Remove the reservations of dead processes."""
    with transaction() as connection:
        connection.execute(delete(ReservationRow).where(ReservationRow.due_at <= utcnow() - timedelta(hours=1)))


def _open_account(owner: str) -> None:
    with db.engine.connect() as connection:
        if connection.scalar(select(func.count()).where(Account.owner == owner)):
            return
    try:
        with transaction() as connection:
            connection.execute(insert(Account), {"owner": owner, "day": EVER, "uploaded_bytes": 0})
    except IntegrityError:  # another request was faster
        pass


def _seconds_to_midnight() -> int:
    now = utcnow()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return int((midnight - now).total_seconds()) + 1
