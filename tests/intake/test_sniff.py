"""What a file is by its bytes, which types are taken, and what else of a request is bounded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from intake.sniff import HEAD_BYTES, FirstBytes, detect, refused_type
from tests.conftest import running_app
from tests.kit import zoo
from tests.kit.stack import BUCKET, Web

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MIB = 1024 * 1024


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_the_bytes_tell_the_type(kind: str) -> None:
    content, expected = zoo.KINDS[kind]
    assert detect(content[:HEAD_BYTES]) == expected


@pytest.mark.parametrize("size", [1, 7, 4096, 100_000])
@pytest.mark.parametrize("kind", ["xlsx", "a long CSV", "SVG after a long comment", "ELF", "empty"])
def test_the_size_of_the_chunks_does_not_matter(kind: str, size: int) -> None:
    content, expected = zoo.KINDS[kind]
    head = FirstBytes()
    for start in range(0, len(content), size):
        head.update(content[start : start + size])
    assert head.detect() == expected
    assert head.is_full == (len(content) >= HEAD_BYTES)


@given(st.sampled_from([content[:64] for content, _ in zoo.KINDS.values()]), st.binary(max_size=600))
def test_any_bytes_have_a_type(start: bytes, rest: bytes) -> None:
    for head in (rest, start + rest, start[: len(rest)]):
        assert detect(head).count("/") == 1


def test_threads_do_not_disturb_each_other() -> None:
    wrong: list[str] = []

    def look() -> None:
        for kind, (content, expected) in list(zoo.KINDS.items()) * 5:
            if detect(content[:HEAD_BYTES]) != expected:
                wrong.append(kind)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


IMAGES = ("image/*",)
TABLES = ("text/csv", "application/json", "application/x-custom")
TYPES = [
    # declared, detected, allowed, denied -> refused
    ("image/png", "image/png", (), (), None),
    ("image/png", "text/html", (), (), None),
    ("IMAGE/PNG", "image/png", IMAGES, (), None),
    ("image/png", "image/png", ("IMAGE/*",), (), None),
    ("text/html", "image/png", IMAGES, (), "text/html"),
    ('text/html; x="image/png"', "image/png", IMAGES, (), "text/html"),
    ("image/png", "text/html", IMAGES, (), "text/html"),
    ("image/png", "image/jpeg", ("image/png",), (), "image/jpeg"),
    ("image/png", "text/plain", IMAGES, (), "text/plain"),
    ("image/png", "text/plain", ("image/png", "text/plain"), (), "text/plain"),
    ("image/png", "application/octet-stream", ("*/*",), (), "application/octet-stream"),
    ("image/png", "application/x-empty", IMAGES, (), "application/x-empty"),
    ("application/pdf", "text/plain", ("application/pdf",), (), "text/plain"),
    ("application/zip", "application/octet-stream", ("application/zip",), (), "application/octet-stream"),
    ("audio/wav", "audio/x-wav", ("audio/wav",), (), None),
    ("text/csv", "text/plain", TABLES, (), None),
    ("text/csv; charset=utf-8", "text/csv", TABLES, (), None),
    ("text/csv", "application/octet-stream", TABLES, (), None),
    ("text/csv", "application/x-empty", TABLES, (), None),
    ("text/csv", "text/html", TABLES, (), "text/html"),
    ("text/csv", "application/zip", TABLES, (), "application/zip"),
    ("text/plain", "text/csv", ("text/plain",), (), None),
    ("application/json", "text/plain", TABLES, (), None),
    ("application/atom+xml", "application/xml", ("application/atom+xml",), (), None),
    ("application/x-custom", "application/octet-stream", TABLES, (), None),
    ("application/x-custom", "application/zip", TABLES, (), None),
    ("application/x-custom", "application/x-executable", TABLES, (), "application/x-executable"),
    ("application/vnd.ms-excel", "application/octet-stream", ("application/vnd.*",), (), None),
    ("application/octet-stream", "image/png", IMAGES, (), "application/octet-stream"),
    ("image/svg+xml", "image/svg+xml", (), ("image/svg+xml", "text/html"), "image/svg+xml"),
    ("image/png", "text/html", (), ("image/svg+xml", "text/html"), "text/html"),
    ("text/html", "text/plain", (), ("text/html",), "text/html"),
    ("image/svg+xml", "image/svg+xml", IMAGES, ("image/svg+xml",), "image/svg+xml"),
    ("image/png", "image/png", IMAGES, ("image/svg+xml",), None),
    (
        "application/msdownload",
        "application/octet-stream",
        (),
        ("application/x-msdownload",),
        "application/msdownload",
    ),
]


@pytest.mark.parametrize(("declared", "detected", "allowed", "denied", "refused"), TYPES)
def test_a_file_is_taken_if_both_types_are(
    declared: str, detected: str, allowed: tuple[str, ...], denied: tuple[str, ...], refused: str | None
) -> None:
    assert refused_type(declared, detected, allowed, denied) == refused


ZOO = [
    # name, declared, content -> declared type kept, detected, taken under an allow list of pictures and tables
    ("a.png", None, zoo.HTML, "image/png", "text/html", False),
    ("a.png", "image/png", zoo.PNG, "image/png", "image/png", True),
    ("a.png", "image/png", zoo.PNG + zoo.HTML, "image/png", "image/png", True),
    ("a.png", "image/png", zoo.SVG, "image/png", "image/svg+xml", False),
    ("a.svg", "image/svg+xml", zoo.SVG, "image/svg+xml", "image/svg+xml", False),
    ("a.svg", "image/svg+xml", b"<!--" + b"x" * 6000 + b"-->" + zoo.SVG, "image/svg+xml", "image/svg+xml", False),
    ("a.jpg", "image/jpeg", zoo.PNG, "image/jpeg", "image/png", True),
    ("a.gif", "image/gif", zoo.GIF_AND_JS, "image/gif", "image/gif", True),
    ("a.js", "text/javascript", zoo.GIF_AND_JS, "text/javascript", "image/gif", False),
    ("a.zip", None, b"no zip, but a text", "application/zip", "text/plain", False),
    ("bomb.zip", "application/zip", zoo.BIG_ZIP, "application/zip", "application/zip", False),
    ("a.png", "image/png", zoo.BIG_ZIP, "image/png", "application/zip", False),
    ("a.csv", "text/csv", b"a,b\n1,2\n", "text/csv", "text/csv", True),
    ("a.csv", "text/csv", zoo.EICAR, "text/csv", "text/plain", True),
    ("a.csv", "text/csv", zoo.elf(), "text/csv", "application/x-executable", False),
    ("a.csv", "text/csv", b"", "text/csv", "application/x-empty", True),
    ("a.png", "image/png", b"", "image/png", "application/x-empty", False),
    ("a.csv", "text/csv", b"#!/bin/sh\nrm -rf /\n", "text/csv", "text/x-shellscript", False),
]


def post(client: FlaskClient, name: str, declared: str | None, content: bytes) -> Any:
    # Not by Werkzeug's own forms, which are broken for an empty file.
    part = (name, content, declared) if declared else (name, content)
    form = requests.Request("POST", "http://x", files={"file": part}).prepare()
    return client.post("/normal_upload", data=form.body, content_type=form.headers["Content-Type"])


def test_both_types_are_kept(client: FlaskClient) -> None:
    for name, declared, content, kept, detected, _ in ZOO:
        answer = post(client, name, declared, content)
        assert answer.status_code == 201, answer.text
        assert (answer.json["content_type"], answer.json["detected_type"]) == (kept, detected), name
        again: Any = client.get(f"/files/{answer.json['id']}").json
        assert again["detected_type"] == detected


@pytest.fixture
def strict(env: dict[str, str]) -> Iterator[Flask]:
    lists = {"ALLOWED_CONTENT_TYPES": "image/*, text/csv", "DENIED_CONTENT_TYPES": "image/svg+xml, text/html"}
    with running_app({**env, **lists}) as running:
        yield running


def test_the_lists_hold_for_both_types(strict: Flask) -> None:
    client = strict.test_client()
    for name, declared, content, _, detected, taken in ZOO:
        answer = post(client, name, declared, content)
        assert answer.status_code == (201 if taken else 415), (name, declared, detected)


def test_stored_objects_are_downloads(client: FlaskClient, bucket: S3Client) -> None:
    for content in (zoo.HTML, zoo.HTML + b" " * 20 * MIB):
        row = post(client, "a.html", "text/html", content).json
        stored = bucket.head_object(Bucket=BUCKET, Key=row["key"])
        assert stored["ContentDisposition"] == "attachment"


@pytest.mark.parametrize(("name", "status"), [("a" * 251 + ".txt", 201), ("a" * 252 + ".txt", 400)])
def test_a_name_has_a_limit(client: FlaskClient, name: str, status: int) -> None:
    assert post(client, name, "text/plain", b"x").status_code == status


def test_a_name_is_counted_in_bytes(client: FlaskClient) -> None:
    answer = post(client, "報" * 84 + ".txt", "text/plain", b"x")
    assert answer.status_code == 400
    assert "255 bytes" in answer.json["detail"]


def peak_memory(web: Web) -> int:
    """The most memory that a process of the web server has ever held, in bytes."""
    peaks = []
    for process in psutil.Process(web.pid).children():
        status = Path(f"/proc/{process.pid}/status").read_text()
        peaks.append(int(status.partition("VmHWM:")[2].split()[0]) * 1024)
    return max(peaks)


def test_a_large_text_beside_the_file_takes_no_memory(env: dict[str, str], tmp_path: Path) -> None:
    web = Web(tmp_path, env)
    web.start()
    try:
        web.wait()
        assert web.upload("normal", "a.txt", b"to make what is made on first use").ok
        before = peak_memory(web)
        head = b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\n'
        file = b'\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nx\r\n--b--\r\n'
        answer = requests.post(
            f"{web.url}/async_upload",
            data=iter([head, *[b"x" * MIB] * 50, file]),
            headers={"Content-Type": "multipart/form-data; boundary=b"},
            timeout=30,
        )
        assert answer.status_code == 202, answer.text
        assert answer.json()["size"] == 1
        assert peak_memory(web) - before < 12 * MIB
    finally:
        web.stop()
