"""Begins a direct upload: checks what is wanted, reserves room for it, writes its row, signs its addresses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from access import auth, quota
from access.principal import Principal
from config import MIB
from core.database import new_id, transaction, utcnow
from core.errors import InvalidQuery, LimitReached, NotConfigured, UploadTooLarge
from core.services import services
from file import INCOMING, check_name, media_type, rename_file
from intake import idempotency, options
from intake.direct import chores, rows
from intake.direct.rows import FORM, PARTS, PUT, DirectRow
from intake.in_progress import require_room, reservation_of
from intake.permit import check_options, check_upload
from intake.received import check_type
from intake.upload_rows import owner_values, principal_of
from models import Mode
from processing import recipes
from storage.parts import S3_MAX_PARTS, S3_MOST_PARTS
from storage.s3.addresses import Address, Announced, Form

ONE_PUT_BYTES = 100 * MIB
"""A larger file goes in parts, so that a broken connection costs one part."""
LEAST_PART_BYTES, USUAL_PART_BYTES = 16 * MIB, 64 * MIB
USUAL_PARTS = 16
LARGEST_PUT_BYTES = 5 * 1024 * MIB
"""Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""
LINGER_SECONDS, SLOWEST_BYTES = 60, 64 * 1024
"""How long after the end of its addresses an upload may take that has begun before, at so many bytes a second."""
NOT_ENFORCED = "This store does not enforce what is signed, so nobody can send to it directly; use /uploads."


@dataclass(frozen=True)
class Wanted:
    """What a client wants to send to the bucket."""

    name: str
    content_type: str | None
    size: int | None
    """In bytes; None if the client does not say."""
    kind: str
    digests: Mapping[str, str] = field(default_factory=dict)
    """Of the whole file, in base64 by their names."""
    options: Mapping[str, str] = field(default_factory=dict)
    """The texts of what is asked for besides."""


def kind_for(size: int, in_parts: bool) -> str:
    """Return how the bytes of a file come.

    Args:
        size: in bytes.
        in_parts: whether the client wants to send parts.

    Raises:
        StoreError: S3 does not answer.
    """
    can = services().door.abilities()
    prefers_parts = in_parts or size > ONE_PUT_BYTES or not can.headers
    return PARTS if size and can.parts and prefers_parts else PUT


def begin(wanted: Wanted, key: str | None) -> DirectRow:
    """Begin a direct upload, or find the one of an equal earlier request.

    Args:
        wanted: what to upload.
        key: the Idempotency-Key, or None.

    Raises:
        NotConfigured: the store cannot be used so.
        StoreError: S3 does not answer, or refuses.
        UploadError: the upload is not accepted.
    """
    principal, config = auth.principal(), services().config
    _check(wanted, principal)
    with idempotency.claim(key, principal.scope, config.LEASE_SECONDS) as claim:
        fingerprint = _fingerprint(wanted)
        if earlier := claim.match(fingerprint):
            return rows.earlier(earlier)
        try:
            return _reserved(wanted, principal, claim, fingerprint)
        except LimitReached:  # perhaps since nobody has looked yet at what has come
            chores.make_room(principal.owner)
        return _reserved(wanted, principal, claim, fingerprint)


def _check(wanted: Wanted, principal: Principal) -> None:
    """Check all that can be known before the first byte."""
    most = services().config.DIRECT_MAX_BYTES
    if wanted.size is not None and wanted.size > most:
        raise UploadTooLarge(f"A file that is sent directly must not exceed {most} bytes.")
    check_name(wanted.name)
    declared = media_type(wanted.content_type, wanted.name)
    asked = options.read(wanted.options)
    check_upload(principal, Mode.DIRECT, wanted.size or 0, (declared, declared), asked)
    check_options(asked, services().config)
    check_type(declared, declared, services().config)
    recipes.check_asked(services().presets, asked.process)


def _fingerprint(wanted: Wanted) -> str:
    facts = (wanted.name, wanted.content_type, wanted.size, wanted.kind)
    asked = repr(sorted(wanted.digests.items())), repr(sorted(wanted.options.items()))
    return idempotency.fingerprint(Mode.DIRECT, *map(repr, facts), *asked)


def _reserved(wanted: Wanted, principal: Principal, claim: idempotency.Claim, fingerprint: str) -> DirectRow:
    """Reserve quota for the upload, begin it in S3 if it comes in parts, and write its row."""
    _require_ability(wanted.kind)
    values = _values(wanted, principal)
    reservation = reservation_of(values["id"], principal)
    reservation.begin(values["most_bytes"])
    try:
        if wanted.kind == PARTS:
            values["s3_upload_id"] = _begin_parts(values["key"], values["content_type"])
        try:
            return _written(values, claim, fingerprint)
        except BaseException:
            if values["s3_upload_id"]:
                services().store.abort_parts(values["key"], values["s3_upload_id"])
            raise
    except BaseException:
        reservation.release()
        raise


def _require_ability(kind: str) -> None:
    """Check that the store enforces what is signed.

    Raises:
        NotConfigured: it does not, and there is no other way.
    """
    can = services().door.abilities()
    is_safe = {PUT: can.headers and (can.exclusive or can.copies), FORM: can.form and can.copies, PARTS: can.parts}
    if not is_safe[kind]:
        raise NotConfigured(NOT_ENFORCED)


def _begin_parts(key: str, content_type: str) -> str:
    store = services().store
    return store.begin_parts(key, content_type, store.features)


def _values(wanted: Wanted, principal: Principal) -> dict[str, Any]:
    config, now, upload_id = services().config, utcnow(), new_id()
    content_type = media_type(wanted.content_type, wanted.name)
    key = config.S3_KEY_PREFIX + rename_file(wanted.name, content_type=content_type)
    is_staged = wanted.kind == FORM or (wanted.kind == PUT and not services().door.abilities().exclusive)
    most = _most_bytes(wanted, principal)
    return {
        "id": upload_id,
        **owner_values(principal),
        "name": wanted.name,
        "content_type": content_type,
        "key": key,
        "landing_key": f"{config.S3_KEY_PREFIX}{INCOMING}{upload_id}" if is_staged else key,
        "kind": wanted.kind,
        "size": wanted.size,
        "most_bytes": most,
        "digests": json.dumps(dict(wanted.digests)),
        "options": json.dumps(dict(wanted.options)),
        "part_bytes": part_bytes(most) if wanted.kind == PARTS else None,
        "s3_upload_id": None,
        "closing": False,
        "promised": False,
        "parts": None,
        "claim": None,
        "look_at": now + timedelta(seconds=rows.FIRST_LOOK_SECONDS),
        "created_at": now,
        "updated_at": now,
        "expires_at": now + timedelta(seconds=_seconds(wanted.kind, most)),
        "finished_at": None,
        "gone_at": None,
    }


def _most_bytes(wanted: Wanted, principal: Principal) -> int:
    """Return how large the file may be: if its size is not known, no larger than what is reserved for it."""
    if wanted.size is not None:
        return wanted.size
    config = services().config
    most = min(config.DIRECT_MAX_BYTES, principal.limits.max_bytes or config.DIRECT_MAX_BYTES)
    left = quota.bytes_left(principal, config)
    if left is not None:
        most = min(most, max(left, 1))  # of none left, the reservation tells
    if wanted.kind == FORM:
        most = min(most, LARGEST_PUT_BYTES if left is None else ONE_PUT_BYTES)
    return most


def part_bytes(size: int) -> int:
    """Return the size of the parts of a file: neither too many, nor too long."""
    usual = min(max(-(-size // USUAL_PARTS), LEAST_PART_BYTES), USUAL_PART_BYTES)
    needed = max(usual, -(-size // S3_MAX_PARTS))
    return -(-needed // MIB) * MIB


def _seconds(kind: str, most: int) -> int:
    """Return how long an upload may take."""
    config = services().config
    if kind == PARTS:
        return config.UPLOAD_EXPIRES_SECONDS
    return config.DIRECT_EXPIRES_SECONDS + LINGER_SECONDS + most // SLOWEST_BYTES


def _written(values: dict[str, Any], claim: idempotency.Claim, fingerprint: str) -> DirectRow:
    with transaction() as connection:
        require_room(connection, values["owner"])
        row = rows.insert_row(connection, values)
        claim.finish(connection, fingerprint, values["id"])
    return row


def put_address(row: DirectRow) -> Address:
    """Sign the address for all bytes of an upload."""
    announced = Announced(
        row.landing_key, row.content_type, row.size, json.loads(row.digests).get("crc64nvme", "")
    )
    way = services().store.features.put._replace(condition=row.landing_key == row.key)
    return services().door.signer.put(announced, way)


def most_parts(row: DirectRow) -> int:
    """Return how many parts an upload may have: as many as S3 takes if nobody knows its size."""
    return S3_MOST_PARTS if row.size is None else -(-row.size // row.part_bytes)


def part_address(row: DirectRow, number: int, crc64nvme: str = "") -> Address:
    """Sign the address of one part of an upload, which lives on with that.

    Args:
        row: the upload.
        number: of the part, from 1.
        crc64nvme: of the part, in base64; empty if the client does not say.

    Raises:
        InvalidQuery: the upload has no such part.
    """
    if not 1 <= number <= most_parts(row):
        raise InvalidQuery(f"The number of a part must be from 1 to {most_parts(row)}.")
    config = services().config
    if row.expires_at < utcnow() + timedelta(seconds=0.9 * config.UPLOAD_EXPIRES_SECONDS):
        with transaction() as connection:
            rows.extend(connection, row, utcnow() + timedelta(seconds=config.UPLOAD_EXPIRES_SECONDS))
            reservation_of(row.id, principal_of(row)).keep_alive(connection)
    return services().door.signer.part(row.landing_key, row.s3_upload_id, number, crc64nvme)


def form(row: DirectRow) -> Form:
    """Sign the fields of the form that sends an upload."""
    return services().door.signer.form(row.landing_key, row.content_type, row.most_bytes)
