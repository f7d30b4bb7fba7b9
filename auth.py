"""Who asks: API keys, their owners, and the check that every request passes unless its view is public."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import TypeVar

from flask import Flask, Response, current_app, g, request
from flask.typing import ResponseReturnValue
from flask_httpauth import HTTPTokenAuth
from sqlalchemy import Row, String, insert, select, update
from sqlalchemy.orm import Mapped, mapped_column

from database import UtcDateTime, db, transaction, utcnow
from errors import problem
from services import services

OPEN_OWNER = "anonymous"
FILES, METRICS = "files", "metrics"
PREFIX = "fm"
MAX_OWNER = 64
NO_HASH = "0" * 64

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


def owner() -> str:
    """Whose request this is."""
    if services().config.AUTH == "open":
        return OPEN_OWNER
    name: str = _auth.current_user().owner
    return name


def init_app(app: Flask) -> None:
    """Check every request of the app before its view, and count what its owner may do."""
    app.before_request(_check)


def _check() -> ResponseReturnValue | None:
    view = current_app.view_functions.get(request.endpoint or "")
    role = getattr(view, "role", FILES)
    # Flask serves its static folder by a view of its own.
    is_public = view is None or role is None or request.endpoint == "static"
    if is_public or request.method == "OPTIONS":  # which tells the verbs of an address, and nothing of any file
        return None
    if services().config.AUTH == "open":
        return _refuse_strange_page()
    refused: ResponseReturnValue | None = _auth.login_required(role=role)(lambda: None)()
    if refused is None:
        g.owner = owner()
    return refused


def _refuse_strange_page() -> Response | None:
    """Without keys, a page of another site that this machine's user looks at must not use the service.

    Source: https://www.w3.org/TR/fetch-metadata/
    """
    if request.headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none"):
        return None
    return problem(HTTPStatus.FORBIDDEN, "Pages of other sites may not use this service.")


_auth = HTTPTokenAuth("Bearer", realm="Ferryman")


@_auth.verify_token  # type: ignore[untyped-decorator]
def _verify(token: str) -> Row[tuple[ApiKey]] | None:
    if not token:
        return None
    throttle = services().throttle
    address = request.remote_addr or ""
    throttle.see_that_few_failed(address)
    key = _find(token)
    if key is None:
        throttle.count_failure(address)
    else:
        throttle.count_request(key.owner)
    return key


@_auth.get_user_roles  # type: ignore[untyped-decorator]
def _roles(key: Row[tuple[ApiKey]]) -> str:
    role: str = key.role
    return role


@_auth.error_handler  # type: ignore[untyped-decorator]
def _refuse(status: int) -> Response:
    if status == HTTPStatus.FORBIDDEN:
        return problem(status, "This key is not for that.")
    return problem(status, "Send a valid key, as in `Authorization: Bearer fm_...`.")


def _find(token: str) -> Row[tuple[ApiKey]] | None:
    """The live key that a token is, found by its id and told by its hash, in the same time whatever is wrong."""
    prefix, _, rest = token.partition("_")
    key_id, _, secret = rest.partition("_")
    with db.engine.connect() as connection:
        key = connection.execute(select(ApiKey).where(ApiKey.id == key_id)).first()
    is_right = hmac.compare_digest(_hash(secret), key.hash if key else NO_HASH)
    return key if key and is_right and prefix == PREFIX and key.revoked_at is None else None


def _hash(secret: str) -> str:
    # The secret has 256 random bits, so nobody can try all of them, and a slow hash would only be slow.
    return hashlib.sha256(secret.encode()).hexdigest()
