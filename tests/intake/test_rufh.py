"""Resumable Uploads for HTTP (the IETF's draft) through the real server, with two processes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.kit.stack import RedisServer, S3Server, Web, serving, wait_for
from tests.kit.tus import Answer, Tus

MIB = 1024 * 1024
LIMIT = 16 * MIB
CONTENT = os.urandom(2 * MIB)
PARTIAL = "application/partial-upload"
PROBLEM = "https://iana.org/assignments/http-problem-types#"


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(
        tmp_path_factory.mktemp("rufh"),
        s3,
        redis_server,
        workers=2,
        MAX_CONTENT_LENGTH=str(LIMIT),
        DENIED_CONTENT_TYPES="text/html",
    ) as web:
        yield web


@pytest.fixture
def client(web: Web) -> Tus:
    """A client of both protocols; here it says nothing of tus."""
    return Tus(web.url, **{"Tus-Resumable": None})  # type: ignore[arg-type]


def begin(client: Tus, body: bytes = b"", path: str = "/async_upload?name=a.bin", **headers: str) -> Answer:
    return client.ask("POST", path, body, **{"Upload_Complete": "?0", **headers})


def begun(client: Tus, body: bytes = b"", **headers: str) -> str:
    answer = begin(client, body, **headers)
    assert answer.status == 201, answer
    return answer.headers["Location"]


def patch(client: Tus, path: str, offset: int, body: Any, complete: str = "?0", **headers: str | None) -> Answer:
    given = {"Upload_Offset": str(offset), "Upload_Complete": complete, "Content_Type": PARTIAL}
    return client.ask("PATCH", path, body, **{**given, **headers})


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


def content(web: Web, file_id: str) -> bytes:
    web.settled(file_id)
    return requests.get(f"{web.url}/files/{file_id}/content?proxy=1", timeout=30).content


@pytest.mark.parametrize(("mode", "status"), [("normal", 201), ("async", 202), ("celery", 202)])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_whole_upload_is_answered_as_ever(web: Web, client: Tus, mode: str, status: int, framing: str) -> None:
    body: Any = CONTENT if framing == "length" else iter([CONTENT[:MIB], CONTENT[MIB:]])
    answer = client.ask("PUT", f"/{mode}_upload/a.bin", body, Upload_Complete="?1")
    shown = json.loads(answer.body)
    assert (answer.status, answer.headers["Upload-Complete"]) == (status, "?1")
    assert answer.headers["Upload-Limit"].startswith(f"max-size={LIMIT}, min-size=0, max-age=")
    assert answer.headers["Location"] == f"/files/{shown['id']}"
    assert (shown["name"], shown["size"], shown["mode"]) == ("a.bin", len(CONTENT), mode)
    if mode != "celery":
        assert content(web, shown["id"]) == CONTENT
    head = client.ask("HEAD", answer.headers["Location"])
    assert (head.status, head.headers["Upload-Complete"], head.offset) == (200, "?1", len(CONTENT))


@pytest.mark.parametrize(("mode", "status"), [("normal", 201), ("async", 202)])
def test_an_upload_in_three_pieces(web: Web, client: Tus, mode: str, status: int) -> None:
    answer = begin(client, CONTENT[:100], f"/{mode}_upload?name=b.bin", Upload_Length=str(len(CONTENT)))
    assert (answer.status, answer.headers["Upload-Complete"], answer.offset) == (201, "?0", 100)
    path = answer.headers["Location"]
    assert path.startswith("/uploads/")
    answer = patch(client, path, 100, CONTENT[100:MIB])
    assert (answer.status, answer.headers["Upload-Complete"], answer.offset) == (204, "?0", MIB)
    for method in ("HEAD", "GET"):
        answer = client.ask(method, path)
        assert (answer.status, answer.headers["Upload-Complete"], answer.offset) == (204, "?0", MIB)
        assert answer.headers["Upload-Length"] == str(len(CONTENT))
        assert answer.headers["Cache-Control"] == "no-store"
        assert "max-age=" in answer.headers["Upload-Limit"]
    answer = patch(client, path, MIB, CONTENT[MIB:], "?1")
    assert (answer.status, answer.headers["Upload-Complete"]) == (status, "?1"), answer
    shown = json.loads(answer.body)
    assert shown["id"] == id_of(path)
    assert content(web, shown["id"]) == CONTENT
    assert client.ask("HEAD", path).headers["Upload-Complete"] == "?1"
    again = patch(client, path, len(CONTENT), b"", "?1")
    assert (again.status, again.headers["Upload-Complete"]) == (status, "?1")
    more = patch(client, path, len(CONTENT), b"x", "?1")
    assert (more.status, more.headers["Upload-Complete"]) == (400, "?1")
    assert json.loads(more.body)["type"] == PROBLEM + "completed-upload"


def test_the_length_may_be_unknown_until_the_end(web: Web, client: Tus) -> None:
    path = begun(client, b"abc")
    assert "Upload-Length" not in client.ask("HEAD", path).headers
    assert patch(client, path, 3, b"def").offset == 6
    answer = patch(client, path, 6, b"", "?1")
    assert (answer.status, answer.headers["Upload-Complete"]) == (202, "?1")
    assert content(web, id_of(path)) == b"abcdef"


def test_all_bytes_are_not_the_end_before_the_client_says_so(client: Tus) -> None:
    path = begun(client, b"abc", Upload_Length="3")
    answer = client.ask("HEAD", path)
    assert (answer.headers["Upload-Complete"], answer.offset) == ("?0", 3)
    assert patch(client, path, 3, b"", "?1").status == 202


@pytest.mark.parametrize("value", ["1", "?2", "true", "?1, ?0", ""])
def test_a_header_that_is_none_is_passed_over(client: Tus, value: str) -> None:
    answer = client.ask("POST", "/async_upload?name=a.bin", b"abc", Upload_Complete=value, Content_Type="a/b")
    assert answer.status == 202
    assert "Upload-Complete" not in answer.headers


def test_parameters_are_passed_over(client: Tus) -> None:
    assert begin(client, b"abc", Upload_Complete="?0;x=y").status == 201
    assert begin(client, b"abc", Upload_Complete="?1;x=y").status == 202


def test_a_form_is_a_form_all_the_same(web: Web) -> None:
    files = {"file": ("a.txt", b"hello")}
    answer = requests.post(f"{web.url}/async_upload", files=files, headers={"Upload-Complete": "?1"}, timeout=20)
    assert (answer.status_code, answer.json()["name"]) == (202, "a.txt")


def test_a_wrong_offset_says_the_right_one(client: Tus) -> None:
    path = begun(client, b"abc")
    answer = patch(client, path, 2, b"cd")
    assert (answer.status, answer.headers["Upload-Complete"], answer.offset) == (409, "?0", 3)
    problem = json.loads(answer.body)
    assert problem["type"] == PROBLEM + "mismatching-upload-offset"
    assert (problem["expected-offset"], problem["provided-offset"]) == (3, 2)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Type": "application/octet-stream"}, 415),
        ({"Content_Encoding": "gzip"}, 415),
        ({"Upload_Offset": None}, 400),
        ({"Upload_Offset": "x"}, 400),
        ({"Upload_Offset": "-1"}, 400),
        ({"Upload_Complete": None}, 400),
        ({"Upload_Complete": "yes"}, 400),
        ({"Upload_Length": "ten"}, 400),
        ({"Upload_Length": "2"}, 400),
        ({"Content_Digest": "sha-256=:AAAA:"}, 400),
    ],
)
def test_a_wrong_patch_changes_nothing(client: Tus, headers: dict[str, Any], status: int) -> None:
    path = begun(client, b"abc", Upload_Length="9")
    answer = patch(client, path, 3, b"def", **headers)
    assert (answer.status, answer.headers["Upload-Complete"]) == (status, "?0"), answer
    assert client.ask("HEAD", path).offset == 3


def test_lengths_must_agree(client: Tus) -> None:
    answer = begin(client, b"abc", Upload_Complete="?1", Upload_Length="4")
    assert (answer.status, answer.headers["Upload-Complete"]) == (400, "?0")
    assert json.loads(answer.body)["type"] == PROBLEM + "inconsistent-upload-length"
    path = begun(client, b"abc", Upload_Length="9")
    cases: Any = ((b"de", {"complete": "?1"}), (b"de", {"Upload_Length": "8"}))
    for body, headers in cases:
        answer = patch(client, path, 3, body, **headers)
        assert (answer.status, answer.headers["Upload-Complete"]) == (400, "?0")
        assert json.loads(answer.body)["type"] == PROBLEM + "inconsistent-upload-length"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_more_than_the_length_ends_the_upload(client: Tus, framing: str) -> None:
    path = begun(client, b"abc", Upload_Length="5")
    answer = patch(client, path, 3, b"defg" if framing == "length" else iter([b"de", b"fg"]))
    assert (answer.status, answer.headers["Upload-Complete"]) == (400, "?0")
    assert client.ask("HEAD", path).status == 410


def test_over_the_limit_comes_first(client: Tus) -> None:
    answer = begin(client, b"abc", Upload_Complete="?1", Upload_Length=str(LIMIT + 1))
    assert answer.status == 413
    assert f"max-size={LIMIT}" in answer.headers["Upload-Limit"]


def test_questions_carry_no_state(client: Tus) -> None:
    path = begun(client, b"abc")
    assert client.ask("HEAD", path, Upload_Offset="3").status == 400
    assert client.ask("HEAD", path, Upload_Complete="?0").status == 400


def test_delete_ends_it(client: Tus) -> None:
    path = begun(client, b"abc")
    assert client.ask("DELETE", path).status == 204
    assert client.ask("HEAD", path).status == 410
    assert patch(client, path, 3, b"d").status == 410
    assert client.ask("HEAD", "/uploads/" + "0" * 32).status == 404


@pytest.mark.parametrize("path", ["/async_upload", "/normal_upload", "/uploads"])
def test_limits_are_told_to_all(client: Tus, path: str) -> None:
    answer = client.ask("OPTIONS", path)
    assert answer.headers["Upload-Limit"] == f"max-size={LIMIT}, min-size=0, max-age=86400"


def digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def test_digests_of_the_body_and_of_the_whole(web: Web, client: Tus) -> None:
    path = begun(client, b"abc", Repr_Digest=digest(b"abcdef"), Content_Digest=digest(b"abc"))
    assert patch(client, path, 3, b"def", "?1", Content_Digest=digest(b"def")).status == 202
    assert content(web, id_of(path)) == b"abcdef"
    other = begun(client, b"abc", Repr_Digest=digest(b"other"))
    answer = patch(client, other, 3, b"def", "?1")
    assert (answer.status, answer.headers["Upload-Complete"]) == (400, "?1")
    assert client.ask("HEAD", other).status == 410


def test_what_is_not_accepted_need_not_be_resumed(client: Tus) -> None:
    page = b"<!doctype html><html>" + b" " * 20_000
    answer = begin(client, page, Upload_Complete="?1")
    assert (answer.status, answer.headers["Upload-Complete"]) == (415, "?1")
    answer = begin(client, b"abc", "/async_upload?name=a.html", Content_Type="text/html")
    assert (answer.status, answer.headers["Upload-Complete"]) == (415, "?1")


class Raw:
    """A connection of which every byte is seen."""

    def __init__(self, web: Web) -> None:
        address = urlsplit(web.url)
        self.netloc = address.netloc
        self.sock = socket.create_connection((address.hostname, address.port), timeout=20)

    def send(self, start: str, body: bytes, *lines: str) -> None:
        head = "\r\n".join([start, f"Host: {self.netloc}", *lines, "", ""])
        self.sock.sendall(head.encode() + body)

    def head(self) -> tuple[str, dict[str, str]]:
        """Read one answer's head."""
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += (one := self.sock.recv(1))
            if not one:
                return "", {}
        first, *lines = data.decode().strip().split("\r\n")
        return first, dict(line.split(": ", 1) for line in lines)


@pytest.fixture
def raw(web: Web) -> Iterator[Raw]:
    raw = Raw(web)
    yield raw
    raw.sock.close()


@pytest.mark.parametrize("version", [6, 7, 8])
def test_the_address_is_announced_before_the_bytes(web: Web, client: Tus, raw: Raw, version: int) -> None:
    raw.send(
        "PUT /async_upload/a.bin HTTP/1.1",
        b"",
        f"Content-Length: {len(CONTENT)}",
        "Upload-Complete: ?1",
        f"Upload-Draft-Interop-Version: {version}",
    )
    status, headers = raw.head()
    assert status == "HTTP/1.1 104 Upload Resumption Supported"
    assert headers["Upload-Draft-Interop-Version"] == str(version)
    assert headers["Upload-Limit"].startswith(f"max-size={LIMIT}")
    path = urlsplit(headers["Location"]).path
    raw.sock.sendall(CONTENT[:MIB])
    time.sleep(0.2)
    raw.sock.shutdown(socket.SHUT_WR)
    assert raw.head() == ("", {})  # closed without an answer
    answer = client.ask("HEAD", path)
    assert answer.offset == MIB
    answer = patch(client, path, MIB, CONTENT[MIB:], "?1")
    assert answer.status == 202
    assert content(web, id_of(path)) == CONTENT


@pytest.mark.parametrize("version", ["3", "5", "9", "x", None])
def test_other_clients_get_no_interim_answer(raw: Raw, version: str | None) -> None:
    more = [f"Upload-Draft-Interop-Version: {version}"] if version else []
    raw.send("PUT /async_upload/a.bin HTTP/1.1", b"abc", "Content-Length: 3", "Upload-Complete: ?1", *more)
    status, headers = raw.head()
    assert status == "HTTP/1.1 202 ACCEPTED"
    assert "Upload-Draft-Interop-Version" not in headers


def test_a_stalled_writer_is_taken_over(web: Web, client: Tus, raw: Raw) -> None:
    path = begun(client, b"", Upload_Length=str(len(CONTENT)))
    lines = [f"Content-Type: {PARTIAL}", "Upload-Offset: 0", "Upload-Complete: ?1"]
    raw.send(f"PATCH {path} HTTP/1.1", CONTENT[:MIB], f"Content-Length: {len(CONTENT)}", *lines)
    time.sleep(0.3)
    assert client.ask("HEAD", path).offset == MIB
    assert patch(client, path, MIB, CONTENT[MIB:], "?1").status == 202
    assert content(web, id_of(path)) == CONTENT


def test_a_last_request_that_died_becomes_a_file(web: Web, client: Tus, raw: Raw) -> None:
    path = begun(client, b"abc", Upload_Length="6")
    file = Path(web.env["SPOOL_DIR"]) / f"{id_of(path)}.up"
    lines = [f"Content-Type: {PARTIAL}", "Upload-Offset: 3", "Upload-Complete: ?1"]
    raw.send(f"PATCH {path} HTTP/1.1", b"d", "Content-Length: 3", *lines)
    time.sleep(0.2)
    raw.sock.close()
    wait_for(lambda: client.ask("HEAD", path).offset == 4, what="kept byte")
    with file.open("ab") as grown:
        grown.write(b"ef")
    assert client.ask("HEAD", path).headers["Upload-Complete"] == "?1"
    assert content(web, id_of(path)) == b"abcdef"


def test_creation_is_repeatable_with_a_key(client: Tus) -> None:
    first = begin(client, b"abc", Idempotency_Key="rufh-1")
    second = begin(client, b"abc", Idempotency_Key="rufh-1")
    assert (second.status, second.headers["Location"]) == (201, first.headers["Location"])
    assert second.offset == 3
    done = begin(client, b"abc", Idempotency_Key="rufh-2", Upload_Complete="?1")
    again = begin(client, b"abc", Idempotency_Key="rufh-2", Upload_Complete="?1")
    assert (done.status, again.status) == (202, 202)
    assert json.loads(done.body)["id"] == json.loads(again.body)["id"]
