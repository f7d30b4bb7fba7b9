"""Authentication: a request needs a credential with the grant of its view, unless the view is public."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from flask import Flask, current_app, g, request
from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError

from access import origin, tickets, tokens
from access.keys import DIRECT, FILES, METRICS, ApiKey, find_key, read_key
from access.principal import KEY_GRANTS, OPEN, Grant, Principal
from core.errors import Expired, Forbidden, Unauthorized
from core.services import services

log = logging.getLogger(__name__)

KEY_CHECK_SECONDS = 10.0  # how often a request that lasts looks at its key again
UNMARKED = "unmarked"
TICKET = "ticket"
"""The name of the part of an address that may be a credential."""
GRANTS = {FILES: KEY_GRANTS, METRICS: frozenset({Grant.METRICS}), DIRECT: frozenset[Grant]()}
"""Of keys in headers, by their roles. A ticket is one in an address only."""

View = TypeVar("View", bound=Callable[..., object])


def public(view: View) -> View:
    """Mark a view that needs no credential."""
    view.grant = None  # type: ignore[attr-defined]
    return view


def needs(grant: Grant) -> Callable[[View], View]:
    """Mark a view that needs a grant. A view without a mark is closed for everyone."""

    def mark(view: View) -> View:
        view.grant = grant  # type: ignore[attr-defined]
        return view

    return mark


def uncounted(view: View) -> View:
    """Mark a view that no rate limit counts: a client must call it for each part of a file."""
    view.is_uncounted = True  # type: ignore[attr-defined]
    return view


def at_any_host(view: View) -> View:
    """Mark a view that shows nothing of any file and answers under any Host, as probes need it."""
    view.at_any_host = True  # type: ignore[attr-defined]
    return view


def is_static(endpoint: str) -> bool:
    """Returns True if an endpoint is a static folder, which Flask serves by a view of its own."""
    return endpoint.rpartition(".")[2] == "static"


def principal() -> Principal:
    """Return the principal of the current request."""
    found: Principal = g.principal
    return found


class CredentialCheck:
    """Checks the credential of a long request again and again, so that a revoked or expired one ends it."""

    def __init__(self) -> None:
        self._key: Row[tuple[ApiKey]] | None = g.get("key")
        self._expires_at = principal().expires_at
        self._due_at = time.monotonic() + KEY_CHECK_SECONDS

    def seconds_left(self) -> float:
        """Return the seconds until the next check."""
        left = self._due_at - time.monotonic()
        if self._expires_at is not None:
            left = min(left, self._expires_at - time.time())
        return max(0.0, left)

    def fails(self) -> bool:
        """Returns True if the credential has expired, or if the check was due and the key has changed."""
        if self._expires_at is not None and time.time() >= self._expires_at:
            return True
        if self.seconds_left():
            return False
        self._due_at = time.monotonic() + KEY_CHECK_SECONDS
        try:
            return self._key is not None and bool(read_key(self._key.id) != self._key)
        except SQLAlchemyError as error:  # without the database there are no events either
            log.warning("a key could not be checked: %s", error)
            return False


def init_app(app: Flask) -> None:
    """Check the credential of every request before its view, and count it against the rate limits."""
    app.before_request(_check)


def _check() -> None:
    config, view = services().config, current_app.view_functions.get(request.endpoint or "")
    if (config.AUTH == "open" or config.TRUSTED_HOSTS) and not getattr(view, "at_any_host", False):
        origin.check_host(config.TRUSTED_HOSTS)
    grant = getattr(view, "grant", UNMARKED)
    is_public = view is None or grant is None or is_static(request.endpoint or "")
    if is_public or request.method == "OPTIONS":  # which tells the verbs of an address, and nothing of any file
        return
    if config.AUTH == "open":
        origin.check_page(config.CORS_ORIGINS)
    g.principal = _presented((request.view_args or {}).get(TICKET), getattr(view, "is_uncounted", False))
    if grant not in g.principal.grants:
        raise Forbidden("This credential does not grant access to this endpoint.")
    g.owner = g.principal.owner


def _presented(ticket: str | None, is_uncounted: bool) -> Principal:
    """Return the principal of the request's credential, and count the request.

    Args:
        ticket: the one in the address, where that has one; else the credential is in a header.
        is_uncounted: whether no rate limit counts the request.

    Raises:
        Unauthorized: there is none, or none that is valid.
        LimitReached: too many from this address were wrong, or its owner or user asks too much.
    """
    given, throttle = request.authorization, services().throttle
    token = ticket or (given.token if given and given.type == "bearer" else None)
    try:
        found = tickets.read(ticket) if ticket else _principal_of(token or "")
    except Unauthorized as error:
        if token and not isinstance(error, Expired):  # which nobody has guessed
            throttle.count_failure(request.remote_addr or "")
        raise
    if not is_uncounted:
        throttle.count_request(found)
    return found


def _principal_of(token: str) -> Principal:
    ferry = services()
    if token.startswith(tokens.PREFIX):
        return tokens.read(ferry.config.token_secrets, token)
    if ferry.team_tokens and token.count(".") == 2:
        return ferry.team_tokens.read(token)
    if ferry.config.AUTH == "open":
        return OPEN
    key = find_key(token)
    if key is None:
        raise Unauthorized("Send a valid key, as in `Authorization: Bearer fm_...`.")
    g.key = key
    return Principal(key.owner, grants=GRANTS[key.role])
