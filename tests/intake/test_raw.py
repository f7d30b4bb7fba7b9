"""Files that are the whole body of a request, as curl and scripts send them, through the real server."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import pytest
import requests

from tests.kit.stack import RedisServer, S3Server, Web, serving, wait_for

CONTENT = b"%PDF-1.7 the bytes of a report\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
JAPANESE = "報告書.pdf"


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(
        tmp_path_factory.mktemp("raw"),
        s3,
        redis_server,
        MAX_CONTENT_LENGTH=str(1024 * 1024),
        DENIED_CONTENT_TYPES="text/html",
    ) as web:
        yield web


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: dict[str, Any]


def send(web: Web, method: str, path: str, body: Any = CONTENT, **headers: str) -> Answer:
    """Send a body by a client that adds nothing to it; `_` in a header's name is `-`."""
    connection = http.client.HTTPConnection(urlsplit(web.url).netloc, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), json.loads(answer.read()))
    finally:
        connection.close()


def listed(web: Web) -> list[str]:
    return [shown["id"] for shown in requests.get(f"{web.url}/files?limit=100", timeout=20).json()["files"]]


def curl(*words: str | Path) -> dict[str, Any]:
    done = subprocess.run(["curl", "-sS", "--max-time", "20", *words], capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("mode", ["normal", "async", "celery"])
def test_curl_sends_a_file_under_its_name(web: Web, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "report of may.pdf"
    path.write_bytes(CONTENT)
    shown = curl("-T", path, f"{web.url}/{mode}_upload/")
    assert (shown["name"], shown["content_type"], shown["size"]) == (path.name, "application/pdf", len(CONTENT))
    if mode != "celery":  # which has no worker here
        address = f"{web.url}/files/{shown['id']}/content?proxy=1"
        wait_for(lambda: requests.get(address, timeout=20).content == CONTENT, what="bytes in S3")


def test_curl_sends_what_has_no_length(web: Web) -> None:
    command = f"printf hello | curl -sS -T - -H 'Content-Type: text/plain' {web.url}/normal_upload/"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    shown = json.loads(done.stdout)
    assert (shown["name"], shown["size"], shown["upload_status"]) == ("upload.txt", 5, "COMPLETE")


NAMES = {
    "in the address": ("PUT", f"/async_upload/{quote(JAPANESE)}", {}, JAPANESE),
    "with folders": ("PUT", "/async_upload/2026/may.pdf", {}, "2026/may.pdf"),
    "with an escaped slash": ("PUT", "/async_upload/2026%2Fmay.pdf", {}, "2026/may.pdf"),
    "in filename*": (
        "POST",
        "/async_upload",
        {"Content_Disposition": f"attachment; filename=a.pdf; filename*=UTF-8''{quote(JAPANESE)}"},
        JAPANESE,
    ),
    "in filename": ("POST", "/async_upload", {"Content_Disposition": 'attachment; filename="a b.pdf"'}, "a b.pdf"),
    "in the query": ("POST", f"/async_upload?name={quote(JAPANESE)}", {}, JAPANESE),
    "the address wins": (
        "PUT",
        "/async_upload/a.pdf?name=b.pdf",
        {"Content_Disposition": "x; filename=c"},
        "a.pdf",
    ),
    "nowhere": ("POST", "/async_upload", {}, "upload.pdf"),
    "nowhere, by PUT": ("PUT", "/async_upload", {}, "upload.pdf"),
}


@pytest.mark.parametrize("place", NAMES)
def test_the_name_is_found(web: Web, place: str) -> None:
    method, path, headers, name = NAMES[place]
    answer = send(web, method, path, Content_Type="application/pdf", **headers)
    assert (answer.status, answer.body["name"], answer.body["content_type"]) == (202, name, "application/pdf")
    assert answer.headers["Location"] == f"/files/{answer.body['id']}"


def test_without_a_type_and_a_name_it_is_bytes(web: Web) -> None:
    answer = send(web, "PUT", "/async_upload")
    assert (answer.body["name"], answer.body["content_type"]) == ("upload.bin", "application/octet-stream")
    assert answer.body["detected_type"] == "application/pdf"


def test_an_empty_file_is_a_file(web: Web) -> None:
    answer = send(web, "PUT", "/normal_upload/empty.txt", b"")
    assert (answer.status, answer.body["size"]) == (201, 0)


def md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def sha256(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


REFUSED: dict[str, tuple[str, Any, dict[str, str], int, str]] = {
    "a range": ("/async_upload/a", CONTENT, {"Content_Range": "bytes 0-9/20"}, 400, "without Content-Range"),
    "compressed": ("/async_upload/a", CONTENT, {"Content_Encoding": "gzip"}, 415, "must not be compressed"),
    "a form by PUT": (
        "/async_upload/a",
        b"",
        {"Content_Type": "multipart/form-data; boundary=b"},
        415,
        "Post a form",
    ),
    "fields": (
        "/async_upload/a",
        b"a=1",
        {"Content_Type": "application/x-www-form-urlencoded"},
        415,
        "Post a form",
    ),
    "no type": ("/async_upload/a", CONTENT, {"Content_Type": "pdf"}, 400, "not a media type"),
    "too large": ("/async_upload/a", b"x" * (1024 * 1024 + 1), {}, 413, "must not exceed 1048576 bytes"),
    "too large, in chunks": ("/async_upload/a", [b"x" * 2**20, b"x"], {}, 413, "must not exceed 1048576 bytes"),
    "other bytes": ("/async_upload/a", CONTENT, {"Repr_Digest": sha256(b"others")}, 400, "match the Repr-Digest"),
    "other content": (
        "/async_upload/a",
        CONTENT,
        {"Content_Digest": sha256(b"x")},
        400,
        "match the Content-Digest",
    ),
    "another MD5": ("/async_upload/a", CONTENT, {"Content_MD5": md5(b"others")}, 400, "match the Content-MD5"),
    "a denied type": ("/async_upload/a.html", b"<html>", {}, 415, "text/html"),
    "a hidden denied type": ("/async_upload/a.txt", b"<html>", {}, 415, "text/html"),
    "a long name": (f"/async_upload/{'n' * 256}", CONTENT, {}, 400, "must not exceed 255 bytes"),
    "a name of dots": ("/async_upload/..", CONTENT, {}, 400, "no name"),
    "not UTF-8": ("/async_upload/%ff.txt", CONTENT, {}, 400, "must be UTF-8"),
    "half a header": ("/async_upload", CONTENT, {"Content_Disposition": "attachment; ="}, 400, "is malformed"),
    "wrong metadata": ("/async_upload/a", CONTENT, {"Ferryman_Metadata": "[1]"}, 400, "etadata"),
    "a wrong lifetime": ("/async_upload/a", CONTENT, {"Ferryman_Expires_In": "soon"}, 400, "expires_in"),
    "an unknown preset": ("/async_upload/a", CONTENT, {"Ferryman_Process": "nothing-of-the-kind"}, 400, "preset"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_and_nothing_stays(web: Web, case: str) -> None:
    path, body, headers, status, detail = REFUSED[case]
    before = listed(web)
    answer = send(web, "PUT", path, body, **headers)
    assert answer.status == status, answer
    assert detail in answer.body["detail"]
    assert listed(web) == before


def test_a_post_of_fields_is_no_file(web: Web) -> None:
    answer = send(web, "POST", "/async_upload", b"a=1", Content_Type="application/x-www-form-urlencoded")
    assert answer.status == 415


def test_right_digests_pass(web: Web) -> None:
    digests = {"Repr_Digest": sha256(CONTENT), "Content_Digest": sha256(CONTENT), "Content_MD5": md5(CONTENT)}
    answer = send(web, "PUT", "/normal_upload/a.pdf", **digests)
    assert (answer.status, answer.body["sha256"]) == (201, SHA256)


def test_options_come_by_headers(web: Web) -> None:
    words = json.dumps({"Straße": "Überweg"}, ensure_ascii=False).encode().decode("latin-1")
    answer = send(web, "PUT", "/async_upload/a.pdf", Ferryman_Metadata=words, Ferryman_Expires_In="3600")
    assert answer.body["metadata"] == {"Straße": "Überweg"}
    assert answer.body["expires_at"]


def test_two_puts_are_two_files_and_with_a_key_one(web: Web) -> None:
    first, second = (send(web, "PUT", "/async_upload/a.pdf").body["id"] for _ in range(2))
    assert first != second
    third, fourth = (send(web, "PUT", "/async_upload/a.pdf", Idempotency_Key="k1").body["id"] for _ in range(2))
    assert third == fourth
    assert send(web, "PUT", "/async_upload/b.pdf", Idempotency_Key="k1").status == 422


def test_an_early_refusal_costs_the_client_nothing(web: Web, tmp_path: Path) -> None:
    """curl waits for 100 Continue with a large body; it gets the answer instead."""
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(8 * 1024 * 1024))
    command = ["curl", "-sS", "-H", "Expect: 100-continue", "-T", str(path), "-w", "%{http_code} %{size_upload}"]
    done = subprocess.run(
        [*command, "-o", "/dev/null", f"{web.url}/async_upload/"], capture_output=True, check=True
    )
    assert done.stdout == b"413 0"


@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_half_a_body_is_no_file(web: Web, framing: str) -> None:
    before = listed(web)
    address = urlsplit(web.url)
    for end in (socket.SHUT_WR, socket.SHUT_RDWR):
        with socket.create_connection((address.hostname, address.port), timeout=20) as sock:
            head = f"PUT /async_upload/a.bin HTTP/1.1\r\nHost: {address.netloc}\r\n{framing}\r\n\r\n"
            sock.sendall(head.encode() + b"80\r\n" + bytes(0x80) + b"\r\n")
            sock.shutdown(end)
            if end == socket.SHUT_WR:
                assert b" 400 " in sock.recv(65536).partition(b"\r\n")[0]
    time.sleep(0.5)
    assert listed(web) == before
