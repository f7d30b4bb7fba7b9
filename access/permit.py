"""Checks what a token fixes."""

from __future__ import annotations

from collections.abc import Mapping

from access.principal import Principal
from core.errors import Forbidden


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
