"""Quotas: bytes per day and files in flight of an owner and of its users, and the files of a token.

All are reserved before a body is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Date,
    Select,
    String,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from access.principal import Principal
from config import Config
from core.database import UtcDateTime, db, transaction, utcnow
from core.errors import Conflict, Forbidden, LengthRequired, LimitReached
from core.every import Every
from storage import file_queries

IN_FLIGHT_SECONDS = 5
USER_ACCOUNT_KEPT = timedelta(days=2)  # longer than a day counts, and than a token lives


class Account(db.Model):  # type: ignore[name-defined,misc]
    """What an owner, one of its users, or an upload token has uploaded. Under its lock their requests reserve."""

    __tablename__ = "accounts"

    id: Mapped[str] = mapped_column("owner", String(64), key="id", primary_key=True)
    """The owner's name; of a user and of a token, a hash."""
    day: Mapped[date] = mapped_column(Date)
    uploaded_bytes: Mapped[int] = mapped_column(BigInteger)
    """On that day."""
    uploaded_files: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Ever."""
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    """When nobody asks for it any more; an owner's stays."""


class ReservationRow(db.Model):  # type: ignore[name-defined,misc]
    """The reservation of an upload that is still arriving. It lapses unless renewed, as after a crash."""

    __tablename__ = "reservations"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)
    subject: Mapped[str | None] = mapped_column(String(255))
    token_id: Mapped[str | None] = mapped_column(String(32))
    reserved_bytes: Mapped[int] = mapped_column(BigInteger)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Quota(NamedTuple):
    """The limits of one account; 0 is none."""

    account: str
    holder: dict[str, str]
    """What rows of this account have in their columns."""
    bytes_per_day: int = 0
    files_in_flight: int = 0
    files: int = 0

    @property
    def is_counted(self) -> bool:
        """True if its account counts what was uploaded."""
        return bool(self.bytes_per_day or self.files)


class Usage(NamedTuple):
    """What one account has used up."""

    bytes_today: int
    files: int
    """All that were ever uploaded."""
    reserved_bytes: int
    receiving: int
    in_flight: int


def quotas_of(principal: Principal, config: Config) -> list[Quota]:
    """Return the quotas that count a principal's uploads, the widest first: its account is their common lock."""
    found = []
    owner = {"owner": principal.owner}
    if config.AUTH == "required":
        found.append(Quota(principal.owner, owner, config.KEY_BYTES_PER_DAY, config.KEY_FILES_IN_FLIGHT))
    if principal.subject is not None:
        user = {**owner, "subject": principal.subject}
        limits = config.SUBJECT_BYTES_PER_DAY, config.SUBJECT_FILES_IN_FLIGHT
        found.append(Quota(_hash(*principal.scope), user, *limits))
    if principal.token_id and principal.limits.max_files:
        token = {**owner, "token_id": principal.token_id}
        found.append(Quota(_hash("", principal.token_id), token, files=principal.limits.max_files))
    return [quota for quota in found if any(quota[2:])]


class Reservation:
    """One request's reservation. A no-op for principals without quotas."""

    def __init__(
        self, reservation_id: str, principal: Principal, quotas: list[Quota], lease_seconds: float
    ) -> None:
        self._id = reservation_id
        self._principal = principal
        self._quotas = quotas
        self._lease = timedelta(seconds=lease_seconds)
        self._renewals = Every(lease_seconds / 3)

    def begin(self, size: int) -> None:
        """Reserve a number of bytes, and one file.

        Raises:
            LimitReached: that is more than is left for now.
            Forbidden: the token has uploaded all its files.
        """
        if not self._quotas:
            return
        try:
            self._begin(size)
        except IntegrityError:  # another request has just opened the same account
            self._begin(size)

    def _begin(self, size: int) -> None:
        with transaction() as connection:
            for quota, usage in zip(self._quotas, _usages(connection, self._quotas), strict=True):
                _check(quota, usage, size)
                _check_files(quota, usage)
            who = {"owner": self._principal.owner, "subject": self._principal.subject}
            values = {"id": self._id, "token_id": self._principal.token_id, "reserved_bytes": size, **who}
            connection.execute(insert(ReservationRow), values | {"due_at": utcnow() + self._lease})

    def extend(self, size: int) -> None:
        """Reserve up to a number of bytes in all, for an upload whose length nobody knows.

        Raises:
            LimitReached: that is more than is left for now.
        """
        if not any(quota.bytes_per_day for quota in self._quotas):
            return
        mine = ReservationRow.id == self._id
        with transaction() as connection:
            usages = _usages(connection, self._quotas)
            reserved = connection.scalar(select(ReservationRow.reserved_bytes).where(mine)) or 0
            if size <= reserved:
                return
            for quota, usage in zip(self._quotas, usages, strict=True):
                _check(quota, usage, size - reserved)
            connection.execute(update(ReservationRow).where(mine).values(reserved_bytes=size))

    def keep_alive(self, connection: Connection) -> None:
        """Begin the lease again, in the transaction of the caller."""
        if self._quotas:
            mine = update(ReservationRow).where(ReservationRow.id == self._id)
            connection.execute(mine.values(due_at=utcnow() + self._lease))

    def renew(self) -> None:
        """Keep the reservation while the body arrives. Cheap to call: it writes each third of the lease."""
        if self._quotas and self._renewals.due():
            with transaction() as connection:
                self.keep_alive(connection)

    def settle(self, connection: Connection, size: int) -> None:
        """Turn the reservation into uploaded bytes and an uploaded file, in the transaction of the caller.

        Raises:
            Conflict: the reservation has lapsed, so others may have taken the room.
        """
        if not self._quotas:
            return
        for quota in _written(self._quotas):
            _add(connection, quota.account, size, 1)
        alive = delete(ReservationRow).where(ReservationRow.id == self._id, ReservationRow.due_at > utcnow())
        if connection.execute(alive).rowcount != 1:
            raise Conflict("The request paused for too long; send it again.")

    def release(self) -> None:
        """Give the reservation back, unless it is settled."""
        if self._quotas:
            with transaction() as connection:
                connection.execute(delete(ReservationRow).where(ReservationRow.id == self._id))


@contextmanager
def reserve(
    reservation_id: str, principal: Principal, size: int, config: Config, *, is_needed: bool = True
) -> Iterator[Reservation]:
    """Reserve quota for an upload while the block runs; an unsettled reservation is released at its end.

    Args:
        reservation_id: a name that is new.
        principal: whose upload.
        size: bytes of the request's body; 0 if the client does not say.
        config: the limits.
        is_needed: False for an upload that will use up nothing.

    Raises:
        LimitReached: there is no room left for now.
        Forbidden: the token has uploaded all its files.
        LengthRequired: the client must say how much it sends, because that is limited.
    """
    quotas = quotas_of(principal, config) if is_needed else []
    reservation = Reservation(reservation_id, principal, quotas, config.LEASE_SECONDS)
    if not quotas:
        yield reservation
        return
    if not size and any(quota.bytes_per_day for quota in quotas):
        raise LengthRequired("The request must have a Content-Length, since uploads count against a quota.")
    reservation.begin(size)
    try:
        yield reservation
    finally:
        reservation.release()


def bytes_left(principal: Principal, config: Config) -> int | None:
    """Return how many more bytes a principal may upload today; None if no quota counts them."""
    quotas = quotas_of(principal, config)
    if not any(quota.bytes_per_day for quota in quotas):
        return None
    try:
        return _bytes_left(quotas)
    except IntegrityError:  # another request has just opened the same account
        return _bytes_left(quotas)


def _bytes_left(quotas: list[Quota]) -> int:
    with transaction() as connection:
        usages = _usages(connection, quotas)
    counted = [(quota, usage) for quota, usage in zip(quotas, usages, strict=True) if quota.bytes_per_day]
    return max(0, min(quota.bytes_per_day - usage.bytes_today - usage.reserved_bytes for quota, usage in counted))


def forget(connection: Connection, reservation_ids: Sequence[str]) -> None:
    """Give reservations back, in the transaction of the caller."""
    connection.execute(delete(ReservationRow).where(ReservationRow.id.in_(reservation_ids)))


def check_processing(principal: Principal, config: Config) -> None:
    """Check that something more may be made of an owner's files today.

    Raises:
        LimitReached: their making has taken all the computing of a day.
    """
    most, now = config.KEY_PROCESS_SECONDS_PER_DAY, utcnow()
    since = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if most and file_queries.processing_seconds(principal.owner, since) >= most:
        raise LimitReached(f"Quota exceeded: {most} seconds of processing per day.", _seconds_to_midnight())


def forget_lapsed() -> None:
    """Remove the reservations of dead processes, and the accounts that nobody asks for any more."""
    with transaction() as connection:
        connection.execute(delete(ReservationRow).where(ReservationRow.due_at <= utcnow() - timedelta(hours=1)))
        connection.execute(delete(Account).where(Account.expires_at <= utcnow()))


def _usages(connection: Connection, quotas: list[Quota]) -> list[Usage]:
    """Lock the first account until the transaction ends. Returns what each account has used up."""
    written = _written(quotas)
    uploaded = {quota.account: _add(connection, quota.account) or _open(connection, quota) for quota in written}
    receiving = _receiving(connection, quotas)
    in_flight = [0] * len(quotas)
    if any(quota.files_in_flight for quota in quotas):
        in_flight = list(file_queries.count_in_flight(connection, [quota.holder for quota in quotas]))
    reserved = zip(receiving[::2], receiving[1::2], strict=True)
    numbers = zip(quotas, reserved, in_flight, strict=True)
    return [Usage(*uploaded.get(quota.account, (0, 0)), *arriving, count) for quota, arriving, count in numbers]


def _written(quotas: list[Quota]) -> list[Quota]:
    """Return the quotas whose accounts are written: the first as the lock of all, the others if they count."""
    return [quotas[0], *(quota for quota in quotas[1:] if quota.is_counted)]


def _receiving(connection: Connection, quotas: list[Quota]) -> Sequence[int]:
    """Return the reserved bytes, and the number of reservations, of each account in turn."""
    statement = _receiving_of(tuple(tuple(quota.holder) for quota in quotas))
    values = {name: value for quota in quotas for name, value in quota.holder.items()}
    return connection.execute(statement, {**values, "now": utcnow()}).one()


@cache
def _receiving_of(holders: tuple[tuple[str, ...], ...]) -> Select[*tuple[int, ...]]:
    """Return the statement for accounts whose holders have these names, the first of which includes the others."""
    columns: list[ColumnElement[int]] = []
    owns = [file_queries.is_of(ReservationRow, names) for names in holders]
    for is_its in owns:
        columns.append(func.coalesce(func.sum(case((is_its, ReservationRow.reserved_bytes))), 0))
        columns.append(func.count(case((is_its, 1))))
    return select(*columns).where(owns[0], ReservationRow.due_at > bindparam("now"))


def _check(quota: Quota, usage: Usage, size: int) -> None:
    """Check that there is room for more bytes.

    Raises:
        LimitReached: there is none for now.
    """
    if quota.bytes_per_day and usage.bytes_today + usage.reserved_bytes + size > quota.bytes_per_day:
        raise LimitReached(f"Quota exceeded: {quota.bytes_per_day} bytes per day.", _seconds_to_midnight())


def _check_files(quota: Quota, usage: Usage) -> None:
    """Check that there is room for one more file.

    Raises:
        LimitReached: there is none for now.
        Forbidden: there will be none.
    """
    if quota.files_in_flight and usage.in_flight + usage.receiving >= quota.files_in_flight:
        raise LimitReached(f"Quota exceeded: {quota.files_in_flight} files in flight.", IN_FLIGHT_SECONDS)
    if quota.files and usage.files >= quota.files:
        raise Forbidden(f"This token has uploaded all its files: {quota.files}.")
    if quota.files and usage.files + usage.receiving >= quota.files:  # one of them may still fail
        raise LimitReached(f"Quota exceeded: {quota.files} files with this token.", IN_FLIGHT_SECONDS)


def _add(connection: Connection, account: str, size: int = 0, files: int = 0) -> tuple[int, int] | None:
    """Add an upload to an account, and lock it. Returns its bytes of today and all its files; None without one."""
    now = utcnow()
    added = {
        "account": account,
        "today": now.date(),
        "size": size,
        "files": files,
        "until": now + USER_ACCOUNT_KEPT,
    }
    found = connection.execute(_ADD, added).first()
    return (found[0], found[1]) if found else None


def _open(connection: Connection, quota: Quota) -> tuple[int, int]:
    """Open an account."""
    ends = None if quota.holder == {"owner": quota.account} else utcnow() + USER_ACCOUNT_KEPT
    values = {"id": quota.account, "day": utcnow().date(), "uploaded_bytes": 0, "uploaded_files": 0}
    connection.execute(insert(Account), values | {"expires_at": ends})
    return 0, 0


# What every upload runs is made once: building a statement takes as long as running it.
_ADD = (
    update(Account)
    .where(Account.id == bindparam("account"))
    .values(
        day=bindparam("today"),
        uploaded_bytes=case((Account.day == bindparam("today"), Account.uploaded_bytes), else_=0)
        + bindparam("size"),
        uploaded_files=Account.uploaded_files + bindparam("files"),
        expires_at=case((Account.expires_at.is_not(None), bindparam("until", type_=UtcDateTime))),
    )
    .returning(Account.uploaded_bytes, Account.uploaded_files)
)


def _hash(*names: str) -> str:
    return sha256("\0".join(names).encode()).hexdigest()


def _seconds_to_midnight() -> int:
    now = utcnow()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return int((midnight - now).total_seconds()) + 1
