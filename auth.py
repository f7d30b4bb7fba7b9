"""Who asks: API keys, their owners, and the check that every request passes unless its view is public."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from flask import Flask, current_app, g, request
from sqlalchemy import Row, String, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, mapped_column

import origin
from database import UtcDateTime, db, transaction, utcnow
from errors import Forbidden, Unauthorized
from services import services

log = logging.getLogger(__name__)

OPEN_OWNER = "anonymous"
FILES, METRICS = "files", "metrics"
PREFIX = "fm"
MAX_OWNER = 64
NO_HASH = "0" * 64
KEY = re.compile(rf"{PREFIX}_(?P<id>[0-9a-f]{{12}})_(?P<secret>[\w-]{{43}})", re.ASCII)
KEY_CHECK_SECONDS = 10.0  # how often a request that lasts looks at its key again

View = TypeVar("View", bound=Callable[..., object])


class ApiKey(db.Model):  # type: ignore[name-defined,misc]
    """A key, of which only the hash is kept. Keys of the same owner see the same files."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    owner: Mapped[str] = mapped_column(String(MAX_OWNER), index=True)
    role: Mapped[str] = mapped_column(String(16))
    """What the key is for: files, or metrics and nothing else."""
    hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


def create_key(owner: str, role: str = FILES) -> str:
    """Make a key for an owner; it is shown now, and never again.

    Raises:
        ValueError: nobody can have that name.
    """
    if not owner.strip() or len(owner) > MAX_OWNER or not owner.isprintable() or owner == OPEN_OWNER:
        raise ValueError(f"An owner's name has 1 to {MAX_OWNER} printable characters, and is not {OPEN_OWNER}.")
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    values = {"id": key_id, "owner": owner, "role": role, "hash": _hash(secret), "created_at": utcnow()}
    with transaction() as connection:
        connection.execute(insert(ApiKey), values)
    return f"{PREFIX}_{key_id}_{secret}"


def revoke_key(key_id: str) -> bool:
    """Let a key open nothing from now on; False if there is no such key that does."""
    live = update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
    with transaction() as connection:
        return connection.execute(live.values(revoked_at=utcnow())).rowcount == 1


def all_keys() -> Sequence[Row[tuple[ApiKey]]]:
    """Return every key that was ever made, oldest first."""
    with db.engine.connect() as connection:
        return connection.execute(select(ApiKey).order_by(ApiKey.created_at)).all()


def public(view: View) -> View:
    """Mark a view that needs no key."""
    view.role = None  # type: ignore[attr-defined]
    return view


def for_metrics(view: View) -> View:
    """Mark a view that only a key for metrics opens."""
    view.role = METRICS  # type: ignore[attr-defined]
    return view


def at_any_host(view: View) -> View:
    """Mark a view that tells nothing of any file, and is asked by the address of a process, as probes do."""
    view.at_any_host = True  # type: ignore[attr-defined]
    return view


def owner() -> str:
    """Whose request this is."""
    if services().config.AUTH == "open":
        return OPEN_OWNER
    name: str = g.key.owner
    return name


class KeyCheck:
    """Looks at the key of a request that lasts again, so that a revoked key ends it."""

    def __init__(self) -> None:
        self._due_at = time.monotonic() + KEY_CHECK_SECONDS

    def seconds_left(self) -> float:
        """Seconds until the key is to be looked at again."""
        return max(0.0, self._due_at - time.monotonic())

    def fails(self) -> bool:
        """Returns True if it was time to look, and the key is no longer what it was."""
        if self.seconds_left() or services().config.AUTH == "open":
            return False
        self._due_at = time.monotonic() + KEY_CHECK_SECONDS
        try:
            return bool(_key(g.key.id) != g.key)
        except SQLAlchemyError as error:  # without the database there are no events either
            log.warning("a key cannot be looked at now: %s", error)
            return False


def init_app(app: Flask) -> None:
    """Check every request of the app before its view, and count what its owner may do."""
    app.before_request(_check)


def _check() -> None:
    config, view = services().config, current_app.view_functions.get(request.endpoint or "")
    if (config.AUTH == "open" or config.TRUSTED_HOSTS) and not getattr(view, "at_any_host", False):
        origin.check_host(config.TRUSTED_HOSTS)
    role = getattr(view, "role", FILES)
    # Flask serves its static folder by a view of its own.
    is_public = view is None or role is None or request.endpoint == "static"
    if is_public or request.method == "OPTIONS":  # which tells the verbs of an address, and nothing of any file
        return
    if config.AUTH == "open":
        origin.check_page()
        return
    g.key = _presented_key()
    if g.key.role != role:
        raise Forbidden("This key is not for that.")
    g.owner = g.key.owner


def _presented_key() -> Row[tuple[ApiKey]]:
    """The key that came with the request, which counts for its owner.

    Raises:
        Unauthorized: there is none, or none that is valid.
        LimitReached: too many from this address were wrong, or its owner asks too much.
    """
    given, throttle = request.authorization, services().throttle
    token = given.token if given and given.type == "bearer" else None
    key = _find(token) if token else None
    if key is None:
        if token:
            throttle.count_failure(request.remote_addr or "")
        raise Unauthorized("Send a valid key, as in `Authorization: Bearer fm_...`.")
    throttle.count_request(key.owner)
    return key


def _find(token: str) -> Row[tuple[ApiKey]] | None:
    """The live key that a token is, found by its id and told by its hash, in the same time whatever is wrong."""
    shaped = KEY.fullmatch(token)
    if not shaped:
        return None
    key = _key(shaped["id"])
    is_right = hmac.compare_digest(_hash(shaped["secret"]), key.hash if key else NO_HASH)
    return key if key and is_right and key.revoked_at is None else None


def _key(key_id: str) -> Row[tuple[ApiKey]] | None:
    with db.engine.connect() as connection:
        return connection.execute(select(ApiKey.__table__).where(ApiKey.id == key_id)).first()


def _hash(secret: str) -> str:
    # The secret has 256 random bits, so nobody can try all of them, and a slow hash would only be slow.
    return hashlib.sha256(secret.encode()).hexdigest()
