"""The principal: for whom a request acts, and what it may do."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from core.errors import Forbidden

OPEN_OWNER = "anonymous"


class Grant(enum.StrEnum):
    """What a request may do. Every view that is not public needs one."""

    UPLOAD = "upload"
    READ = "read"
    DELETE = "delete"
    TOKENS = "tokens"
    METRICS = "metrics"


USER_GRANTS = frozenset({Grant.UPLOAD, Grant.READ, Grant.DELETE})
"""What a token may hold. Only an API key makes tokens or reads metrics."""
KEY_GRANTS = USER_GRANTS | {Grant.TOKENS}
OPEN_GRANTS = KEY_GRANTS | {Grant.METRICS}


@dataclass(frozen=True)
class Limits:
    """The limits of an upload token; the defaults are no limits."""

    max_bytes: int = 0
    """The largest file, in bytes."""
    max_files: int = 0
    """How many files it may upload in all."""
    content_types: tuple[str, ...] = ()
    """Media types that it may upload, as patterns such as `image/*`."""
    modes: tuple[str, ...] = ()
    process: tuple[str, ...] | None = None
    """Names of the presets that it may ask for; None for all."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Metadata of all its files, which its holder cannot change."""
    file_expires_in: int = 0
    """The longest life of its files, in seconds."""


NO_LIMITS = Limits()


def dump_limits(limits: Limits) -> str:
    """Return limits as JSON."""
    return json.dumps({**asdict(limits), "metadata": dict(limits.metadata)})


def load_limits(text: str) -> Limits:
    """Return the limits that `dump_limits` has written."""
    found: dict[str, Any] = json.loads(text)
    found = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return Limits(**found)


@dataclass(frozen=True)
class Principal:
    """For whom a request acts, and what it may do."""

    owner: str
    """The account."""
    subject: str | None = None
    """A user of the account, who sees only their own files; None for the account itself, which sees all."""
    grants: frozenset[Grant] = KEY_GRANTS
    limits: Limits = NO_LIMITS
    token_id: str | None = None
    """The upload token, where its files are counted."""
    expires_at: float | None = None
    """When its credential ends, in seconds of Unix time; None if it does not end by itself."""

    @property
    def scope(self) -> tuple[str, ...]:
        """What tells it from all others whose files it does not see."""
        return (self.owner,) if self.subject is None else (self.owner, self.subject)


OPEN = Principal(OPEN_OWNER, grants=OPEN_GRANTS)
"""Everyone, in a service without keys."""


def check_metadata(principal: Principal, words: Mapping[str, str | None]) -> None:
    """Check that a principal may set these names of a file's metadata.

    Args:
        principal: who asks.
        words: the names with their new values; None removes a name.

    Raises:
        Forbidden: a token has fixed one of them.
    """
    fixed = principal.limits.metadata
    if changed := sorted(name for name in words if name in fixed and words[name] != fixed[name]):
        raise Forbidden(f"This token fixes the metadata {', '.join(changed)}.")
