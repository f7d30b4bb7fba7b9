"""Authentication: every request must present an API key unless its view is public."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from flask import Flask, current_app, g, request
from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError

from access import origin
from access.keys import FILES, METRICS, OPEN_OWNER, ApiKey, find_key, read_key
from core.errors import Forbidden, Unauthorized
from core.services import services

log = logging.getLogger(__name__)

KEY_CHECK_SECONDS = 10.0  # how often a request that lasts looks at its key again

View = TypeVar("View", bound=Callable[..., object])


def public(view: View) -> View:
    """Mark a view that needs no key."""
    view.role = None  # type: ignore[attr-defined]
    return view


def for_metrics(view: View) -> View:
    """Mark a view that only a key for metrics opens."""
    view.role = METRICS  # type: ignore[attr-defined]
    return view


def at_any_host(view: View) -> View:
    """Mark a view that shows nothing of any file and answers under any Host, as probes need it."""
    view.at_any_host = True  # type: ignore[attr-defined]
    return view


def owner() -> str:
    """Return the owner of the current request."""
    if services().config.AUTH == "open":
        return OPEN_OWNER
    name: str = g.key.owner
    return name


class KeyCheck:
    """Checks the key of a long request again and again, so that a revoked key ends it."""

    def __init__(self) -> None:
        self._due_at = time.monotonic() + KEY_CHECK_SECONDS

    def seconds_left(self) -> float:
        """Return the seconds until the next check."""
        return max(0.0, self._due_at - time.monotonic())

    def fails(self) -> bool:
        """Returns True if the check was due and the key has changed."""
        if self.seconds_left() or services().config.AUTH == "open":
            return False
        self._due_at = time.monotonic() + KEY_CHECK_SECONDS
        try:
            return bool(read_key(g.key.id) != g.key)
        except SQLAlchemyError as error:  # without the database there are no events either
            log.warning("a key could not be checked: %s", error)
            return False


def init_app(app: Flask) -> None:
    """Check the key of every request before its view, and count it against its owner's rate limit."""
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
        raise Forbidden("This key does not grant access to this endpoint.")
    g.owner = g.key.owner


def _presented_key() -> Row[tuple[ApiKey]]:
    """Return the request's key, and count the request for its owner.

    Raises:
        Unauthorized: there is none, or none that is valid.
        LimitReached: too many from this address were wrong, or its owner asks too much.
    """
    given, throttle = request.authorization, services().throttle
    token = given.token if given and given.type == "bearer" else None
    key = find_key(token) if token else None
    if key is None:
        if token:
            throttle.count_failure(request.remote_addr or "")
        raise Unauthorized("Send a valid key, as in `Authorization: Bearer fm_...`.")
    throttle.count_request(key.owner)
    return key
