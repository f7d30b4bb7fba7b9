"""The S3 doctor: tests what a store really does with the requests of uploads, and names missing features."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from io import BytesIO
from tempfile import TemporaryFile
from typing import NamedTuple

import requests

from config import MIB, Config
from core.errors import StoreError, StoreRefused
from storage import bucket
from storage.checksum import Crc64Nvme
from storage.door import Door
from storage.s3.abilities import QUESTIONS
from storage.s3.addresses import Announced
from storage.s3.features import Features, Way
from storage.s3.requests import ObjectInfo
from storage.section import Section
from storage.store import Store

PART_BYTES = 5 * MIB  # the smallest that S3 takes
SIZES = {"one request": 64 * 1024, "several parts": 2 * PART_BYTES + 64 * 1024}
CONTENT_TYPE = "text/x-s3-doctor"
DISPOSITION = 'attachment; filename="doctor.txt"'
OVERWRITES = "this store does not honour If-None-Match, keep others out of the prefix"


class Probe(NamedTuple):
    """One test of the store, and its result."""

    question: str
    passed: bool
    reason: str = ""
    """Why not; or what is given up with it."""
    is_needed: bool = True
    """Without it files may be damaged or lost."""


def integrity(store: Store, prefix: str) -> Iterator[Probe]:
    """Test if uploads are verified as configured; removes its objects.

    Args:
        store: where, in the S3_CHECKSUM_MODE that is tried.
        prefix: folders in front of the keys that are used.

    Raises:
        StoreError: the bucket cannot be used at all.
    """
    bucket.check(store)
    store.capabilities.known()
    for way, size in SIZES.items():
        yield from _integrity(store, prefix, way, os.urandom(size))


def _integrity(store: Store, prefix: str, way: str, content: bytes) -> Iterator[Probe]:
    damaged = content[:-1] + bytes([content[-1] ^ 1])
    with _new_object(store, prefix, content) as info:
        refusal = _try(lambda: _send(store, content, info))
        yield Probe(f"takes a file in {way}", not refusal, refusal)
        if refusal:
            return
        yield _probe(f"gives the same bytes back ({way})", lambda: _compare(store, info))
        _try(lambda: _send(store, damaged, info._replace(crc64nvme=_checksum(damaged))))
        reason = OVERWRITES if _try(lambda: _compare(store, info)) else ""
        yield Probe(f"does not let it be overwritten ({way})", not reason, reason, is_needed=False)
    with _new_object(store, prefix, content) as info:
        noticed = bool(_try(lambda: _send(store, damaged, info)))
        reason = "" if noticed else "other bytes than were sent were taken for right"
        yield Probe(f"damage on the way is noticed ({way})", noticed, reason)


def conveniences(store: Store, prefix: str) -> Iterator[Probe]:
    """Test the other features in use; a failure costs a feature, but no file."""
    content = os.urandom(64)
    with _new_object(store, prefix, content) as info:
        if refusal := _try(lambda: _send(store, content, info)):
            yield Probe("takes a small file", False, refusal, is_needed=False)
            return
        tries: dict[str, Callable[[], object]] = {
            "keeps the media type": lambda: _keep_type(store, info),
            "gives a range": lambda: _give_range(store, info, content),
            "a link downloads, under the file's name": lambda: _follow_link(store, info, content),
            "lets pages read links (flask set-cors)": lambda: _share_link(store, info),
            "lists objects": lambda: _list_objects(store, info),
            "lists unfinished uploads": lambda: _list_uploads(store, info),
            "has lifecycle rules": lambda: bucket.lifecycle_rules(store),
        }
        for question, attempt in tries.items():
            yield _probe(question, attempt, is_needed=False)


def direct(door: Door, origins: Sequence[str]) -> Iterator[Probe]:
    """Test what the store enforces of signed addresses; a failure costs a way of direct uploads, or some time.

    Args:
        door: the bucket, as clients send to it.
        origins: those whose pages send to it.

    Raises:
        StoreError: S3 does not answer.
    """
    losses = door.abilities().losses
    for question, _ in QUESTIONS:
        yield Probe(question, question not in losses, losses.get(question, ""), is_needed=False)
    origin = "https://example.com" if "*" in origins else next(iter(origins))
    yield _probe("lets pages send to it (flask set-cors)", lambda: _let_send(door, origin), is_needed=False)


def _let_send(door: Door, origin: str) -> None:
    address = door.signer.put(Announced(f"s3-doctor-{secrets.token_hex(8)}", CONTENT_TYPE, 1), Way())
    asked = ", ".join(name.lower() for name in address.headers)
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": asked,
    }
    answer = requests.options(address.url, headers=headers, timeout=20)
    allowed = answer.headers.get("access-control-allow-methods", "")
    _require("PUT" in allowed, f"Pages of {origin} use tus instead.")


def in_mode(config: Config, mode: str) -> Store:
    """Return the configured store with another S3_CHECKSUM_MODE."""
    return Store(replace(config, S3_CHECKSUM_MODE=mode))


def _probe(question: str, attempt: Callable[[], object], is_needed: bool = True) -> Probe:
    refusal = _try(attempt)
    return Probe(question, not refusal, refusal, is_needed)


def _try(attempt: Callable[[], object]) -> str:
    """Run a test. Returns the reason of its failure, or an empty text."""
    try:
        attempt()
    except StoreError as error:
        return error.detail
    except requests.RequestException:
        return "The address of the link does not answer."
    return ""


@contextmanager
def _new_object(store: Store, prefix: str, content: bytes) -> Iterator[ObjectInfo]:
    """Return the description of a new object, which is removed in the end."""
    key = f"{prefix}s3-doctor-{secrets.token_hex(8)}"
    try:
        yield ObjectInfo(key, CONTENT_TYPE, len(content), _checksum(content))
    finally:
        store.delete(key)


def _checksum(content: bytes) -> str:
    return Crc64Nvme.of([content]).text()


def _send(store: Store, content: bytes, info: ObjectInfo) -> None:
    """Upload bytes as an object, in one request or in parts."""
    if len(content) <= PART_BYTES:
        store.put(BytesIO(content), info)
    else:
        store.settle(info, partial(_send_in_parts, store, content, info))


def _send_in_parts(store: Store, content: bytes, info: ObjectInfo, features: Features) -> bool:
    upload_id = store.begin_parts(info.key, info.content_type, features)
    try:
        with TemporaryFile() as file:
            file.write(content)
            file.flush()
            parts = []
            for number, start in enumerate(range(0, len(content), PART_BYTES), 1):
                part = content[start : start + PART_BYTES]
                section = Section(file.fileno(), start, len(part))
                parts.append(store.put_part(info.key, upload_id, number, section, _checksum(part), features))
        return store.complete_parts(info, upload_id, parts, features)
    except StoreError:
        store.abort_parts(info.key, upload_id)
        raise


def _require(is_right: bool, reason: str) -> None:
    if not is_right:
        raise StoreRefused(reason)


def _compare(store: Store, info: ObjectInfo) -> None:
    _require(store.read_checksum(info.key) == info.crc64nvme, "The bytes are others.")


def _keep_type(store: Store, info: ObjectInfo) -> None:
    kept = bucket.content_type(store, info.key)
    _require(
        kept == info.content_type, f"It is {kept or 'lost'}; links give that, Ferryman's downloads the right one."
    )


def _give_range(store: Store, info: ObjectInfo, content: bytes) -> None:
    got = b"".join(store.read(info.key, 5, 9))
    _require(got == content[5:9], "Other bytes were given; ranges by ?proxy=1 are wrong.")


def _follow_link(store: Store, info: ObjectInfo, content: bytes) -> None:
    answer = requests.get(store.presigned_url(info.key, DISPOSITION, 60), timeout=20)
    _require(answer.content == content, f"Links answer {answer.status_code}; use ?proxy=1.")
    named = answer.headers.get("content-disposition") == DISPOSITION
    _require(named, "The link does not name the file, so it is saved under its key; use ?proxy=1.")


def _share_link(store: Store, info: ObjectInfo) -> None:
    headers = {"Origin": "null"}  # as after the redirect to the link
    answer = requests.get(store.presigned_url(info.key, DISPOSITION, 60), headers=headers, timeout=20)
    allowed = answer.headers.get("access-control-allow-origin")
    _require(allowed in ("*", "null"), "A page's fetch() cannot read them; use ?proxy=1.")


def _list_objects(store: Store, info: ObjectInfo) -> None:
    listed = {entry.key for entry in bucket.objects(store, info.key)}
    _require(listed == {info.key}, "The listing lacks it; reconcile cannot be used.")


def _list_uploads(store: Store, info: ObjectInfo) -> None:
    upload_id = store.begin_parts(info.key, info.content_type, store.features)
    try:
        listed = {upload.upload_id for upload in bucket.multiparts(store, info.key)}
    finally:
        store.abort_parts(info.key, upload_id)
    _require(upload_id in listed, "The listing lacks one; what is abandoned stays, and is billed.")
