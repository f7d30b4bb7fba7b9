"""A file that a request brings, as far as it is known while it arrives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

from config import Config
from core.errors import UnsupportedUpload
from file import check_name, media_type, rename_file
from intake.digests import Digests
from intake.options import UploadOptions
from intake.sniff import FirstBytes, refused_type


@dataclass
class ReceivedFile:
    """A received file: the client's name and type for it, its new key, its digests and detected type."""

    name: str
    content_type: str
    key: str
    digests: Digests
    head: FirstBytes = field(default_factory=FirstBytes)
    detected_type: str = ""
    """The media type that its first bytes tell; empty until they are here."""
    options: UploadOptions = field(default_factory=UploadOptions)
    """What the client asks for besides; of a form, at first what stands before the file, at the end all."""

    @classmethod
    def begin(cls, name: str, declared: str | None, config: Config, digests: Digests, **more: Any) -> Self:
        """Begin a file of which only the headers are known.

        Args:
            name: the client's name for it.
            declared: its Content-Type, if it has one.
            config: the settings.
            digests: those that the client gives.
            more: what else is known.

        Raises:
            InvalidUpload: it can have no such name or type.
        """
        check_name(name)
        content_type = media_type(declared, name)
        key = config.S3_KEY_PREFIX + rename_file(name, content_type=content_type)
        return cls(name=name, content_type=content_type, key=key, digests=digests, **more)

    def update(self, content: bytes | None, config: Config) -> None:
        """Handle the next bytes; None is the file's end.

        Raises:
            UnsupportedUpload: files of its type are not accepted.
        """
        if content:
            self.digests.update(content)
            self.head.update(content)
        if not self.detected_type and (content is None or self.head.is_full):
            self.detected_type = self.head.detect()
            check_type(self.content_type, self.detected_type, config)


OnChunk: TypeAlias = Callable[[ReceivedFile, bytes], None]
"""Called with each chunk of a file once it is in the spool, and at its end with no bytes."""


def check_type(declared: str, detected: str, config: Config) -> None:
    """Check that files of these types are accepted here.

    Raises:
        UnsupportedUpload: they are not.
    """
    if refused := refused_type(declared, detected, config.ALLOWED_CONTENT_TYPES, config.DENIED_CONTENT_TYPES):
        raise UnsupportedUpload(f"Files of type {refused} are not accepted.")
