"""What a lane hands to its parent: what it has made, or why it could not. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class Unprocessable(Exception):
    """The original cannot be processed, for a reason that a person understands."""


class Unproven(Exception):
    """What was written is not proven to be what was read."""


@dataclass
class Made:
    """What a lane has made: files in the working folder, each with the digest of its recipe."""

    outputs: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    """Why the main output is missing although others are there."""

    def add(self, recipe: dict[str, Any], file: str, output: str, content_type: str, **more: Any) -> None:
        """Add an output.

        Args:
            recipe: how it was made.
            file: its name in the working folder.
            output: which output of the recipe it is.
            content_type: its media type.
            more: `summary`, `sheet_no` and `sheet`, where there are any.
        """
        entry = {"recipe": recipe["digest"], "file": file, "output": output, "content_type": content_type}
        self.outputs.append({"summary": {}, "sheet_no": 0, "sheet": "", **entry, **more})
