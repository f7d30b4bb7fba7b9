"""API keys and their owners."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, String, Text, bindparam, insert, select, update
from sqlalchemy.orm import Mapped, mapped_column

from access.principal import OPEN_OWNER
from core.database import UtcDateTime, db, transaction, utcnow

FILES, METRICS, DIRECT = "files", "metrics", "direct"
KEY_PREFIX = "fm"
MAX_OWNER = 64
NO_HASH = "0" * 64
KEY = re.compile(rf"{KEY_PREFIX}_(?P<id>[0-9a-f]{{12}})_(?P<secret>[\w-]{{43}})", re.ASCII)


class ApiKey(db.Model):  # type: ignore[name-defined,misc]
    """An API key, stored as a hash. Keys of the same owner see the same files."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    owner: Mapped[str] = mapped_column(String(MAX_OWNER), index=True)
    role: Mapped[str] = mapped_column(String(16))
    """What the key is for: files, or metrics and nothing else, or direct uploads, as a ticket."""
    subject: Mapped[str | None] = mapped_column(String(255))
    """The user for whom a ticket is."""
    token_id: Mapped[str | None] = mapped_column(String(32))
    """The upload token that a ticket was fetched with."""
    limits: Mapped[str | None] = mapped_column(Text)
    """Those of a ticket, as JSON."""
    hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    """When a ticket ends; a key lasts until it is revoked."""


def create_key(owner: str, role: str = FILES) -> str:
    """Create a key for an owner. Returns the key, which is shown only now.

    Raises:
        ValueError: nobody can have that name.
    """
    if not owner.strip() or len(owner) > MAX_OWNER or not owner.isprintable() or owner == OPEN_OWNER:
        raise ValueError(f"An owner's name has 1 to {MAX_OWNER} printable characters, and is not {OPEN_OWNER}.")
    return write_key(owner=owner, role=role)


def write_key(**values: Any) -> str:
    """Write a new key with these columns. Returns the key."""
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    with transaction() as connection:
        connection.execute(insert(ApiKey), {"id": key_id, "hash": _hash(secret), "created_at": utcnow(), **values})
    return f"{KEY_PREFIX}_{key_id}_{secret}"


def revoke_key(key_id: str) -> bool:
    """Revoke a key. Returns False if there is no such live key."""
    live = update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
    with transaction() as connection:
        return connection.execute(live.values(revoked_at=utcnow())).rowcount == 1


def all_keys() -> Sequence[Row[tuple[ApiKey]]]:
    """Return all keys but tickets, oldest first."""
    keys = select(ApiKey).where(ApiKey.role != DIRECT).order_by(ApiKey.created_at)
    with db.engine.connect() as connection:
        return connection.execute(keys).all()


def find_key(token: str) -> Row[tuple[ApiKey]] | None:
    """Return the live key for a token, or None; takes the same time whatever is wrong."""
    shaped = KEY.fullmatch(token)
    if not shaped:
        return None
    key = read_key(shaped["id"])
    is_right = hmac.compare_digest(_hash(shaped["secret"]), key.hash if key else NO_HASH)
    is_over = key is not None and key.expires_at is not None and key.expires_at <= utcnow()
    return key if key and is_right and key.revoked_at is None and not is_over else None


def read_key(key_id: str) -> Row[tuple[ApiKey]] | None:
    with db.engine.connect() as connection:
        return connection.execute(_BY_ID, {"key_id": key_id}).first()


# Building a statement takes as long as running it.
_BY_ID = select(ApiKey.__table__).where(ApiKey.id == bindparam("key_id"))


def _hash(secret: str) -> str:
    # The secret has 256 random bits, so nobody can try all of them, and a slow hash would only be slow.
    return hashlib.sha256(secret.encode()).hexdigest()
