"""What a store enforces of signed addresses, found out with small objects, which are removed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import NamedTuple

import requests

from core.errors import StoreError
from storage.checksum import Crc64Nvme
from storage.s3.addresses import Address, Announced, Form, Signer
from storage.s3.errors import is_refusal
from storage.s3.features import Features
from storage.s3.probe import is_refused, new_keys
from storage.s3.requests import ObjectInfo, Requests

CONTENT = b"A small object that finds out what this store enforces of signed addresses; it is removed at once."
CONTENT_TYPE = "text/x-s3-probe"
OTHER_TYPE = "text/html"
SECONDS = 20.0


class Abilities(NamedTuple):
    """What a store enforces of signed addresses."""

    headers: bool = False
    """An address takes only the signed length and type."""
    exclusive: bool = False
    """An address with If-None-Match overwrites nothing."""
    parts: bool = False
    """Parts can be sent to addresses."""
    parts_checksum: bool = False
    """Of an object of such parts, the store tells the right CRC64NVME."""
    copies: bool = False
    """Objects can be copied."""
    copy_condition: bool = False
    """A copy is refused if its source has changed, or its target exists."""
    form: bool = False
    """A form takes only the signed key, type and length."""

    @property
    def losses(self) -> dict[str, str]:
        """What is given up, by the questions that the store fails."""
        return {question: loss for (question, loss), able in zip(QUESTIONS, self, strict=True) if not able}

    def summary(self) -> str:
        """Return the abilities in one line, for the operator."""
        return (
            "; ".join(f"not: {question} ({loss})" for question, loss in self.losses.items()) or "all is enforced"
        )


QUESTIONS = (
    (
        "an address takes only the signed length and type",
        "files go in parts instead, and an empty one cannot be sent directly",
    ),
    ("an address with If-None-Match overwrites nothing", "what comes to it is copied to another key"),
    ("parts can be sent to addresses", "no larger files can be sent directly"),
    ("the checksum of such parts is told", "what comes in parts is read back"),
    ("objects can be copied", "forms cannot be used, nor addresses that overwrite"),
    ("conditions of a copy are honored", "it is copied without them"),
    ("a form takes only the signed key, type and length", "Uppy needs shouldUseMultipart: true"),
)
"""Of each ability in turn: the question, and what is given up without it."""


def probe(s3: Requests, signer: Signer, prefix: str, features: Features) -> Abilities:
    """Return what a store enforces, found by some twenty requests.

    Args:
        s3: requests to the store.
        signer: signs addresses that this process can reach.
        prefix: folders in front of the keys that are used.
        features: the headers that the store accepts.

    Raises:
        StoreError: the store does not answer.
    """
    with new_keys(s3, prefix) as new_key:
        headers, exclusive = _put(signer, new_key, features)
        copies, copy_condition = _copy(s3, new_key, features)
        parts, parts_checksum = _parts(s3, signer, new_key(), features)
        form = _form(signer, new_key)
    return Abilities(headers, exclusive, parts, parts_checksum, copies, copy_condition, form)


def _put(signer: Signer, new_key: Callable[[], str], features: Features) -> tuple[bool, bool]:
    def address() -> Address:
        announced = Announced(new_key(), CONTENT_TYPE, len(CONTENT), _crc64nvme())
        return signer.put(announced, features.put)

    first = address()
    if not _is_taken(first, CONTENT):
        return False, False
    exclusive = features.put.condition and not _is_taken(first, CONTENT)
    longer, other = address(), address()
    wrong = {**other.headers, "Content-Type": OTHER_TYPE}
    enforced = not _is_taken(longer, CONTENT + b"!") and not _is_taken(other._replace(headers=wrong), CONTENT)
    return enforced, exclusive


def _parts(s3: Requests, signer: Signer, key: str, features: Features) -> tuple[bool, bool]:
    """Send one part without a checksum of its own, and see which the store tells of the whole."""
    way = features.parts
    try:
        upload_id = s3.begin(key, CONTENT_TYPE, way)
        try:
            if not _is_taken(signer.part(key, upload_id, 1), CONTENT):
                raise StoreError("A part is refused.", s3_status=HTTPStatus.FORBIDDEN)
            entries = [part.entry for part in s3.parts(key, upload_id)]
            s3.complete(ObjectInfo(key, CONTENT_TYPE, len(CONTENT), ""), upload_id, entries, way)
        except StoreError:
            with suppress(StoreError):
                s3.abort(key, upload_id)
            raise
        head = s3.head(key, features.head_checksum)
    except StoreError as error:
        if not is_refusal(error):
            raise
        return False, False
    return head is not None and head.size == len(CONTENT), head is not None and head.crc64nvme == _crc64nvme()


def _copy(s3: Requests, new_key: Callable[[], str], features: Features) -> tuple[bool, bool]:
    """Copy an object; then see that a copy is refused from another state, and onto one that exists."""
    source, target = new_key(), new_key()
    way = features.put._replace(checksum=features.verifies)
    info = ObjectInfo(source, CONTENT_TYPE, len(CONTENT), _crc64nvme())
    try:
        s3.put(info, CONTENT, features.put)
        head = s3.head(source, with_checksum=False)
        etag = head.etag if head else ""
        if is_refused(partial(s3.copy, source, etag, target, way)):
            target, way = new_key(), way._replace(condition=False)
            s3.copy(source, etag, target, way)
            return True, False
    except StoreError as error:
        if not is_refusal(error):
            raise
        return False, False
    others = (partial(s3.copy, source, '"0"', new_key(), way), partial(s3.copy, source, etag, target, way))
    return True, way.condition and all(map(is_refused, others))


def _form(signer: Signer, new_key: Callable[[], str]) -> bool:
    def form() -> Form:
        return signer.form(new_key(), CONTENT_TYPE, len(CONTENT))

    if not _is_posted(form(), CONTENT):
        return False
    longer, typed, elsewhere = form(), form(), form()
    wrong = (
        (longer, CONTENT + b"!"),
        (typed._replace(fields={**typed.fields, "Content-Type": OTHER_TYPE}), CONTENT),
        (elsewhere._replace(fields={**elsewhere.fields, "key": new_key()}), CONTENT),
    )
    return not any(_is_posted(*one) for one in wrong)


def _is_taken(address: Address, content: bytes) -> bool:
    return _is_accepted(partial(requests.put, address.url, data=content, headers=address.headers))


def _is_posted(form: Form, content: bytes) -> bool:
    return _is_accepted(partial(requests.post, form.url, data=form.fields, files={"file": content}))


def _is_accepted(send: Callable[..., requests.Response]) -> bool:
    """Returns True if the store takes what is sent, and False if it refuses.

    Raises:
        StoreError: it does not answer, or is out of order.
    """
    try:
        status = send(timeout=SECONDS, allow_redirects=False).status_code
    except requests.RequestException as error:
        raise StoreError("S3 does not answer.") from error
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED:
        raise StoreError("S3 returned a server error.", s3_status=status)
    return status < HTTPStatus.MULTIPLE_CHOICES


def _crc64nvme() -> str:
    return Crc64Nvme.of([CONTENT]).text()
