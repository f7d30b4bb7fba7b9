"""What an upload is: its name, media type and key, and the transfer of its bytes to S3."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from werkzeug.utils import secure_filename

from config import MIB
from core.errors import BytesLost, InvalidUpload, StoreError
from storage.checksum import Crc64Nvme
from storage.parts import PartsUpload
from storage.s3.requests import ObjectInfo
from storage.section import CHUNK_BYTES, Section
from storage.store import Progress, Store

MAX_NAME_BYTES = 255  # as in most file systems
MAX_STEM = 100
MAX_EXTENSION = 16
MAX_CONTENT_TYPE = 255
# A part costs a request and a second read for its checksum, so only large files have parts.
ONE_REQUEST_BYTES = 128 * MIB
BESIDE_BYTES = 1 * MIB
STEM = r"\d{14}--.{1,100}-[0-9a-f]{16}"
INCOMING = "incoming/"
"""The folder of what clients may still replace; the files there have the ids of their uploads."""
KEY = re.compile(
    rf"{STEM}\..{{1,16}}|{INCOMING}[0-9a-f]{{32}}|derived/{STEM}/[a-z0-9_-]{{1,32}}-[0-9a-f]{{8}}\.[a-z.]{{1,16}}"
    r"|lake/[a-z0-9_]{1,140}/ingest_date=\d{4}-\d\d-\d\d/part-[0-9a-f]{32}\.parquet",
    re.ASCII,
)
"""Of originals, of what comes in by forms, of what is made of them, and of the parts of tables."""
VAGUE_TYPES = {
    "application/x-empty",
    "application/octet-stream",
    "text/plain",
    "text/csv",
    "application/xml",
}
"""Detected media types that the bytes of many formats look like."""
TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
MEDIA_TYPE = re.compile(
    rf'{TOKEN}/{TOKEN}[ \t]*(?:;[ \t]*(?:{TOKEN}=(?:{TOKEN}|"[ !#-\[\]-~]*")[ \t]*)?)*', re.ASCII
)
"""RFC 9110, section 8.3.1, without quoted pairs."""


class Uploaded(NamedTuple):
    """A finished transfer: the object's URL, and the hexadecimal SHA-256 of the sent bytes if it was computed."""

    url: str
    sha256: str | None


def rename_file(filename: str, now: datetime | None = None, content_type: str = "application/octet-stream") -> str:
    """Return a new object key for a file: UTC timestamp, `--`, safe name, random part, extension.

    Args:
        filename: the name as the client sent it; may be anything.
        now: the moment in the key; by default the present one.
        content_type: its media type, which gives the key an extension where the name has none.

    Raises:
        InvalidUpload: the name is empty, or holds a NUL.
    """
    name = _last_part(filename)
    stem, _, extension = name.rpartition(".")
    if not stem.strip(". ") or not extension.strip():  # as of Makefile, .profile, and a name that ends in a dot
        stem, extension = name, (mimetypes.guess_extension(content_type.partition(";")[0]) or "").strip(".")
    stem = secure_filename(stem.lower())[:MAX_STEM] or "file"
    extension = secure_filename(extension.lower())[:MAX_EXTENSION] or "bin"
    timestamp = (now or datetime.now(UTC)).strftime("%Y%m%d%H%M%S")
    return f"{timestamp}--{stem}-{secrets.token_hex(8)}.{extension}"


def check_name(filename: str) -> None:
    """Check that a file can have a name.

    Args:
        filename: the name as the client sent it; may be anything.

    Raises:
        InvalidUpload: the name is empty, too long, or holds a NUL or half a character.
    """
    try:
        size = len(filename.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        raise InvalidUpload("The file's name holds half a character.") from None
    if size > MAX_NAME_BYTES:
        raise InvalidUpload(f"A file name must not exceed {MAX_NAME_BYTES} bytes.")
    _last_part(filename)


def _last_part(filename: str) -> str:
    """Return the last part of a file's name, without the folders in front of it."""
    name = PurePosixPath(filename.replace("\\", "/")).name.strip()
    if not name.strip("."):
        raise InvalidUpload("The file has no name.")
    if "\0" in filename:
        raise InvalidUpload("The file's name holds a NUL character.")
    return name


def is_own_key(key: str) -> bool:
    """Returns True if the service could have made the key."""
    return KEY.fullmatch(key) is not None


def media_type(declared: str | None, filename: str) -> str:
    """Return the media type of a file: as declared, or else guessed from its name.

    Parameters that RFC 9110 does not allow, such as `codecs=vp8,opus` without quotes, are left out.

    Args:
        declared: the part's Content-Type, if it has one; a range such as `image/*` declares nothing.
        filename: the name as the client sent it.

    Raises:
        InvalidUpload: the declared one is no media type.
    """
    whole = (declared or "").strip(" \t;")
    essence = whole.partition(";")[0].rstrip(" \t")
    if not whole or "*" in essence:
        extension = filename.rpartition(".")[2]
        return mimetypes.guess_type(f"file.{extension}")[0] or "application/octet-stream"
    for content_type in (whole, essence):
        if len(content_type) <= MAX_CONTENT_TYPE and MEDIA_TYPE.fullmatch(content_type):
            return content_type
    raise InvalidUpload("The file's Content-Type is not a media type.")


def process_file_to_stream(file: BinaryIO, to_utf8: bool = False) -> BinaryIO | str:
    """Turn an open file into what a background job can be given: the article's step, for its callers.

    Args:
        file: a named file, open for reading; it stays open and where it is.
        to_utf8: give base64 text, for a Celery message, instead of a stream.

    Returns:
        The job's own stream over the same bytes, or their base64.
    """
    stream = open(file.name, "rb")
    if not to_utf8:
        return stream
    with stream:
        return base64.b64encode(stream.read()).decode()


def upload_file(
    store: Store, file: BinaryIO, info: ObjectInfo, on_progress: Progress = lambda sent: None
) -> Uploaded:
    """Upload an open file to S3, in the caller's thread.

    Args:
        store: where to.
        file: a file, or a stream in memory; it is read whole and closed.
        info: what the object must be.
        on_progress: called with a number of bytes whenever so many more are sent.

    Raises:
        BytesLost: the file's bytes are not those that were received.
        StoreError: S3 did not take the bytes.
    """
    with file:
        if isinstance(file, BytesIO) or info.size < BESIDE_BYTES:
            sha256 = _digest(iter(partial(file.read, CHUNK_BYTES), b""), info)
            file.seek(0)
            return Uploaded(store.put(file, info, on_progress), sha256)
        # Reading a larger file for its digest takes as long as sending it over a fast link.
        with ThreadPoolExecutor(1) as beside:
            digested = beside.submit(_digest, Section(file.fileno(), 0, info.size).chunks(), info)
            try:
                url = _put(store, file, info, on_progress)
            except StoreError:
                digested.result()  # what was damaged in the spool is no fault of S3
                raise
            return Uploaded(url, digested.result())


def _put(store: Store, file: BinaryIO, info: ObjectInfo, on_progress: Progress) -> str:
    if info.size <= ONE_REQUEST_BYTES:
        return store.put(file, info, on_progress)
    return PartsUpload(store, Path(file.name), info.key, info.content_type, info.size).finish(info, on_progress)


def adopt_file(store: Store, info: ObjectInfo, on_progress: Progress = lambda sent: None) -> Uploaded:
    """Accept an object that S3 already holds, for a file without bytes in the spool, as after a restored database.

    Args:
        store: where it may be.
        info: what the object must be.
        on_progress: called with a number of bytes whenever so many more are read, for the digest.

    Raises:
        BytesLost: it is not there, or has other bytes.
        StoreError: S3 does not say.
    """
    if not store.holds(info, on_progress):
        raise BytesLost("The bytes are not in the spool.")
    chunks = store.read(info.key, 0, info.size) if info.size else iter(())
    return Uploaded(store.url(info.key), _digest(_with_progress(chunks, on_progress), info))


def digest_file(file: BinaryIO, info: ObjectInfo) -> str:
    """Return the hexadecimal SHA-256 of a file.

    Args:
        file: an open file, which is read whole and closed.
        info: what it must hold.

    Raises:
        BytesLost: the file's bytes are not those that were received.
    """
    with file:
        return _digest(Section(file.fileno(), 0, info.size).chunks(), info)


def _with_progress(chunks: Iterator[bytes], on_progress: Progress) -> Iterator[bytes]:
    for chunk in chunks:
        on_progress(len(chunk))
        yield chunk


def _digest(chunks: Iterator[bytes], info: ObjectInfo) -> str:
    """Return the SHA-256 of the bytes, which must match the received ones."""
    sha256, crc, size = hashlib.sha256(), Crc64Nvme(), 0
    for chunk in chunks:
        sha256.update(chunk)
        crc.update(chunk)
        size += len(chunk)
    if (size, crc.text()) != (info.size, info.crc64nvme):
        raise BytesLost("The bytes were damaged after they were received.")
    return sha256.hexdigest()


def upload_file_from_stream(
    store: Store, stream: BinaryIO | str, info: ObjectInfo, on_progress: Progress = lambda sent: None
) -> Uploaded:
    """Upload what `process_file_to_stream` made, a stream or base64 text: the article's step, for its callers.

    Raises:
        ValueError: the text is not base64.
        StoreError: S3 did not take the bytes.
    """
    source = BytesIO(base64.b64decode(stream, validate=True)) if isinstance(stream, str) else stream
    return upload_file(store, source, info, on_progress)
