"""Probes a store's features with small objects, which it removes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import NamedTuple, TypeAlias

from core.errors import StoreError
from storage.checksum import Crc64Nvme
from storage.s3.errors import is_refusal
from storage.s3.features import Features, Way
from storage.s3.requests import ObjectInfo, Requests

NAME = "s3-probe-"
"""What the names of the objects begin with; one whose process was killed is found by reconcile."""
CONTENT = b"A small object that finds out what this store takes and does; it is removed at once."
DAMAGED = CONTENT[:-1] + b"!"
BARE = Way(checksum=False, condition=False, disposition=False)

Send: TypeAlias = Callable[[ObjectInfo, bytes, Way], object]
"""Uploads bytes as an object."""


class Kind(NamedTuple):
    """A kind of upload, and the function that does it."""

    wanted: Way
    send: Send


def probe(connect: Callable[[bool], Requests], prefix: str, wanted: Features) -> Features:
    """Return the features of a store, found by some fifteen requests.

    Args:
        connect: makes requests; whether their bodies may go unsigned.
        prefix: folders in front of the keys that are used.
        wanted: what would be sent if it were taken.

    Raises:
        StoreError: the store takes nothing at all, or does not answer.
    """
    try:
        return _probe(connect(True), prefix, wanted)
    except StoreError as error:
        if not is_refusal(error):
            raise
        try:
            return replace(_probe(connect(False), prefix, wanted), unsigned_payload=False)
        except StoreError:
            raise error from None  # the payload's signature is not the cause


def _probe(s3: Requests, prefix: str, wanted: Features) -> Features:
    with new_keys(s3, prefix) as new_key:
        new_object = partial(_new_object, new_key)
        put = _way(Kind(wanted.put, partial(_put, s3)), new_object)
        parts = _way(Kind(wanted.parts, partial(_in_parts, s3)), new_object)
        head = wanted.head_checksum and not is_refused(partial(s3.head, new_key(), True))
        return replace(wanted, put=put, parts=parts, head_checksum=head)


@contextmanager
def new_keys(s3: Requests, prefix: str) -> Iterator[Callable[[], str]]:
    """Yield a source of new object keys; remove the objects of these names in the end."""
    keys: list[str] = []

    def new_key() -> str:
        keys.append(f"{prefix}{NAME}{secrets.token_hex(8)}")
        return keys[-1]

    try:
        yield new_key
    finally:
        for key in keys:
            with suppress(StoreError):
                s3.delete(key)


def _new_object(new_key: Callable[[], str]) -> ObjectInfo:
    return ObjectInfo(new_key(), "application/octet-stream", len(CONTENT), Crc64Nvme.of([CONTENT]).text())


def _way(kind: Kind, new_object: Callable[[], ObjectInfo]) -> Way:
    """Return the features of one kind of upload."""
    first = new_object()
    way = kind.wanted
    if is_refused(partial(kind.send, first, CONTENT, way)):
        way = _without_refused(kind, new_object)
        first = new_object()
        kind.send(first, CONTENT, way)
    exclusive = way.condition and is_refused(partial(kind.send, first, CONTENT, way))
    verifies = way.checksum and is_refused(partial(kind.send, new_object(), DAMAGED, way))
    return way._replace(exclusive=exclusive, verifies=verifies)


def _without_refused(kind: Kind, new_object: Callable[[], ObjectInfo]) -> Way:
    """Return the headers that the store accepts: try none, then each one alone.

    Raises:
        StoreError: no header is the cause.
    """
    kind.send(new_object(), CONTENT, BARE)
    taken = BARE
    for header in ("checksum", "condition", "disposition"):
        alone = BARE._replace(**{header: True})
        if getattr(kind.wanted, header) and not is_refused(partial(kind.send, new_object(), CONTENT, alone)):
            taken = taken._replace(**{header: True})
    return taken if taken.headers != kind.wanted.headers else BARE


def is_refused(request: Callable[[], object]) -> bool:
    """Returns True if the store refuses a request.

    Raises:
        StoreError: it does not answer, or is out of order.
    """
    try:
        request()
    except StoreError as error:
        if not is_refusal(error):
            raise
        return True
    return False


def _put(s3: Requests, info: ObjectInfo, content: bytes, way: Way) -> None:
    s3.put(info, BytesIO(content), way)


def _in_parts(s3: Requests, info: ObjectInfo, content: bytes, way: Way) -> None:
    upload_id = s3.begin(info.key, info.content_type, way)
    try:
        part = s3.part(info.key, upload_id, 1, BytesIO(content), info.crc64nvme, way)
        s3.complete(info, upload_id, [part], way)
    except StoreError:
        with suppress(StoreError):
            s3.abort(info.key, upload_id)
        raise
