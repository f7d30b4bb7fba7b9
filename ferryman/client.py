"""The client of a Ferryman service, in one file that needs only requests."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import random
import secrets
import shutil
import string
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, NamedTuple, Self, TypeAlias, TypeVar
from urllib.parse import urlencode, urlsplit

import requests
from requests.auth import AuthBase
from urllib3.exceptions import InvalidHeader
from urllib3.fields import RequestField
from urllib3.util import Retry

log = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024
CONNECT_SECONDS = 15  # also how long the service may take nothing of what is sent
ANSWER_SECONDS = 120
WAIT_SECONDS = 20
POLL_SECONDS, MAX_POLL_SECONDS = 0.2, 2.0
PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.25, 8.0
CHANGED = "The file changed while it was sent, so nothing of it was kept."
RETRYABLE = (408, 423, 429, 502, 503, 504)

Progress: TypeAlias = Callable[[int, int], object]
"""Called with the bytes sent so far and all there are; when an upload is tried again, they start from 0."""

Result = TypeVar("Result")


class File(NamedTuple):
    """A File as the service shows it; missing fields are None."""

    id: str
    name: str
    upload_status: str
    mode: str
    url: str | None
    key: str
    size: int
    content_type: str
    detected_type: str | None
    sha256: str | None
    bytes_sent: int | None
    attempts: int
    error: str | None
    created_at: str
    updated_at: str
    completed_at: str | None
    subject: str | None
    metadata: dict[str, str] | None
    expires_at: str | None
    process: list[str] | None
    derivatives_status: str | None
    derivatives: list[dict[str, Any]] | None
    parent_id: str | None
    preset: str | None
    output: str | None
    summary: dict[str, Any] | None

    @property
    def is_settled(self) -> bool:
        """True if the delivery is over, COMPLETE or ERROR, and so is that of all that is made of the file."""
        is_over = self.upload_status in ("COMPLETE", "ERROR")
        return is_over and self.derivatives_status not in ("PENDING", "PROCESSING")


class Token(NamedTuple):
    """An upload token, and the time of its end (RFC 3339)."""

    token: str
    expires_at: str


class Link(NamedTuple):
    """A link to a file's bytes, and the time of its end (RFC 3339)."""

    url: str
    expires_at: str


class ClientError(Exception):
    """The request failed."""

    retry_after: float | None = None
    """Seconds after which a retry may succeed; None if it will not."""


class Unreachable(ClientError):
    """The service does not answer."""

    retry_after = 0.0


class TimedOut(ClientError):
    """The time is up before the file has ended."""


class Problem(ClientError):
    """The service refuses the request.

    Args:
        status: HTTP status code.
        detail: the service's own sentence about it.
        file_id: the File that tells more, where there is one.
    """

    def __init__(self, status: int, detail: str, file_id: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.file_id = file_id


class Client:
    """A client of one service, for one thread at a time.

    Args:
        address: where it is, such as http://localhost:5000.
        key: its API key, if it wants one.
        patience: seconds that a call may pause in all, to try again while the service does not answer or is busy.
        token: instead of a key an upload token or a JWT; or a function that fetches one, which is called again
            when the service refuses the one that it has.

    Raises:
        ValueError: the address, the key or the token cannot be one.
    """

    def __init__(
        self,
        address: str,
        key: str | None = None,
        patience: float = 30,
        token: str | Callable[[], str] | None = None,
    ) -> None:
        if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
            raise ValueError(f"The address of a Ferryman starts with http:// or https://, not {address!r}.")
        self.address = address.rstrip("/")
        self._patience = patience
        self._session = requests.Session()
        self._fetch_token = token if callable(token) else None
        if key and token:
            raise ValueError("A client has a key or a token, not both.")
        if credential := key or (None if callable(token) else token):
            self._session.auth = _Bearer(credential)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def upload(
        self,
        source: str | os.PathLike[str] | IO[bytes],
        mode: str = "async",
        name: str | None = None,
        on_progress: Progress = lambda sent, size: None,
        metadata: Mapping[str, str] | None = None,
        expires_in: int | None = None,
        process: Sequence[str] = (),
    ) -> File:
        """Upload a file exactly once, with retries.

        Args:
            source: a path, or a stream, which is sent from where it stands; it is read in small pieces.
            mode: normal, async or celery.
            name: its name there; by default the source's own.
            on_progress: told how far it is.
            metadata: your own words beside the file.
            expires_in: seconds after which the file is deleted.
            process: names of presets, of a table perhaps with hints as in `orders?delimiter=%3B`.

        Returns:
            The File: delivered in normal mode, else as it was accepted.

        Raises:
            Problem: it is refused, or in normal mode S3 does not take it; then `file_id` has a File.
            Unreachable: the service does not answer.
            ClientError: the source changed while it was sent.
            OSError: the source cannot be read.
        """
        with ExitStack() as opened:
            stream = opened.enter_context(open(source, "rb")) if isinstance(source, str | os.PathLike) else source
            name = name or os.path.basename(str(getattr(stream, "name", "")))
            if not stream.seekable():
                stream = opened.enter_context(_spooled(stream))
            form = _Form(stream, name, on_progress, option_fields(metadata, expires_in, process))
            headers = {"Content-Type": form.content_type, "Idempotency-Key": secrets.token_hex(16)}
            try:
                return self._file(self._ask("POST", f"/{mode}_upload", data=form, headers=headers))
            except Problem as problem:
                # An earlier try got through, though its answer did not, and S3 still has to take the file.
                if problem.status != HTTPStatus.CONFLICT or not problem.file_id:
                    raise
                return self.wait(problem.file_id)

    def file(self, file_id: str) -> File:
        """Read a File."""
        return self._file(self._ask("GET", f"/files/{file_id}"))

    def watch(self, file_id: str, timeout: float = math.inf) -> Iterator[File]:
        """Follow a File, state by state, until it is COMPLETE or ERROR.

        Args:
            file_id: the File's id.
            timeout: seconds after which it gives up.

        Raises:
            TimedOut: they are over.
            Unreachable: the service does not answer any more.

        Source: RFC 7240, section 4.3, for `Prefer: wait`; a service that does not wait is asked again and again.
        """
        deadline = time.monotonic() + timeout
        last, pause = None, POLL_SECONDS
        headers: dict[str, str] = {}
        while (now := time.monotonic()) < deadline:
            answer = self._ask("GET", f"/files/{file_id}", headers=headers)
            if answer.status_code != HTTPStatus.NOT_MODIFIED and (file := self._file(answer)) != last:
                yield file
                if file.is_settled:
                    return
                last, pause = file, POLL_SECONDS
            else:
                pause = min(pause * 2, MAX_POLL_SECONDS)
            if etag := answer.headers.get("ETag"):
                headers["If-None-Match"] = etag
            headers["Prefer"] = f"wait={math.ceil(min(WAIT_SECONDS, max(deadline - now, 1)))}"
            time.sleep(max(min(now + pause, deadline) - time.monotonic(), 0))
        raise TimedOut(f"After {timeout:.0f} s the file is still {last.upload_status if last else 'unknown'}.")

    def wait(self, file_id: str, timeout: float = math.inf) -> File:
        """Wait until a File is COMPLETE or ERROR, and return it so.

        Args:
            file_id: the File's id.
            timeout: seconds after which it gives up.

        Raises:
            TimedOut: they are over.
            Unreachable: the service does not answer any more.
        """
        *_, last = self.watch(file_id, timeout)
        return last

    def retry(self, file_id: str) -> File:
        """Retry the delivery of a file in ERROR."""
        return self._file(self._ask("POST", f"/files/{file_id}/retry"))

    def process(self, file_id: str, presets: Sequence[str]) -> File:
        """Make more of a COMPLETE File.

        Args:
            file_id: the File's id.
            presets: their names, of a table perhaps with hints.

        Returns:
            The File, with what is made of it in `derivatives`.
        """
        return self._file(self._ask("POST", f"/files/{file_id}/derivatives", data={"process": ",".join(presets)}))

    def edit(
        self, file_id: str, name: str | None = None, metadata: Mapping[str, str | None] | None = None
    ) -> File:
        """Change a File's shown name, or names of its metadata; None removes one.

        Source: RFC 7396.
        """
        change = {"name": name, "metadata": dict(metadata) if metadata is not None else None}
        given = {one: value for one, value in change.items() if value is not None}
        return self._file(self._ask("PATCH", f"/files/{file_id}", json=given))

    def link(self, file_id: str, expires_in: int = 3600, disposition: str = "attachment") -> Link:
        """Make a link to a file's bytes, for whoever has it.

        Args:
            file_id: the File's id; it must be COMPLETE.
            expires_in: seconds for which the link works, a week at most.
            disposition: `attachment`, or `inline` to show the file, which must be of a type that cannot run.
        """
        wanted = {"expires_in": expires_in, "disposition": disposition}
        return Link(**self._ask("POST", f"/files/{file_id}/links", json=wanted).json())

    def create_token(self, subject: str | None = None, **wanted: Any) -> Token:
        """Make an upload token for the browser of a user. Only a client with an API key can do that.

        Args:
            subject: the user; None for the whole account.
            wanted: `expires_in` in seconds, `grants`, `max_bytes`, `max_files`, `content_types`, `modes`,
                `process`, `metadata`, `file_expires_in`.
        """
        return Token(
            **self._ask("POST", "/tokens", json=wanted | ({"subject": subject} if subject else {})).json()
        )

    def delete(self, file_id: str) -> None:
        """Delete a File and its object."""
        self._ask("DELETE", f"/files/{file_id}")

    def files(self, **filters: str) -> Iterator[File]:
        """Yield all Files, newest first.

        Args:
            filters: `status`, `mode`, `name` for a part of the name, `subject` for a user, and
                `**{"metadata.order": "17"}` for metadata.
        """
        path = f"/files?{urlencode(filters)}"
        while path:
            page = self._ask("GET", path).json()
            yield from map(_as_file, page["files"])
            path = page["next"]

    def download(self, file_id: str, target: str | os.PathLike[str]) -> None:
        """Download a file's content to a path, completely or not at all.

        What breaks off goes on where it was.

        Raises:
            ClientError: what came is not what the service received.
        """
        part = Path(f"{os.fspath(target)}.part")
        try:
            with part.open("w+b") as file:
                self.patiently(lambda: self._fetch(f"/files/{file_id}/content", file))
                file.seek(0)
                if self.file(file_id).sha256 not in (None, hashlib.file_digest(file, "sha256").hexdigest()):
                    raise ClientError("The download is damaged.")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def _fetch(self, path: str, file: IO[bytes]) -> None:
        """Append the missing rest of a content, or write it from the start if the server sends all of it."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={file.tell()}-"} if file.tell() else {})
        with self.once("GET", path, stream=True, allow_redirects=True, headers=headers) as answer:
            if answer.status_code != HTTPStatus.PARTIAL_CONTENT:
                file.seek(0)
                file.truncate()
            try:
                for chunk in answer.iter_content(CHUNK_BYTES):
                    file.write(chunk)
            except requests.RequestException as error:
                raise Unreachable("The download broke off.") from error

    def _file(self, answer: requests.Response) -> File:
        try:
            return _as_file(answer.json())
        except (ValueError, AttributeError) as error:
            raise ClientError(f"What answers at {self.address} is no Ferryman.") from error

    def _ask(self, method: str, path: str, **request: Any) -> requests.Response:
        return self.patiently(lambda: self.once(method, path, **request))

    def patiently(self, call: Callable[[], Result]) -> Result:
        """Call, with retries while patience lasts.

        Args:
            call: raises a ClientError whose `retry_after` says if it is worth another try.
        """
        left, pause = self._patience, PAUSE_SECONDS
        while True:
            try:
                return call()
            except ClientError as error:
                if error.retry_after is None:
                    raise
                seconds = max(error.retry_after, pause * random.uniform(0.5, 1.5))
                if seconds > left:
                    raise
                log.warning("%s Trying again in %.1f s.", error, seconds)
            time.sleep(seconds)
            left, pause = left - seconds, min(pause * 2, MAX_PAUSE_SECONDS)

    def once(self, method: str, path: str, **request: Any) -> requests.Response:
        """Send one request, with the credential.

        Args:
            method: HTTP method.
            path: at the service, with its query.
            request: as `requests.Session.request` takes it.

        Raises:
            Problem: the service refuses.
            Unreachable: it does not answer.
        """
        request = {"allow_redirects": False, "timeout": (CONNECT_SECONDS, ANSWER_SECONDS), **request}
        had_token = self._session.auth is not None
        if self._fetch_token and not had_token:
            self._session.auth = _Bearer(self._fetch_token())
        answer = self._send(method, path, **request)
        if answer.status_code == HTTPStatus.UNAUTHORIZED and self._fetch_token and had_token:
            self._session.auth = _Bearer(self._fetch_token())
            answer = self._send(method, path, **request)
        if answer.status_code < 300 or answer.status_code == HTTPStatus.NOT_MODIFIED:
            return answer
        raise _problem(answer, is_upload="data" in request)

    def _send(self, method: str, path: str, **request: Any) -> requests.Response:
        try:
            return self._session.request(method, self.address + path, **request)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise Unreachable(f"{self.address} does not answer.") from error


class _Bearer(AuthBase):
    """Sends the key; a plain header would be replaced from ~/.netrc."""

    def __init__(self, key: str) -> None:
        if not set(key) <= set(string.ascii_letters + string.digits + "-._~+/="):  # RFC 6750, section 2.1
            raise ValueError("The key holds characters that no key has.")
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class _Form:
    """One file as multipart/form-data, with texts in front, read again for every attempt (RFC 7578)."""

    def __init__(self, stream: IO[bytes], name: str, on_progress: Progress, fields: Mapping[str, str]) -> None:
        boundary = secrets.token_hex(16)
        texts = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{text}\r\n'
            for field, text in fields.items()
        )
        field = RequestField("file", b"", name)
        field.make_multipart()
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._head = f"{texts}--{boundary}\r\n{field.render_headers()}".encode(errors="replace")
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._stream = stream
        self._start = stream.tell()
        self._size = stream.seek(0, os.SEEK_END) - self._start
        self._version = version_of(stream)
        self._on_progress = on_progress

    def __len__(self) -> int:
        return len(self._head) + self._size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        self._stream.seek(self._start)
        sent = 0
        yield self._head
        while sent < self._size:
            chunk = self._stream.read(min(CHUNK_BYTES, self._size - sent))
            if not chunk:
                raise ClientError(CHANGED)
            self._on_progress(sent, self._size)
            yield chunk
            sent += len(chunk)
        if version_of(self._stream) != self._version:  # without its end the form is refused
            raise ClientError(CHANGED)
        yield self._tail
        self._on_progress(sent, self._size)


def option_fields(
    metadata: Mapping[str, str] | None, expires_in: int | None, process: Sequence[str]
) -> dict[str, str]:
    """Return what is asked for with an upload, as the service reads it in a form's fields and elsewhere."""
    fields = {"metadata": json.dumps(dict(metadata))} if metadata else {}
    fields |= {"expires_in": str(expires_in)} if expires_in is not None else {}
    return fields | ({"process": ",".join(process)} if process else {})


def version_of(stream: IO[bytes]) -> tuple[int, int] | None:
    """Return the size and time of the stream's file, which change when it is written; None without a file."""
    try:
        found = os.fstat(stream.fileno())
    except (AttributeError, OSError):
        return None
    return found.st_size, found.st_mtime_ns


def _spooled(stream: IO[bytes]) -> IO[bytes]:
    """Copy a stream that can be read only once into a temporary file."""
    kept = tempfile.TemporaryFile()
    shutil.copyfileobj(stream, kept)
    kept.seek(0)
    return kept


def _as_file(body: dict[str, Any]) -> File:
    if not body.get("id"):
        raise ValueError("A File has an id.")
    return File._make(map(body.get, File._fields))


def _problem(answer: requests.Response, is_upload: bool) -> Problem:
    """Return the problem in a response, and if a retry may succeed."""
    is_told = answer.headers.get("Content-Type", "").startswith("application/problem+json")
    body = answer.json() if is_told else {}
    detail = body.get("detail") or f"The service answers {answer.status_code} {answer.reason}."
    problem = Problem(answer.status_code, detail, body.get("file_id"))
    # The upload's Idempotency-Key is its own, so a conflict is with its own earlier try. What has a File does not
    # change by being sent again.
    may_pass = problem.status in RETRYABLE or (is_upload and problem.status == HTTPStatus.CONFLICT)
    if may_pass and not problem.file_id:
        problem.retry_after = _seconds(answer.headers.get("Retry-After", "0"))
    return problem


def _seconds(retry_after: str) -> float:
    try:
        return Retry().parse_retry_after(retry_after)
    except InvalidHeader:
        return 0
