"""What an upload may ask for besides its file: metadata, a lifetime, processing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from access.tokens import LONGEST_LIFE_SECONDS
from core import metadata
from core.errors import InvalidUpload
from intake.forms import chunked
from processing import recipes
from processing.recipes import Asked

SECONDS = re.compile(r"\d{1,12}", re.ASCII)
MAX_VALUE_BYTES = metadata.MAX_TEXT_BYTES
FIELDS = ("metadata", "expires_in", "process")
"""The form fields that are read besides the file."""
REPEATABLE = "process"
"""The one that may come several times, as if with commas between."""


@dataclass(frozen=True)
class UploadOptions:
    """What a client asks for with an upload."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    expires_in: int = 0
    """Seconds after which the file shall be deleted; 0 if the client does not say."""
    process: tuple[Asked, ...] = ()
    """The presets that are asked for; none leaves it to the rules."""


def read(fields: Mapping[str, str]) -> UploadOptions:
    """Read the options from texts, as a form's fields or another door's headers give them.

    Args:
        fields: the texts by their names in FIELDS; an empty one says nothing.

    Raises:
        InvalidUpload: one is malformed.
    """
    words = fields.get("metadata", "")
    if chunked.TOTAL.search(words):  # Kendo UI's own, about a file that is one chunk
        words = ""
    return UploadOptions(
        metadata=metadata.read(words) if words.strip() else {},
        expires_in=_seconds(fields.get("expires_in", "").strip()),
        process=recipes.read_asked(fields.get("process", "")),
    )


def _seconds(text: str) -> int:
    if not text:
        return 0
    if not SECONDS.fullmatch(text) or not 1 <= int(text) <= LONGEST_LIFE_SECONDS:
        raise InvalidUpload(f"expires_in must be a number of seconds from 1 to {LONGEST_LIFE_SECONDS}.")
    return int(text)
