"""Idempotency-Key: a repeated request gets the same answer and has no second effect."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Row, String, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from core.database import UtcDateTime, db, new_id, transaction, utcnow
from core.errors import Conflict, InvalidUpload, KeyReused
from core.every import Every

MAX_KEY = 255
KEYS_KEPT = timedelta(days=7)


class IdempotencyKey(db.Model):  # type: ignore[name-defined,misc]
    """A client's key. Without a fingerprint its request is still running."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(MAX_KEY), primary_key=True)
    """Hash of the client's key and its owner and user."""
    request_id: Mapped[str] = mapped_column("owner", String(32), key="request_id")
    """The request that holds the key."""
    due_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    """Until when the request in progress holds the key, or the finished one is remembered."""
    fingerprint: Mapped[str | None] = mapped_column(String(64))
    file_id: Mapped[str | None] = mapped_column(String(32))


class Claim:
    """One request's claim on its Idempotency-Key. A no-op for a request without a key.

    Args:
        key: the Idempotency-Key, hashed with its owner and user.
        lease_seconds: how long the request may stay silent before another may take the key over.
    """

    def __init__(self, key: str | None, lease_seconds: float) -> None:
        self.earlier: Row[tuple[IdempotencyKey]] | None = None
        self._key = key
        self._request_id = new_id()
        self._lease = timedelta(seconds=lease_seconds)
        self._renewals = Every(lease_seconds / 3)

    def begin(self) -> None:
        """Claim the key, or find the request that had it earlier.

        Raises:
            Conflict: a request with this key is still running.
        """
        due_at = utcnow() + self._lease
        try:
            with transaction() as connection:
                values = {"key": self._key, "request_id": self._request_id, "due_at": due_at}
                connection.execute(insert(IdempotencyKey), values)
        except IntegrityError:
            self._begin_again(due_at)

    def _begin_again(self, due_at: datetime) -> None:
        with db.engine.connect() as connection:
            found = connection.execute(select(IdempotencyKey).where(IdempotencyKey.key == self._key)).first()
        if found and found.fingerprint:
            self.earlier = found
        elif not self._change_now(IdempotencyKey.due_at <= utcnow(), request_id=self._request_id, due_at=due_at):
            raise Conflict("A request with this Idempotency-Key is still running.")

    def renew(self) -> None:
        """Keep the claim while the body arrives. Cheap to call: it writes each third of the lease."""
        if self._key and self._renewals.due():
            self._change_now(IdempotencyKey.request_id == self._request_id, due_at=utcnow() + self._lease)

    def match(self, fingerprint: str) -> str | None:
        """Return the id of the File of an equal earlier request, or None without one.

        Raises:
            KeyReused: the earlier request with this key was another one.
        """
        if self.earlier is None:
            return None
        if self.earlier.fingerprint != fingerprint:
            raise KeyReused("This Idempotency-Key was used for another request.")
        file_id: str = self.earlier.file_id
        return file_id

    def finish(self, connection: Connection, fingerprint: str, file_id: str) -> None:
        """Bind the key to its File in the caller's transaction.

        Raises:
            Conflict: another request has taken the key over.
        """
        if self._key is None:
            return
        values = {"fingerprint": fingerprint, "file_id": file_id, "due_at": utcnow() + KEYS_KEPT}
        if not self._change(connection, IdempotencyKey.request_id == self._request_id, **values):
            raise Conflict("Another request with this Idempotency-Key has taken over.")

    def abandon(self) -> None:
        """Release the key, because nothing was accepted."""
        mine = [IdempotencyKey.key == self._key, IdempotencyKey.request_id == self._request_id]
        with transaction() as connection:
            connection.execute(delete(IdempotencyKey).where(*mine, IdempotencyKey.fingerprint.is_(None)))

    def _change_now(self, condition: ColumnElement[bool], **values: object) -> bool:
        with transaction() as connection:
            return self._change(connection, condition, **values)

    def _change(self, connection: Connection, condition: ColumnElement[bool], **values: object) -> bool:
        unfinished = [IdempotencyKey.key == self._key, IdempotencyKey.fingerprint.is_(None)]
        return (
            connection.execute(update(IdempotencyKey).where(*unfinished, condition).values(**values)).rowcount == 1
        )


@contextmanager
def claim(key: str | None, scope: tuple[str, ...], lease_seconds: float) -> Iterator[Claim]:
    """Claim a request's Idempotency-Key while the block runs; if the block raises, the key is free again.

    Args:
        key: the Idempotency-Key, or None.
        scope: the owner of the request, and its user if it has one. Equal keys of two of them are two keys.
        lease_seconds: how long the request may stay silent before another may take the key over.

    Raises:
        InvalidUpload: the key is empty, too long or not plain text.
        Conflict: a request with this key is still running.
    """
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isascii() and key.isprintable()):
        raise InvalidUpload(f"An Idempotency-Key must have 1 to {MAX_KEY} printable ASCII characters.")
    found = Claim(fingerprint(*scope, key) if key else None, lease_seconds)
    if key is None:
        yield found
        return
    found.begin()
    try:
        yield found
    except BaseException:
        found.abandon()
        raise


def fingerprint(*facts: str) -> str:
    """Return the hash of the facts that make two requests equal."""
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()


def forget_old() -> None:
    """Delete the expired keys."""
    with transaction() as connection:
        connection.execute(delete(IdempotencyKey).where(IdempotencyKey.due_at <= utcnow() - timedelta(hours=1)))
