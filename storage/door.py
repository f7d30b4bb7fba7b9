"""The bucket's own door: addresses at which clients send bytes to it, and a look at what has come by them."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING

from config import Config
from core.errors import StoreError
from storage.checksum import Crc64Nvme
from storage.s3.abilities import Abilities, probe
from storage.s3.addresses import Signer
from storage.s3.client import make_credentials
from storage.s3.requests import Head, ObjectInfo, Part
from storage.store import CONDITION_FAILED, Progress, Store

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

log = logging.getLogger(__name__)

WHOLE_CRC64NVME = re.compile(r"[A-Za-z0-9+/]{11}=", re.ASCII)
"""A composite one, of parts, is longer."""
PROBE_AGAIN_SECONDS = 5.0


class Door:
    """The bucket, as clients send to it. All methods but `trusts` raise StoreError.

    Args:
        config: the settings.
        store: the bucket.
    """

    def __init__(self, config: Config, store: Store) -> None:
        self._config = config
        self._store = store
        self._found: Abilities | None = None
        self._lock = threading.Lock()
        self._next_probe = 0.0

    @cached_property
    def signer(self) -> Signer:
        """Signs addresses under the public endpoint of the bucket."""
        return self._signer(self._store.signing_client)

    def _signer(self, client: S3Client) -> Signer:
        config = self._config
        return Signer(client, make_credentials(config), config.S3_BUCKET_NAME, config.DIRECT_EXPIRES_SECONDS)

    def abilities(self) -> Abilities:
        """Return what the store enforces, probed at the first call."""
        if self._found is None:
            with self._lock:
                self._found = self._found or self._probe()
        return self._found

    def _probe(self) -> Abilities:
        if self._next_probe > time.monotonic():
            raise StoreError("S3 does not answer.")
        try:
            features = self._store.capabilities.known()
            s3 = self._store.requests()
            # The public endpoint may not be reachable from here.
            found = probe(s3, self._signer(s3.client), self._config.S3_KEY_PREFIX, features)
        except StoreError:
            self._next_probe = time.monotonic() + PROBE_AGAIN_SECONDS
            raise
        log.info("S3 store, direct uploads: %s", found.summary())
        return found

    def head(self, key: str) -> Head | None:
        """Return S3's report of an object, or None if there is none."""
        return self._store.requests().head(key, self._store.features.head_checksum)

    def trusts(self, head: Head, in_parts: bool) -> bool:
        """Returns True if the checksum in S3's report of an object is that of its bytes.

        Args:
            head: the report.
            in_parts: whether the object came in parts without checksums of their own.
        """
        is_told = self._found is None or self._found.parts_checksum or not in_parts
        return is_told and self._store.features.verifies and bool(WHOLE_CRC64NVME.fullmatch(head.crc64nvme))

    def first_bytes(self, key: str, count: int) -> bytes:
        """Return the first bytes of an object.

        Args:
            key: the object.
            count: how many, which it must have; 0 asks nobody.
        """
        return b"".join(self._store.read(key, 0, count)) if count else b""

    def digests(self, key: str, names: Collection[str], on_progress: Progress) -> dict[str, bytes]:
        """Read an object to its end, for its digests.

        Args:
            key: the object.
            names: hashlib's names of digests.
            on_progress: called with 0 now and then.

        Returns:
            The digests by their names, and by `crc64nvme` the checksum as S3 writes it.
        """
        crc, hashes = Crc64Nvme(), {name: hashlib.new(name, usedforsecurity=False) for name in names}
        for chunk in self._store.requests().read(key):
            crc.update(chunk)
            for running in hashes.values():
                running.update(chunk)
            on_progress(0)
        return {"crc64nvme": crc.text().encode(), **{name: one.digest() for name, one in hashes.items()}}

    def promote(self, source: str, etag: str, key: str) -> None:
        """Copy an object to its final key, unless it has changed, or is there already.

        Args:
            source: where a client has put it.
            etag: the state in which it was found.
            key: where it shall be.
        """
        way = self._store.features.put
        way = way._replace(checksum=self._store.features.verifies, condition=self.abilities().copy_condition)
        try:
            self._store.requests().copy(source, etag, key, way)
        except StoreError as error:
            if error.s3_status != CONDITION_FAILED:
                raise

    def complete(self, key: str, upload_id: str, parts: list[Part], crc64nvme: str) -> None:
        """Complete an object of parts.

        Args:
            key: the object.
            upload_id: S3's name for the upload.
            parts: their entries.
            crc64nvme: of the whole object, which S3 then verifies; empty if nobody knows it.
        """
        self._store.complete_parts(ObjectInfo(key, "", 0, crc64nvme), upload_id, parts, self._store.features)
