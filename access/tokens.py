"""Upload tokens: short-lived credentials for a user's browser, checked without the database."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

import jwt

from access.principal import NO_LIMITS, USER_GRANTS, Grant, Limits, Principal
from core import metadata
from core.errors import Expired, InvalidBody, Unauthorized
from core.strict_json import check_members
from models import Mode

PREFIX = "fmu_"
ALGORITHM = "HS256"
AUDIENCE = "ferryman:upload"
"""Of our tokens alone, so that no JWT of a team passes for one even where both have the same secret."""
LEAST_SECONDS, MOST_SECONDS, USUAL_SECONDS = 60, 86_400, 900
MAX_TOKEN = 6 * 1024  # gunicorn takes 8 KiB as one header
MAX_SUBJECT = 255
MAX_NUMBER = 2**53
LONGEST_LIFE_SECONDS = 10 * 365 * 86_400
"""Of a file that expires."""
MALFORMED = (jwt.InvalidTokenError, RecursionError, OverflowError)
"""What PyJWT raises for a token that is not valid; the last two for nesting and numbers without end."""
STRANGE = (TypeError, ValueError, AttributeError)
"""What the claims of a signed token raise that is of another version, or made by somebody who has the secret."""
TYPE_PATTERN = re.compile(r"[\w.+*-]{1,100}/[\w.+*-]{1,100}", re.ASCII)
PRESET = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)


@dataclass(frozen=True)
class TokenRequest:
    """What a new token shall be."""

    subject: str | None = None
    expires_in: int = USUAL_SECONDS
    grants: tuple[str, ...] = (Grant.UPLOAD, Grant.READ)
    limits: Limits = NO_LIMITS


def is_subject(found: object) -> bool:
    """Returns True if a value can name a user: a text of 1 to 255 printable characters."""
    return isinstance(found, str) and 0 < len(found) <= MAX_SUBJECT and found.isprintable()


def whole_number(name: str, value: Any, least: int, most: int) -> int:
    """Return a number from JSON, which may be written as 60 or 60.0.

    Raises:
        InvalidBody: it is no whole number, or out of bounds.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most or value != int(value):
        raise InvalidBody(f"{name} must be a whole number from {least} to {most}.")
    return int(value)


def read_request(body: Mapping[str, Any]) -> TokenRequest:
    """Read a token request from a decoded JSON object.

    Raises:
        InvalidBody: a member is unknown or wrong; the text names it.
    """
    check_members(body, MEMBERS)
    read = {name: MEMBERS[name](name, value) for name, value in body.items()}
    limits = {one.name: read.pop(one.name) for one in fields(Limits) if one.name in read}
    return TokenRequest(**read, limits=Limits(**limits))


def make(secret: str, owner: str, wanted: TokenRequest) -> tuple[str, datetime]:
    """Make a token.

    Args:
        secret: TOKEN_SECRET.
        owner: the account.
        wanted: what it shall be.

    Returns:
        The token and the time of its end.

    Raises:
        InvalidBody: it would be too long for a header.
    """
    now = int(time.time())
    expires_at = now + wanted.expires_in
    limits = {name: value for name, value in asdict(wanted.limits).items() if value != getattr(NO_LIMITS, name)}
    claims = {"aud": AUDIENCE, "jti": secrets.token_hex(12), "iat": now, "exp": expires_at, "owner": owner}
    claims |= {"grants": wanted.grants, "limits": limits}
    if wanted.subject is not None:
        claims["sub"] = wanted.subject
    token = PREFIX + jwt.encode(claims, secret, ALGORITHM)
    if len(token) > MAX_TOKEN:
        raise InvalidBody(f"The token would have {len(token)} characters; {MAX_TOKEN} are allowed.")
    return token, datetime.fromtimestamp(expires_at, UTC)


def read(signers: tuple[str, ...], token: str) -> Principal:
    """Return the principal of a token; needs no database.

    Args:
        signers: the secrets that may have signed it.
        token: what the client presents.

    Raises:
        Expired: it was valid once.
        Unauthorized: it is not valid.
    """
    found = _verified(signers, token)
    if found.expires_at is not None and time.time() >= found.expires_at:
        raise Expired
    return found


@lru_cache(1024)  # a browser presents the same token again and again; what is refused is not kept
def _verified(signers: tuple[str, ...], token: str) -> Principal:
    for secret in signers:
        try:
            claims = jwt.decode(
                token.removeprefix(PREFIX),
                secret,
                [ALGORITHM],
                audience=AUDIENCE,
                options={"require": ["exp", "jti", "owner", "grants", "limits"]},
            )
        except jwt.ExpiredSignatureError:
            raise Expired from None
        except MALFORMED:
            continue
        try:
            return _principal(claims)
        except STRANGE:
            break
    raise Unauthorized("The token is not valid.")


def _principal(claims: Mapping[str, Any]) -> Principal:
    if "sub" in claims and not is_subject(claims["sub"]):
        raise ValueError("the subject names nobody")
    limits: dict[str, Any] = dict(claims["limits"])
    for name, value in limits.items():
        limits[name] = tuple(value) if isinstance(value, list) else value
    return Principal(
        owner=claims["owner"],
        subject=claims.get("sub"),
        grants=frozenset(map(Grant, claims["grants"])) & USER_GRANTS,
        limits=Limits(**limits),
        token_id=claims["jti"],
        expires_at=int(claims["exp"]),
    )


def _texts(what: str, is_valid: Callable[[str], object]) -> Callable[[str, Any], tuple[str, ...]]:
    def read_texts(name: str, value: Any) -> tuple[str, ...]:
        is_list = isinstance(value, list) and 0 < len(value) <= 50
        if not is_list or not all(isinstance(one, str) and is_valid(one) for one in value):
            raise InvalidBody(f"{name} must be a list of {what}.")
        return tuple(dict.fromkeys(value))

    return read_texts


def _subject(name: str, value: Any) -> str:
    if not is_subject(value):
        raise InvalidBody(f"{name} must have 1 to {MAX_SUBJECT} printable characters.")
    return str(value)


MEMBERS: dict[str, Callable[[str, Any], Any]] = {
    "subject": _subject,
    "expires_in": partial(whole_number, least=LEAST_SECONDS, most=MOST_SECONDS),
    "grants": _texts(", ".join(sorted(USER_GRANTS)), lambda text: text in USER_GRANTS),
    "max_bytes": partial(whole_number, least=1, most=MAX_NUMBER),
    "max_files": partial(whole_number, least=1, most=MAX_NUMBER),
    "content_types": _texts("media types such as image/*", TYPE_PATTERN.fullmatch),
    "modes": _texts(", ".join(Mode), lambda text: text in list(Mode)),
    "process": _texts("names of presets", PRESET.fullmatch),
    "metadata": lambda name, value: metadata.check(value),
    "file_expires_in": partial(whole_number, least=1, most=LONGEST_LIFE_SECONDS),
}
"""The members of a token request, and what reads each."""
