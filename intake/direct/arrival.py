"""Looks at what has come of a direct upload in the bucket, brings it to its final key, and verifies it there.

At its final key no client can replace it: an address for it overwrites nothing, and parts can be completed once.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from config import MIB
from core.errors import Conflict, NotAsAnnounced, NothingThere, StoreError, UnsupportedUpload, UploadGone
from core.services import services
from intake.direct.rows import PARTS, DirectRow
from intake.received import check_type
from intake.sniff import HEAD_BYTES, detect
from storage.s3.requests import Head, SentPart
from storage.store import CONDITION_FAILED

READ_AT_ONCE_BYTES = 64 * MIB
"""Reading more takes longer than a client should wait."""
DROPPED = "S3 has dropped the upload; begin a new one."
NO_SUCH_UPLOAD, BAD_DIGEST, TOO_SMALL, WRONG_PART = "NoSuchUpload", "BadDigest", "EntityTooSmall", "InvalidPart"


class TakesLong(Exception):
    """The object must be read, and is large."""


class Verified(NamedTuple):
    """A verified object."""

    size: int
    crc64nvme: str
    """In base64."""
    sha256: str | None
    """In hexadecimal, if the object had to be read."""
    detected_type: str


def verify(row: DirectRow, at_once: bool, on_progress: Callable[[int], None]) -> Verified:
    """Bring the object of an upload to its final key, and verify it there.

    Args:
        row: the upload, which the caller holds.
        at_once: whether a client waits.
        on_progress: called now and then while the object is read.

    Raises:
        NothingThere: not all bytes are in S3.
        NotAsAnnounced: they are others than were announced, or not accepted here.
        UploadGone: S3 has dropped the parts.
        TakesLong: a client waits, and it takes long.
        StoreError: S3 does not say.
    """
    if row.kind == PARTS:
        _complete(row)
    elif row.landing_key != row.key:
        _promote(row)
    head = services().door.head(row.key)
    if head is None:
        raise NothingThere("S3 does not have the file yet.")
    _check_size(row, head.size)
    detected = detect(services().door.first_bytes(row.key, min(head.size, HEAD_BYTES)))
    try:
        check_type(row.content_type, detected, services().config)
    except UnsupportedUpload as error:
        raise NotAsAnnounced(error.detail) from error
    crc64nvme, sha256 = _checked(row, head, at_once, on_progress)
    return Verified(head.size, crc64nvme, sha256, detected)


def sent_parts(row: DirectRow) -> Sequence[SentPart]:
    """Return the parts that S3 has of an upload.

    Raises:
        UploadGone: S3 has dropped them.
        StoreError: S3 does not say.
    """
    try:
        return services().store.sent_parts(row.key, row.s3_upload_id)
    except StoreError as error:
        if error.code == NO_SUCH_UPLOAD:
            raise UploadGone(DROPPED) from error
        raise


def check_total(row: DirectRow, parts: Sequence[SentPart]) -> int:
    """Return the bytes of all parts.

    Raises:
        NotAsAnnounced: they are more than the file may have.
    """
    total = sum(part.size for part in parts)
    if total > row.most_bytes:
        raise NotAsAnnounced(f"S3 has {total} bytes of a file that may have {row.most_bytes}.")
    return total


def _check_size(row: DirectRow, size: int) -> None:
    if row.size is not None and size != row.size:
        raise NotAsAnnounced(f"The file has {size} bytes, not {row.size} as was announced.")
    if size > row.most_bytes:
        raise NotAsAnnounced(f"The file has {size} bytes; it may have {row.most_bytes}.")


def _promote(row: DirectRow) -> None:
    """Copy what lies where its client could still replace it."""
    head = services().door.head(row.landing_key)
    if head is None:  # not here yet, or gone since an earlier run has copied it
        return
    _check_size(row, head.size)
    services().door.promote(row.landing_key, head.etag, row.key)


def _complete(row: DirectRow) -> None:
    """Let S3 make the object of its parts, unless it has done so already."""
    if not row.closing:
        raise NothingThere("The upload is not finished.")
    try:
        sent = sent_parts(row)
    except UploadGone:
        if services().door.head(row.key):
            return
        raise
    chosen = _chosen(sent, json.loads(row.parts)) if row.parts else sent
    total = check_total(row, chosen)
    if not chosen or (row.size is not None and total < row.size):
        raise NothingThere(f"S3 has {total} of {row.size or 'all'} bytes.")
    _check_size(row, total)
    try:
        entries = [part.entry for part in chosen]
        services().door.complete(row.key, row.s3_upload_id, entries, json.loads(row.digests).get("crc64nvme", ""))
    except StoreError as error:
        _judge(error)


def _chosen(sent: Sequence[SentPart], named: list[tuple[int, str]]) -> Sequence[SentPart]:
    """Return the parts that a client has named.

    Raises:
        NothingThere: S3 does not have one of them so.
    """
    found = {(part.entry["PartNumber"], part.entry["ETag"].strip('"')): part for part in sent}
    if missing := [number for number, etag in named if (number, etag) not in found]:
        raise NothingThere(f"S3 does not have part {missing[0]} as it is named.")
    return [found[number, etag] for number, etag in named]


def _judge(error: StoreError) -> None:
    """Tell what a failed completion means."""
    if error.code == BAD_DIGEST:
        raise NotAsAnnounced("The bytes do not match the crc64nvme.") from error
    if error.code == TOO_SMALL:
        raise Conflict("A part that is not the last has less than 5 MiB; send it again.") from error
    if error.code == WRONG_PART:
        raise Conflict("A part was sent again meanwhile; finish again.") from error
    if error.s3_status != CONDITION_FAILED and error.code != NO_SUCH_UPLOAD:  # else it is there already
        raise error


def _checked(
    row: DirectRow, head: Head, at_once: bool, on_progress: Callable[[int], None]
) -> tuple[str, str | None]:
    """Compare the object with what was announced. Returns its CRC64NVME, and its SHA-256 if it was read."""
    announced = json.loads(row.digests)
    if not announced.keys() - {"crc64nvme"} and services().door.trusts(head, row.kind == PARTS):
        _compare(announced, {"crc64nvme": head.crc64nvme})
        return head.crc64nvme, None
    if at_once and head.size > READ_AT_ONCE_BYTES:
        raise TakesLong
    read = services().door.digests(row.key, {"sha256", *announced} - {"crc64nvme"}, on_progress)
    crc64nvme, sha256 = read.pop("crc64nvme").decode(), read["sha256"].hex()
    _compare(announced, {"crc64nvme": crc64nvme, **{name: _text(digest) for name, digest in read.items()}})
    return crc64nvme, sha256


def _compare(announced: dict[str, str], found: dict[str, str]) -> None:
    for name, value in announced.items():
        if not hmac.compare_digest(value, found[name]):
            raise NotAsAnnounced(f"The bytes do not match the {name}.")


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
