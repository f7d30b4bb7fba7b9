"""Uploads that go on where they were: after a lost connection, and in a later run of the program."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from ferryman.client import (
    CHANGED,
    CHUNK_BYTES,
    Client,
    ClientError,
    File,
    Problem,
    Progress,
    option_fields,
    version_of,
)

BODY = "application/offset+octet-stream"
VERSION = {"Tus-Resumable": "1.0.0"}
MODES = ("async", "celery")
"""In normal mode the answer is S3's, which a request for the offset cannot give again."""
ABSENT = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)
ENDED = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


def upload(
    client: Client,
    source: str | os.PathLike[str],
    mode: str = "async",
    name: str | None = None,
    on_progress: Progress = lambda sent, size: None,
    metadata: Mapping[str, str] | None = None,
    expires_in: int | None = None,
    process: Sequence[str] = (),
    memory: str | os.PathLike[str] | None = None,
) -> File:
    """Upload a file by tus, from where an earlier call for the same file has come to.

    Args:
        client: of the service.
        source: the file's path.
        mode: async or celery.
        name: its name there; by default its own.
        on_progress: told how far it is.
        metadata: your own words beside the file.
        expires_in: seconds after which the file is deleted.
        process: names of presets.
        memory: the folder that remembers uploads in progress, by default in the user's state folder.

    Returns:
        The File, as it was accepted.

    Raises:
        Problem: it is refused.
        Unreachable: the service does not answer, and takes nothing more for as long as the client's patience.
        ClientError: the source changed while it was sent.
        OSError: the source cannot be read.

    Source: https://tus.io/protocols/resumable-upload
    """
    with open(source, "rb") as stream:
        wanted = {"filename": name or os.path.basename(os.fspath(source))}
        wanted |= option_fields(metadata, expires_in, process)
        found = _Upload(client, stream, mode, wanted, Path(memory) if memory else state_folder())
        try:
            return found.run(on_progress)
        except _NotThere:  # an older service
            return client.upload(source, mode, name, on_progress, metadata, expires_in, process)


def state_folder() -> Path:
    """Return the folder that remembers uploads in progress.

    Source: https://specifications.freedesktop.org/basedir-spec/latest/
    """
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "ferryman"


class _NotThere(ClientError):
    """The service has no resumable uploads."""


class _Upload:
    """One file on its way; the address of the upload is remembered until the file is there."""

    def __init__(
        self, client: Client, stream: IO[bytes], mode: str, wanted: Mapping[str, str], folder: Path
    ) -> None:
        self._client = client
        self._stream = stream
        self._mode = mode
        self._metadata = _encoded(wanted)
        self._version = version_of(stream)
        self._size = os.fstat(stream.fileno()).st_size
        facts = (client.address, os.path.realpath(stream.name), self._version, mode, self._metadata)
        digest = hashlib.sha256("\0".join(map(str, facts)).encode(errors="surrogateescape"))
        self._note = folder / digest.hexdigest()
        self._offset = 0

    def run(self, on_progress: Progress) -> File:
        """Send what is missing, as long as anything is taken within the client's patience."""
        while True:
            before = self._offset
            try:
                path = self._client.patiently(lambda: self._go_on(on_progress))
            except ClientError as error:
                if error.retry_after is None or self._offset <= before:
                    raise
            else:
                self._note.unlink(missing_ok=True)
                return self._client.file(path.rpartition("/")[2])

    def _go_on(self, on_progress: Progress) -> str:
        """Ask how far it is, and send the rest. Returns the upload's address."""
        path = self._known() or self._begin()
        while self._offset < self._size:
            rest = Rest(self._stream, self._offset, self._size, self._version, on_progress)
            headers = {**VERSION, "Content-Type": BODY, "Upload-Offset": str(self._offset)}
            try:
                answer = self._client.once("PATCH", path, data=rest, headers=headers)
            except ClientError as error:
                if str(error) == CHANGED:
                    self._note.unlink(missing_ok=True)
                raise
            self._offset = int(answer.headers["Upload-Offset"])
        on_progress(self._size, self._size)
        return path

    def _known(self) -> str:
        """Return the address of an earlier call, if its upload is still there; else an empty text."""
        try:
            path = self._note.read_text()
        except OSError:
            return ""
        try:
            self._offset = int(self._client.once("HEAD", path, headers=VERSION).headers["Upload-Offset"])
        except Problem as problem:
            if problem.status not in ENDED:
                raise
            self._note.unlink(missing_ok=True)
            return ""
        return path

    def _begin(self) -> str:
        headers = {**VERSION, "Upload-Length": str(self._size), "Upload-Metadata": self._metadata}
        try:
            answer = self._client.once("POST", f"/uploads?mode={self._mode}", headers=headers)
        except Problem as problem:
            if problem.status in ABSENT:
                raise _NotThere(problem.detail) from problem
            raise
        path = f"/uploads/{urlsplit(answer.headers['Location']).path.rpartition('/')[2]}"
        self._offset = 0
        with contextlib.suppress(OSError):  # then a later run begins anew
            self._note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._note.write_text(path)
        return path


class Rest:
    """A file from an offset on, or a part of it, as the body of a request.

    Args:
        stream: the open file.
        offset: where it begins, in bytes.
        size: where it ends.
        version: of the file, which must not change.
        on_progress: told where it is.
    """

    def __init__(
        self, stream: IO[bytes], offset: int, size: int, version: tuple[int, int] | None, on_progress: Progress
    ) -> None:
        self._stream = stream
        self._offset = offset
        self._size = size
        self._version = version
        self._on_progress = on_progress

    def __len__(self) -> int:
        return self._size - self._offset

    def __iter__(self) -> Iterator[bytes]:
        self._stream.seek(self._offset)
        sent = self._offset
        while sent < self._size:
            chunk = self._stream.read(min(CHUNK_BYTES, self._size - sent))
            if not chunk or version_of(self._stream) != self._version:
                raise ClientError(CHANGED)
            self._on_progress(sent, self._size)
            yield chunk
            sent += len(chunk)


def _encoded(pairs: Mapping[str, str]) -> str:
    """Return an Upload-Metadata."""
    words = {name: base64.b64encode(text.encode(errors="replace")).decode() for name, text in pairs.items()}
    return ",".join(f"{name} {word}" for name, word in words.items())
