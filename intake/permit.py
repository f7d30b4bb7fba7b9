"""What may be uploaded: the one check of a principal against an upload, for every way in; and its options."""

from __future__ import annotations

from access.principal import Principal, check_metadata
from config import Config
from core.errors import Forbidden, InvalidUpload, UnsupportedUpload, UploadTooLarge
from intake.options import UploadOptions
from intake.sniff import refused_type
from processing.presets import NONE

REFUSALS = (400, 403, 413, 415, 422)
"""The errors of what a file is, which stays so."""
NO_OPTIONS = UploadOptions()


def check_upload(
    principal: Principal,
    mode: str,
    size: int = 0,
    types: tuple[str, str] | None = None,
    options: UploadOptions = NO_OPTIONS,
) -> None:
    """Check that a principal may upload a file.

    Args:
        principal: who uploads.
        mode: how the file goes to S3.
        size: bytes of the file so far, or all it will have.
        types: its declared and its detected media type, once they are known.
        options: what is asked for with it.

    Raises:
        Forbidden: the mode, the processing or the metadata is not allowed.
        UploadTooLarge: the file is too large.
        UnsupportedUpload: its type is not allowed.
        InvalidUpload: it would live too long.
    """
    limits = principal.limits
    if limits.modes and mode not in limits.modes:
        raise Forbidden(f"This token is for {' and '.join(limits.modes)} uploads.")
    if limits.max_bytes and size > limits.max_bytes:
        raise UploadTooLarge(f"With this token a file must not exceed {limits.max_bytes} bytes.")
    if types and (refused := refused_type(*types, limits.content_types, ())):
        raise UnsupportedUpload(f"With this token files of type {refused} are not accepted.")
    asked = {one.preset for one in options.process} - {NONE}
    if limits.process is not None and (beyond := asked - set(limits.process)):
        raise Forbidden(f"This token does not allow to process with {', '.join(sorted(beyond))}.")
    if limits.file_expires_in and options.expires_in > limits.file_expires_in:
        raise InvalidUpload(f"With this token expires_in must not exceed {limits.file_expires_in} seconds.")
    check_metadata(principal, options.metadata)


def check_options(options: UploadOptions, config: Config) -> None:
    """Check that this service grants anyone what is asked for with an upload.

    Raises:
        InvalidUpload: it does not.
    """
    longest = config.FILE_TTL_SECONDS
    if longest and options.expires_in > longest:
        raise InvalidUpload(f"expires_in must not exceed {longest} seconds here.")


def shortest(*lifetimes: int) -> int:
    """Return the shortest lifetime in seconds, where 0 is for ever."""
    return min((seconds for seconds in lifetimes if seconds), default=0)
