"""Names, types and the article's four functions."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest

from config import Config
from core.errors import BytesLost, InvalidUpload, StoreError
from file import adopt_file, media_type, process_file_to_stream, rename_file, upload_file, upload_file_from_stream
from storage.store import Store
from tests.kit.objects import info_of
from tests.kit.stack import S3Server

KEY = re.compile(r"\d{14}--[A-Za-z0-9._-]{1,100}-[0-9a-f]{16}\.[a-z0-9_.-]{1,16}", re.ASCII)


@pytest.mark.parametrize(
    ("name", "stem", "extension"),
    [
        ("Report.PDF", "report", "pdf"),
        ("my holiday.tar.gz", "my_holiday.tar", "gz"),
        ("報告書.txt", "file", "txt"),
        ("Ünïcödé.TXT", "unicode", "txt"),
        ("очень.важно", "file", "bin"),
        ("../../etc/passwd.txt", "passwd", "txt"),
        (r"C:\Users\me\notes.txt", "notes", "txt"),
        ('a"quoted"; name.txt', "aquoted_name", "txt"),
        ("line\r\nbreak\x07.txt", "line_break", "txt"),
        ("-rf *.txt", "-rf", "txt"),
        ("<script>.html", "script", "html"),
        ("x" * 5000 + ".txt", "x" * 100, "txt"),
        ("x." + "y" * 5000, "x", "y" * 16),
        ("con.txt", "con", "txt"),
        ("\u202egnp.exe", "gnp", "exe"),
        ("Makefile", "makefile", "bin"),
        (".profile", "profile", "bin"),
        ("a.", "a", "bin"),
        ("a. ", "a", "bin"),
    ],
)
def test_any_name_makes_a_safe_key(name: str, stem: str, extension: str) -> None:
    key = rename_file(name, datetime(2026, 11, 25, 1, 2, 3, tzinfo=UTC))
    assert KEY.fullmatch(key), key
    assert key.startswith(f"20261125010203--{stem}-")
    assert key.endswith(f".{extension}")


def test_equal_names_in_one_instant_make_two_keys() -> None:
    now = datetime.now(UTC)
    assert len({rename_file("a.txt", now) for _ in range(1000)}) == 1000


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../..", "nul\0.txt"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidUpload):
        rename_file(name)


@pytest.mark.parametrize(
    ("declared", "name", "expected"),
    [
        ("image/png", "a.pdf", "image/png"),
        ("text/plain; charset=utf-8", "a.pdf", "text/plain; charset=utf-8"),
        ('text/plain;charset="utf-8"', "a.pdf", 'text/plain;charset="utf-8"'),
        (None, "a.pdf", "application/pdf"),
        ("", "a.PDF", "application/pdf"),
        (None, "a.unheardof", "application/octet-stream"),
    ],
)
def test_the_media_type_is_declared_or_guessed(declared: str | None, name: str, expected: str) -> None:
    assert media_type(declared, name) == expected


@pytest.mark.parametrize("declared", ["nonsense", "a/b/c", "a/b\nX: y", "ä/b", "a/" + "b" * 300])
def test_a_declared_type_that_is_none_is_refused(declared: str) -> None:
    with pytest.raises(InvalidUpload):
        media_type(declared, "a.txt")


CONTENT = b"\0\xff bytes" * 1000


@pytest.fixture
def spooled(tmp_path: Path) -> Path:
    path = tmp_path / "spooled"
    path.write_bytes(CONTENT)
    return path


def test_a_stream_for_a_thread_outlives_the_file_it_was_made_from(spooled: Path) -> None:
    with spooled.open("rb") as file:
        file.read(10)
        stream = process_file_to_stream(file)
        assert file.tell() == 10
    assert not isinstance(stream, str)
    with stream:
        assert stream.read() == CONTENT


def test_a_stream_for_celery_is_base64_text(spooled: Path) -> None:
    with spooled.open("rb") as file:
        stream = process_file_to_stream(file, to_utf8=True)
    assert isinstance(stream, str)
    assert base64.b64decode(stream) == CONTENT


@pytest.fixture
def store(s3: S3Server) -> Store:
    return Store(Config.from_mapping(s3.settings))


def test_upload_file_uploads_and_closes(store: Store, spooled: Path, tmp_path: Path) -> None:
    info = info_of(CONTENT, tmp_path)
    file = spooled.open("rb")
    uploaded = upload_file(store, file, info)
    assert file.closed
    assert uploaded == (store.url(info.key), hashlib.sha256(CONTENT).hexdigest())
    assert store.client.get_object(Bucket="tests", Key=info.key)["Body"].read() == CONTENT


@pytest.mark.parametrize("to_utf8", [False, True])
def test_upload_file_from_stream_takes_both_kinds(
    store: Store, spooled: Path, tmp_path: Path, to_utf8: bool
) -> None:
    info = info_of(CONTENT, tmp_path)
    with spooled.open("rb") as file:
        stream = process_file_to_stream(file, to_utf8)
    assert upload_file_from_stream(store, stream, info).sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert store.client.get_object(Bucket="tests", Key=info.key)["Body"].read() == CONTENT


def test_text_that_is_not_base64_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"[Bb]ase64"):
        upload_file_from_stream(store, "no base64!", info_of(CONTENT, tmp_path))


@pytest.mark.parametrize("content", [CONTENT, b""])
def test_a_file_that_only_s3_has_is_adopted(store: Store, tmp_path: Path, content: bytes) -> None:
    info = info_of(content, tmp_path)
    with pytest.raises(BytesLost, match="not in the spool"):
        adopt_file(store, info)
    uploaded = upload_file(store, BytesIO(content), info)
    assert adopt_file(store, info) == uploaded


@pytest.mark.parametrize("size", [1000, 20 * 1024 * 1024])
def test_s3_refuses_bytes_that_were_damaged_on_the_way(store: Store, tmp_path: Path, size: int) -> None:
    info = info_of(b"x" * size, tmp_path)
    with pytest.raises(StoreError, match="damaged"):
        store.put(BytesIO(b"x" * (size - 1) + b"y"), info)
    assert not store.holds(info)


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", CONTENT[:-1] + b"x"])
def test_bytes_that_were_damaged_in_the_spool_are_not_sent(store: Store, tmp_path: Path, content: bytes) -> None:
    info = info_of(CONTENT, tmp_path)
    with pytest.raises(BytesLost, match="damaged"):
        upload_file(store, BytesIO(content), info)
    assert not store.holds(info)


def test_a_right_object_is_adopted_and_a_wrong_one_never_overwritten(store: Store, tmp_path: Path) -> None:
    info = info_of(CONTENT, tmp_path)
    upload_file(store, BytesIO(CONTENT), info)
    first = store.client.head_object(Bucket="tests", Key=info.key)["LastModified"]
    upload_file(store, BytesIO(CONTENT), info)
    assert store.client.head_object(Bucket="tests", Key=info.key)["LastModified"] == first
    other = info_of(b"other", tmp_path)._replace(key=info.key)
    with pytest.raises(StoreError, match="other bytes under this key"):
        upload_file(store, BytesIO(b"other"), other)
    assert store.client.get_object(Bucket="tests", Key=info.key)["Body"].read() == CONTENT
