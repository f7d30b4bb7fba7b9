"""All samples of a run, by who and what."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any


class Results:
    """Samples by `who/what`, such as `ours/async 10 MB`."""

    def __init__(self, samples: dict[str, list[float]] | None = None) -> None:
        self.samples = samples or {}
        self.notes: list[str] = []

    def add(self, who: str, what: str, *values: float) -> None:
        """Keep samples."""
        self.samples.setdefault(f"{who}/{what}", []).extend(values)

    def note(self, text: str) -> None:
        """Keep, and say at once, what went wrong or was left out."""
        self.notes.append(text)
        sys.stderr.write(f"bench: {text}\n")

    def median(self, who: str, what: str) -> float | None:
        """The median, if there is a sample."""
        values = self.samples.get(f"{who}/{what}")
        return statistics.median(values) if values else None

    def p95(self, who: str, what: str) -> float | None:
        """The 95th percentile, if there are samples enough for one that differs from the largest."""
        values = sorted(self.samples.get(f"{who}/{what}", []))
        return values[int(len(values) * 0.95)] if len(values) > 1 else None

    def save(self, path: Path, about: dict[str, Any]) -> None:
        """Write everything as JSON."""
        content = {**about, "notes": self.notes, "samples": self.samples}
        path.write_text(json.dumps(content, indent=1) + "\n")
