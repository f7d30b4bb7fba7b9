"""A lane that makes nothing: it shows which walls stand on this machine."""

from __future__ import annotations

from typing import Any

from processing.lanes.outcome import Made


def prepare() -> None:
    """Do nothing."""


def run(source: int, recipes: list[dict[str, Any]], limits: dict[str, int]) -> Made:
    """Make nothing."""
    return Made()
