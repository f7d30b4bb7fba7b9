"""Begins an upload: checks what is wanted, reserves room for it, and writes its row."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from access import auth
from access.principal import Principal
from core.database import transaction, utcnow
from core.services import services
from file import check_name, media_type, rename_file
from intake import idempotency, options
from intake.in_progress import require_room, reservation_of
from intake.permit import check_options, check_upload
from intake.received import check_type
from intake.upload_rows import owner_values
from intake.uploads import rows
from intake.uploads.rows import UploadRow
from intake.uploads.turns import Turn, check_length
from models import Mode
from storage.growing import Growing


@dataclass(frozen=True)
class Wanted:
    """What a client wants to upload."""

    way: str
    """The protocol: `tus` or `rufh`."""
    mode: Mode
    name: str
    """The file's name; that of a part of a file is of no account."""
    content_type: str | None
    length: int | None
    """In bytes; None if the client does not know it yet."""
    closing: bool = True
    """False if the client says that more requests come."""
    options: Mapping[str, str] = field(default_factory=dict)
    """The texts of what is asked for besides."""
    upload_metadata: str | None = None
    digest: str | None = None
    concat: str | None = None
    parts: Sequence[UploadRow] | None = None
    """What a final upload joins."""

    @property
    def is_file(self) -> bool:
        """True unless it is a part of a file."""
        return self.concat != rows.PARTIAL


def begin(wanted: Wanted, key: str | None) -> tuple[UploadRow, Turn | None]:
    """Begin an upload, or find the one of an equal earlier request.

    Args:
        wanted: what to upload.
        key: the Idempotency-Key, or None.

    Returns:
        The upload; and the turn of the request that has begun it, to be closed by `with`.

    Raises:
        UploadError: the upload is not accepted, or there is no room for it.
    """
    principal, config = auth.principal(), services().config
    _check(wanted, principal)
    with idempotency.claim(key, principal.scope, config.LEASE_SECONDS) as claim:
        fingerprint = _fingerprint(wanted)
        if earlier := claim.match(fingerprint):
            return rows.earlier(earlier), None
        turn = _reserved(wanted, principal, claim, fingerprint)
    return turn.row, turn


def _check(wanted: Wanted, principal: Principal) -> None:
    """Check all that can be known before the first byte."""
    if wanted.length is not None:
        check_length(wanted.length)
    asked = options.read(wanted.options)
    check_upload(principal, wanted.mode, wanted.length or 0, options=asked)
    if wanted.is_file:
        check_name(wanted.name)
        check_options(asked, services().config)
        declared = media_type(wanted.content_type, wanted.name)
        check_type(declared, declared, services().config)


def _fingerprint(wanted: Wanted) -> str:
    facts = (wanted.name, wanted.content_type, wanted.length, wanted.upload_metadata, wanted.digest, wanted.concat)
    asked = repr(sorted(wanted.options.items()))
    return idempotency.fingerprint(wanted.way, wanted.mode, *map(repr, facts), asked)


def _reserved(wanted: Wanted, principal: Principal, claim: idempotency.Claim, fingerprint: str) -> Turn:
    """Reserve room for the upload in quota and spool, and write its row."""
    spool = services().spool
    upload_id = spool.prefix + secrets.token_hex(12)
    reservation = reservation_of(upload_id, principal)
    spool.require_for_upload(0 if wanted.parts else wanted.length or 0)
    reservation.begin(_new_bytes(wanted))
    try:
        file = Growing.create(spool, upload_id)
    except BaseException:
        reservation.release()
        raise
    try:
        return Turn(_written(wanted, principal, upload_id, claim, fingerprint), file)
    except BaseException:
        file.discard()
        reservation.release()
        raise


def _new_bytes(wanted: Wanted) -> int:
    """Return how many bytes it has beyond those that its parts have reserved."""
    if wanted.parts is None:
        return wanted.length or 0
    reserved: int = sum({part.id: part.length or part.offset for part in wanted.parts}.values())
    return max(0, (wanted.length or 0) - reserved)


def _written(
    wanted: Wanted, principal: Principal, upload_id: str, claim: idempotency.Claim, fingerprint: str
) -> UploadRow:
    config, now = services().config, utcnow()
    content_type = media_type(wanted.content_type, wanted.name) if wanted.is_file else ""
    key = rename_file(wanted.name, content_type=content_type) if wanted.is_file else upload_id
    values = {
        "id": upload_id,
        **owner_values(principal),
        "way": wanted.way,
        "mode": wanted.mode,
        "name": wanted.name,
        "content_type": content_type,
        "detected_type": "",
        "key": config.S3_KEY_PREFIX + key,
        "options": json.dumps(dict(wanted.options)),
        "upload_metadata": wanted.upload_metadata,
        "digest": wanted.digest,
        "concat": wanted.concat,
        "parts": json.dumps([part.id for part in wanted.parts]) if wanted.parts is not None else None,
        "length": wanted.length,
        "offset": 0,
        "crc64nvme": rows.NO_BYTES,
        "closing": wanted.closing,
        "tentative": False,
        "spool_id": services().spool.id,
        "created_at": now,
        "updated_at": now,
        "expires_at": now + timedelta(seconds=config.UPLOAD_EXPIRES_SECONDS),
        "finished_at": None,
        "gone_at": None,
    }
    with transaction() as connection:
        require_room(connection, principal.owner)
        row = rows.insert_row(connection, values)
        claim.finish(connection, fingerprint, upload_id)
    return row
