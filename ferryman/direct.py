"""Uploads whose bytes go to S3 itself, where the service lets them and the bucket can be reached."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import IO, Any

import requests

from ferryman import resumable
from ferryman.client import (
    ANSWER_SECONDS,
    CHUNK_BYTES,
    CONNECT_SECONDS,
    Client,
    ClientError,
    File,
    Problem,
    Progress,
    version_of,
)
from ferryman.resumable import Rest

log = logging.getLogger("ferryman")

OFF = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)
TRIES, PAUSE_SECONDS = 4, 0.5


class NotPossible(ClientError):
    """The service, or the bucket, takes no bytes directly."""


def upload(
    client: Client,
    source: str | os.PathLike[str],
    mode: str = "async",
    name: str | None = None,
    on_progress: Progress = lambda sent, size: None,
    metadata: Mapping[str, str] | None = None,
    expires_in: int | None = None,
    process: Sequence[str] = (),
) -> File:
    """Send a file to S3 itself; if that is not possible, by tus through the service.

    Args:
        client: of the service.
        source: the file's path.
        mode: async or celery, for the way through the service.
        name: its name there; by default its own.
        on_progress: told how far it is.
        metadata: your own words beside the file.
        expires_in: seconds after which the file is deleted.
        process: names of presets.

    Returns:
        The File: COMPLETE, unless S3 did not answer the service at the end.

    Raises:
        Problem: it is refused.
        Unreachable: the service does not answer.
        ClientError: the source changed while it was sent.
        OSError: the source cannot be read.
    """
    with open(source, "rb") as stream:
        wanted: dict[str, Any] = {"name": name or os.path.basename(os.fspath(source))}
        wanted |= {"metadata": dict(metadata)} if metadata else {}
        wanted |= {"expires_in": expires_in} if expires_in is not None else {}
        wanted |= {"process": ",".join(process)} if process else {}
        try:
            return _Upload(client, stream, wanted).run(on_progress)
        except NotPossible as reason:
            log.warning("%s It goes through the service.", reason)
    return resumable.upload(client, source, mode, name, on_progress, metadata, expires_in, process)


class _Upload:
    """One file on its way to the bucket."""

    def __init__(self, client: Client, stream: IO[bytes], wanted: Mapping[str, Any]) -> None:
        self._client = client
        self._stream = stream
        self._version = version_of(stream)
        self._size = os.fstat(stream.fileno()).st_size
        self._wanted = {**wanted, "size": self._size}
        self._key = secrets.token_hex(16)
        # A bucket is given no key of ours, nor one that ~/.netrc has for its host.
        self._bucket = requests.Session()
        self._bucket.auth = lambda request: request

    def run(self, on_progress: Progress) -> File:
        """Send all bytes, and let the service verify them."""
        with self._bucket:
            begun = self._begin()
            path = f"/direct/{begun['id']}"
            try:
                if "put" in begun:
                    self._put(lambda: self._begin()["put"], 0, self._size, on_progress)
                else:
                    self._put_parts(path, begun, on_progress)
            except NotPossible:
                with contextlib.suppress(ClientError):  # then it ends by itself
                    self._client.once("DELETE", path)
                raise
        on_progress(self._size, self._size)
        self._client.patiently(lambda: self._client.once("POST", f"{path}/finish"))
        return self._client.file(begun["id"])

    def _begin(self) -> dict[str, Any]:
        """Begin the upload; or again, for an address that is good for longer."""
        headers = {"Idempotency-Key": self._key}
        try:
            answer = self._client.patiently(
                lambda: self._client.once("POST", "/direct", json=self._wanted, headers=headers)
            )
        except Problem as problem:
            if problem.status in OFF:
                raise NotPossible(problem.detail) from problem
            raise
        begun: dict[str, Any] = answer.json()
        return begun

    def _put_parts(self, path: str, begun: Mapping[str, Any], on_progress: Progress) -> None:
        size = begun["part_size"]
        for number in range(1, begun["parts"] + 1):
            start = (number - 1) * size

            def address(number: int = number) -> Any:
                return self._client.patiently(lambda: self._client.once("GET", f"{path}/parts/{number}")).json()

            self._put(address, start, min(start + size, self._size), on_progress)

    def _put(self, address: Any, start: int, stop: int, on_progress: Progress) -> None:
        """Send a part of the file to an address, which is fetched anew for each try.

        Raises:
            NotPossible: the bucket cannot be reached, or does not take it.
        """
        reason = ""
        for attempt in range(TRIES):
            time.sleep(PAUSE_SECONDS * attempt)
            where = address()
            body = Rest(self._stream, start, stop, self._version, lambda sent, _: on_progress(sent, self._size))
            headers = {**where["headers"], "Content-MD5": self._md5(start, stop)}
            try:
                timeout = (CONNECT_SECONDS, ANSWER_SECONDS)
                answer = self._bucket.put(where["url"], data=body, headers=headers, timeout=timeout)
            except (requests.ConnectionError, requests.Timeout):
                reason = "The bucket cannot be reached."
                continue
            if answer.ok or answer.status_code == HTTPStatus.PRECONDITION_FAILED:  # an earlier try has arrived
                return
            reason = f"The bucket answers {answer.status_code} {answer.reason}."
        raise NotPossible(reason)

    def _md5(self, start: int, stop: int) -> str:
        """Return the Content-MD5 of a part of the file, so that S3 refuses what was damaged on the way."""
        self._stream.seek(start)
        digest, left = hashlib.md5(usedforsecurity=False), stop - start
        while left and (chunk := self._stream.read(min(CHUNK_BYTES, left))):
            digest.update(chunk)
            left -= len(chunk)
        return base64.b64encode(digest.digest()).decode()
