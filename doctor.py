"""The S3 doctor: tries what a store really does, and tells which S3_CHECKSUM_MODE is safe with it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from io import BytesIO
from tempfile import TemporaryFile
from typing import NamedTuple

import bucket
from checksum import Crc64Nvme
from config import MIB, Config
from errors import StoreError
from s3_features import Features
from s3_requests import ObjectInfo
from section import Section
from store import Store

PART_BYTES = 8 * MIB
SIZES = {"one request": 64 * 1024, "several parts": 17 * MIB}


class Probe(NamedTuple):
    """One question to the store, and its answer."""

    question: str
    passed: bool


def examine(config: Config, mode: str) -> Iterator[Probe]:
    """Ask a bucket whether a checksum mode keeps files whole; removes what it writes.

    Args:
        config: the settings, but for their own mode.
        mode: the S3_CHECKSUM_MODE to try.

    Raises:
        StoreError: the bucket does not answer at all.
    """
    store = Store(replace(config, S3_CHECKSUM_MODE=mode))
    bucket.check(store)
    for way, size in SIZES.items():
        content = os.urandom(size)
        damaged = content[:-1] + bytes([content[-1] ^ 1])
        with _new_object(store, config, content) as info:
            yield Probe(f"takes a file in {way}", _takes(store, content, info))
            yield Probe(f"gives the same bytes back ({way})", _gives_back(store, info))
            _takes(store, damaged, info._replace(crc64nvme=_checksum(damaged)))
            yield Probe(f"does not let it be overwritten ({way})", _gives_back(store, info))
        with _new_object(store, config, content) as info:
            yield Probe(f"damage on the way is noticed ({way})", not _takes(store, damaged, info))


@contextmanager
def _new_object(store: Store, config: Config, content: bytes) -> Iterator[ObjectInfo]:
    """Describe a new object, which is removed in the end."""
    key = f"{config.S3_KEY_PREFIX}s3-doctor-{secrets.token_hex(8)}"
    try:
        yield ObjectInfo(key, "application/octet-stream", len(content), _checksum(content))
    finally:
        store.delete(key)


def _checksum(content: bytes) -> str:
    crc = Crc64Nvme()
    crc.update(content)
    return crc.text()


def _takes(store: Store, content: bytes, info: ObjectInfo) -> bool:
    """Whether these bytes are delivered as that object, in one request or, if they are many, in parts."""
    try:
        if len(content) <= PART_BYTES:
            store.put(BytesIO(content), info)
        else:
            store.settle(info, partial(_send_in_parts, store, content, info))
    except StoreError:
        return False
    return True


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


def _gives_back(store: Store, info: ObjectInfo) -> bool:
    with suppress(StoreError):
        return store.read_checksum(info.key) == info.crc64nvme
    return False
