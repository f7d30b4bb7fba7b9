"""tus 1.0.0 through the real server, with two processes: every rule of its requests and answers."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.kit.stack import ROOT, RedisServer, S3Server, Web, serving, wait_for
from tests.kit.tus import BODY, Answer, Tus, checksum, metadata

MIB = 1024 * 1024
LIMIT = 32 * MIB
CONTENT = os.urandom(3 * MIB)
NAMED = metadata(filename="Bericht für Mai.bin", filetype="application/octet-stream")


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(
        tmp_path_factory.mktemp("tus"),
        s3,
        redis_server,
        workers=2,
        MAX_CONTENT_LENGTH=str(LIMIT),
        DENIED_CONTENT_TYPES="text/html",
        UPLOADS_UNFINISHED="1000",
        CLIENT_PATIENCE_SECONDS="8",
    ) as web:
        yield web


@pytest.fixture
def tus(web: Web) -> Tus:
    return Tus(web.url)


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


def content(web: Web, path: str) -> bytes:
    """The bytes of the File that an upload has become."""
    web.settled(id_of(path))
    return requests.get(f"{web.url}/files/{id_of(path)}/content?proxy=1", timeout=30).content


def detail(answer: Answer) -> str:
    found: str = json.loads(answer.body)["detail"]
    return found


def change(web: Web, statement: str, *values: object) -> None:
    """Change the database as time would."""
    path = web.env["SQLALCHEMY_DATABASE_URI"].removeprefix("sqlite:///")
    with sqlite3.connect(path, timeout=20) as connection:
        connection.execute(statement, values)


def spooled(web: Web, path: str) -> Path:
    return Path(web.env["SPOOL_DIR"]) / f"{id_of(path)}.up"


def test_it_says_what_it_speaks(tus: Tus) -> None:
    for path in ("/uploads", "/uploads/", f"/uploads/{'0' * 32}"):
        answer = tus.ask("OPTIONS", path, Tus_Resumable=None)
        assert (answer.status, answer.headers["Tus-Version"]) == (204, "1.0.0")
        assert answer.headers["Tus-Extension"] == (
            "creation,creation-with-upload,creation-defer-length,expiration,checksum,checksum-trailer,termination,"
            "concatenation,concatenation-unfinished"
        )
        assert answer.headers["Tus-Max-Size"] == str(LIMIT)
        assert answer.headers["Tus-Checksum-Algorithm"] == "crc32,md5,sha1,sha256,sha512"


@pytest.mark.parametrize("version", [None, "0.2.2", "1.0"])
def test_another_version_is_refused(tus: Tus, version: str | None) -> None:
    path = tus.begin(3)
    for method, address in (("POST", "/uploads"), ("HEAD", path), ("PATCH", path), ("DELETE", path)):
        answer = tus.ask(method, address, Tus_Resumable=version)
        assert (answer.status, answer.headers["Tus-Version"]) == (412, "1.0.0")


@pytest.mark.parametrize("mode", ["async", "celery"])
def test_a_file_in_three_pieces(web: Web, tus: Tus, mode: str) -> None:
    path = tus.begin(len(CONTENT), f"/uploads?mode={mode}", Upload_Metadata=NAMED)
    assert path.startswith("/uploads/")
    for start in range(0, len(CONTENT), MIB):
        assert tus.head(path).offset == start
        answer = tus.patch(path, start, CONTENT[start : start + MIB])
        assert (answer.status, answer.offset) == (204, start + MIB)
        assert ("Upload-Expires" in answer.headers) == (answer.offset < len(CONTENT))
    assert answer.headers["Content-Location"] == f"/files/{id_of(path)}"
    shown = web.file(id_of(path))
    assert (shown["name"], shown["mode"], shown["size"]) == ("Bericht für Mai.bin", mode, len(CONTENT))
    if mode == "async":
        assert content(web, path) == CONTENT
        assert web.file(id_of(path))["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    answer = tus.head(path)
    assert (answer.status, answer.offset, answer.headers["Upload-Length"]) == (
        200,
        len(CONTENT),
        str(len(CONTENT)),
    )
    assert tus.patch(path, len(CONTENT), b"").status == 204


def test_head_says_it_all(tus: Tus) -> None:
    path = tus.begin(10, Upload_Metadata=NAMED + ",also ,empty")
    answer = tus.head(path)
    assert (answer.status, answer.offset, answer.headers["Upload-Length"]) == (200, 0, "10")
    assert answer.headers["Upload-Metadata"] == NAMED + ",also ,empty"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Upload-Expires" in answer.headers
    assert "Upload-Defer-Length" not in answer.headers
    assert answer.headers["Tus-Resumable"] == "1.0.0"


def test_creation_with_the_whole_upload(web: Web, tus: Tus) -> None:
    answer = tus.ask("POST", "/uploads/", CONTENT, Upload_Length=str(len(CONTENT)), Content_Type=BODY)
    assert (answer.status, answer.offset) == (201, len(CONTENT))
    assert content(web, answer.headers["Location"]) == CONTENT
    assert web.file(id_of(answer.headers["Location"]))["name"] == "upload.bin"


def test_creation_with_the_first_bytes(web: Web, tus: Tus) -> None:
    answer = tus.ask("POST", "/uploads", CONTENT[:100], Upload_Length=str(len(CONTENT)), Content_Type=BODY)
    assert (answer.status, answer.offset) == (201, 100)
    assert tus.patch(answer.headers["Location"], 100, CONTENT[100:]).status == 204
    assert content(web, answer.headers["Location"]) == CONTENT


def test_an_empty_file_exists_at_once(web: Web, tus: Tus) -> None:
    path = tus.begin(0, Upload_Metadata="")
    assert content(web, path) == b""
    assert tus.head(path).offset == 0


DEFERRED: dict[str, Callable[[Tus, str], Answer]] = {
    "with the last bytes": lambda tus, path: tus.patch(path, 3, b"def", Upload_Length="6"),
    "after them": lambda tus, path: [tus.patch(path, 3, b"def"), tus.patch(path, 6, b"", Upload_Length="6")][1],
    "before them": lambda tus, path: [tus.patch(path, 3, b"", Upload_Length="6"), tus.patch(path, 3, b"def")][1],
}


@pytest.mark.parametrize("when", DEFERRED)
def test_the_length_comes_later(web: Web, tus: Tus, when: str) -> None:
    path = tus.begin(Upload_Defer_Length="1")
    assert tus.head(path).headers["Upload-Defer-Length"] == "1"
    tus.patch(path, 0, b"abc")
    answer = DEFERRED[when](tus, path)
    assert (answer.status, answer.offset) == (204, 6)
    assert content(web, path) == b"abcdef"


def test_the_length_is_fixed_then(tus: Tus) -> None:
    path = tus.begin(Upload_Defer_Length="1")
    tus.patch(path, 0, b"abc")
    assert tus.patch(path, 3, b"", Upload_Length="2").status == 400
    assert tus.patch(path, 3, b"", Upload_Length=str(LIMIT + 1)).status == 413
    assert tus.patch(path, 3, b"", Upload_Length="9").status == 204
    assert tus.head(path).headers["Upload-Length"] == "9"
    assert tus.patch(path, 3, b"", Upload_Length="8").status == 400
    assert tus.patch(path, 3, b"", Upload_Length="9").status == 204


CREATIONS: dict[str, tuple[dict[str, Any], int]] = {
    "no length": ({}, 400),
    "both lengths": ({"Upload_Length": "1", "Upload_Defer_Length": "1"}, 400),
    "deferred by another word": ({"Upload_Defer_Length": "true"}, 400),
    "a negative length": ({"Upload_Length": "-1"}, 400),
    "no number": ({"Upload_Length": "ten"}, 400),
    "digits of another script": ({"Upload_Length": "\u00b2"}, 400),
    "a length of 19 digits": ({"Upload_Length": "1" * 19}, 400),
    "over the limit": ({"Upload_Length": str(LIMIT + 1)}, 413),
    "metadata that is no base64": ({"Upload_Length": "1", "Upload_Metadata": "filename ***"}, 400),
    "a name twice": ({"Upload_Length": "1", "Upload_Metadata": "a YQ==,a YQ=="}, 400),
    "a name that is not ASCII": ({"Upload_Length": "1", "Upload_Metadata": "\u00e4 YQ=="}, 400),
    "a pair without a name": ({"Upload_Length": "1", "Upload_Metadata": "a YQ==,,b YQ=="}, 400),
    "long metadata": ({"Upload_Length": "1", "Upload_Metadata": "a " + "YQ==" * 1024}, 400),
    "a file name that is not UTF-8": ({"Upload_Length": "1", "Upload_Metadata": metadata(filename=b"\xff")}, 400),
    "a long file name": ({"Upload_Length": "1", "Upload_Metadata": metadata(filename="n" * 256)}, 400),
    "a name of nothing": ({"Upload_Length": "1", "Upload_Metadata": metadata(filename="..")}, 400),
    "a type that is none": ({"Upload_Length": "1", "Upload_Metadata": metadata(filetype="text")}, 400),
    "a denied type": ({"Upload_Length": "1", "Upload_Metadata": metadata(filetype="text/html")}, 415),
    "a wrong lifetime": ({"Upload_Length": "1", "Upload_Metadata": metadata(expires_in="x")}, 400),
    "half a concatenation": ({"Upload_Length": "1", "Upload_Concat": "part"}, 400),
    "nothing to join": ({"Upload_Concat": "final;"}, 400),
    "unknown parts": ({"Upload_Concat": f"final;/uploads/{'0' * 32}"}, 400),
    "another address": ({"Upload_Concat": f"final;/files/{'0' * 32}"}, 400),
    "a way out": ({"Upload_Concat": "final;/uploads/../../etc/passwd"}, 400),
}


@pytest.mark.parametrize("case", CREATIONS)
def test_what_is_wrong_is_refused(tus: Tus, case: str) -> None:
    headers, status = CREATIONS[case]
    answer = tus.create(**headers)
    assert answer.status == status, answer
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert detail(answer)


def test_normal_is_no_mode_of_tus(tus: Tus) -> None:
    assert tus.create(1, "/uploads?mode=normal").status == 400


PATCHES: dict[str, tuple[dict[str, str | None], int]] = {
    "another type": ({"Content_Type": "application/octet-stream"}, 415),
    "no type": ({"Content_Type": None}, 415),
    "no offset": ({"Upload_Offset": None}, 400),
    "an offset that is none": ({"Upload_Offset": "x"}, 400),
    "another offset": ({"Upload_Offset": "4"}, 409),
    "an unknown algorithm": ({"Upload_Checksum": "adler YQ=="}, 400),
    "half a checksum": ({"Upload_Checksum": "sha1"}, 460),
    "a checksum that is no base64": ({"Upload_Checksum": "sha1 ***"}, 400),
    "another digest": ({"Content_Digest": "sha-256=:" + base64.b64encode(bytes(32)).decode() + ":"}, 460),
    "another MD5": ({"Content_MD5": base64.b64encode(bytes(16)).decode()}, 460),
    "a digest that is none": ({"Content_Digest": "sha-256=x"}, 400),
    "compressed": ({"Content_Encoding": "gzip"}, 415),
    "another checksum": ({"Upload_Checksum": "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="}, 460),
}


@pytest.mark.parametrize("case", PATCHES)
def test_a_wrong_patch_changes_nothing(tus: Tus, case: str) -> None:
    path = tus.begin(6)
    tus.patch(path, 0, b"abc")
    headers, status = PATCHES[case]
    answer = tus.patch(path, 3, b"def", **headers)
    assert answer.status == status, answer
    if status == 409:
        assert answer.offset == 3
    assert tus.head(path).offset == 3


def test_more_than_the_length_is_refused(tus: Tus) -> None:
    path = tus.begin(6)
    assert tus.patch(path, 0, b"abcdefg").status == 413
    assert tus.head(path).offset == 0
    assert tus.patch(path, 0, iter([b"abcd", b"efg"])).status == 413
    assert tus.head(path).offset == 6


def test_unknown_uploads_are_not_found(tus: Tus) -> None:
    for name in ("0" * 32, "x", "..", "%2e%2e%2fetc"):
        for method in ("HEAD", "PATCH", "DELETE", "GET"):
            answer = tus.ask(method, f"/uploads/{name}", Content_Type=BODY, Upload_Offset="0")
            assert answer.status == 404, (method, name, answer)


@pytest.mark.parametrize("algorithm", ["crc32", "md5", "sha1", "sha256", "sha512"])
def test_a_right_checksum_passes(tus: Tus, algorithm: str) -> None:
    path = tus.begin(2 * MIB)
    answer = tus.patch(path, 0, CONTENT[:MIB], Upload_Checksum=checksum(algorithm, CONTENT[:MIB]))
    assert (answer.status, answer.offset) == (204, MIB)
    answer = tus.patch(path, MIB, CONTENT[:MIB], Upload_Checksum=checksum(algorithm, b"other"))
    assert answer.status == 460
    assert detail(answer)
    assert tus.head(path).offset == MIB


@pytest.mark.parametrize("trailer", ["right", "wrong", "absent"])
def test_a_checksum_in_the_trailer(web: Web, tus: Tus, trailer: str) -> None:
    path = tus.begin(MIB)
    right = f"Upload-Checksum: {checksum('sha256', CONTENT[:MIB])}\r\n"
    wrong = f"Upload-Checksum: {checksum('sha256', b'other')}\r\n"
    tail = {"right": right, "wrong": wrong, "absent": ""}[trailer]
    lines = ["PATCH " + path + " HTTP/1.1", f"Host: {urlsplit(web.url).netloc}", "Tus-Resumable: 1.0.0"]
    lines += [
        f"Content-Type: {BODY}",
        "Upload-Offset: 0",
        "Trailer: Upload-Checksum",
        "Transfer-Encoding: chunked",
    ]
    body = f"{MIB:x}\r\n".encode() + CONTENT[:MIB] + b"\r\n0\r\n" + tail.encode() + b"\r\n"
    address = urlsplit(web.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        assert answer.status == (204 if trailer == "right" else 460)
    assert tus.head(path).offset == (MIB if trailer == "right" else 0)


def test_what_arrived_of_a_broken_body_is_kept(web: Web, tus: Tus) -> None:
    path = tus.begin(len(CONTENT))
    with tus.stalled(path, 0, CONTENT[:MIB], len(CONTENT)):
        pass
    wait_for(lambda: tus.head(path).offset == MIB, what="kept bytes")
    assert tus.patch(path, MIB, CONTENT[MIB:]).status == 204
    assert content(web, path) == CONTENT


def test_of_a_broken_body_with_a_checksum_nothing_is_kept(tus: Tus) -> None:
    path = tus.begin(len(CONTENT))
    with tus.stalled(path, 0, CONTENT[:MIB], len(CONTENT), f"Upload-Checksum: {checksum('md5', CONTENT)}"):
        pass
    time.sleep(0.2)
    assert tus.head(path).offset == 0


def test_a_stalled_writer_is_taken_over_at_once(web: Web, tus: Tus) -> None:
    """By a HEAD that may meet either process."""
    times = []
    for _ in range(8):
        path = tus.begin(len(CONTENT))
        with tus.stalled(path, 0, CONTENT[:MIB], len(CONTENT)) as sock:
            began = time.monotonic()
            answer = tus.head(path)
            times.append(time.monotonic() - began)
            assert (answer.status, answer.offset) == (200, MIB)
            found = http.client.HTTPResponse(sock)
            found.begin()
            assert found.status == 503
        assert tus.patch(path, MIB, CONTENT[MIB:]).status == 204
    assert sorted(times)[4] < 2, times  # measured by the benchmark: some 30 ms
    assert content(web, path) == CONTENT


def test_a_client_that_stalls_keeps_what_it_sent(tus: Tus) -> None:
    path = tus.begin(len(CONTENT))
    with tus.stalled(path, 0, CONTENT[:MIB], len(CONTENT)) as sock:
        answer = http.client.HTTPResponse(sock)
        answer.begin()  # after CLIENT_PATIENCE_SECONDS
        assert answer.status == 503
    assert tus.head(path).offset == MIB


def test_of_several_writers_at_one_offset_one_wins(web: Web, tus: Tus) -> None:
    for _ in range(5):
        path = tus.begin(MIB)
        pieces = [os.urandom(MIB) for _ in range(4)]
        with ThreadPoolExecutor(len(pieces)) as pool:
            statuses = list(pool.map(lambda one, path=path: tus.patch(path, 0, one).status, pieces))
        won = [one for status, one in zip(statuses, pieces, strict=True) if status == 204]
        assert len(won) <= 1
        assert set(statuses) <= {204, 503, 409, 423}
        if won:
            assert content(web, path) == won[0]
        elif (offset := tus.head(path).offset) < MIB:  # each was stopped by the next
            assert tus.patch(path, offset, bytes(MIB - offset)).status == 204


def test_delete_ends_an_upload(web: Web, tus: Tus) -> None:
    path = tus.begin(len(CONTENT))
    tus.patch(path, 0, CONTENT[:MIB])
    assert tus.ask("DELETE", path).status == 204
    assert not spooled(web, path).exists()
    assert tus.head(path).status == 410
    assert tus.patch(path, MIB, CONTENT[MIB:]).status == 410
    assert tus.ask("DELETE", path).status == 410
    assert tus.ask("GET", path).status == 410


def test_delete_stops_a_writer(web: Web, tus: Tus) -> None:
    path = tus.begin(len(CONTENT))
    with tus.stalled(path, 0, CONTENT[:MIB], len(CONTENT)):
        assert tus.ask("DELETE", path).status == 204
        wait_for(lambda: not spooled(web, path).exists(), what="removed bytes")
    assert tus.head(path).status == 410


def test_delete_of_a_finished_upload_deletes_its_file(web: Web, tus: Tus) -> None:
    path = tus.begin(3)
    tus.patch(path, 0, b"abc")
    web.settled(id_of(path))
    assert tus.ask("DELETE", path).status == 204
    assert requests.get(f"{web.url}/files/{id_of(path)}", timeout=20).status_code == 404
    assert tus.ask("DELETE", path).status == 404


def test_get_shows_it_and_then_gives_the_bytes(web: Web, tus: Tus) -> None:
    path = tus.begin(6)
    tus.patch(path, 0, b"abc")
    shown = requests.get(web.url + path, timeout=20).json()
    assert (shown["offset"], shown["length"], shown["name"]) == (3, 6, "upload.bin")
    assert requests.get(f"{web.url}/files/{id_of(path)}", timeout=20).status_code == 404
    tus.patch(path, 3, b"def")
    web.settled(id_of(path))
    assert requests.get(web.url + path, timeout=20).content == b"abcdef"


@pytest.mark.parametrize("method", ["PATCH", "HEAD", "DELETE"])
def test_post_may_stand_for_other_methods(tus: Tus, method: str) -> None:
    path = tus.begin(3)
    more = {"Upload_Offset": "0", "Content_Type": BODY} if method == "PATCH" else {}
    answer = tus.ask("POST", path, b"abc" if more else None, X_HTTP_Method_Override=method, **more)
    assert answer.status == (200 if method == "HEAD" else 204)
    missing = tus.ask("POST", "/uploads/" + "0" * 32, X_HTTP_Method_Override=method)
    assert missing.status == 404


def test_an_upload_expires_and_then_is_gone(web: Web, tus: Tus) -> None:
    path = tus.begin(6)
    tus.patch(path, 0, b"abc")
    change(web, "UPDATE uploads SET expires_at = '2026-01-01 00:00:00.000000' WHERE id = ?", id_of(path))
    assert tus.head(path).status == 410
    assert not spooled(web, path).exists()
    other = tus.begin(6)
    tus.patch(other, 0, b"abc")
    change(web, "UPDATE uploads SET expires_at = '2026-01-01 00:00:00.000000' WHERE id = ?", id_of(other))
    wait_for(lambda: not spooled(web, other).exists(), 40, what="removed bytes")
    assert tus.head(other).status == 410


def test_an_upload_that_lost_its_bytes_is_gone(web: Web, tus: Tus) -> None:
    path = tus.begin(6)
    tus.patch(path, 0, b"abc")
    os.truncate(spooled(web, path), 2)
    assert tus.head(path).status == 410
    other = tus.begin(6)
    spooled(web, other).unlink()
    assert tus.head(other).status == 410


def test_a_finished_upload_whose_request_died_becomes_a_file(web: Web, tus: Tus) -> None:
    """As kill -9 leaves it: all bytes are on the disk, and nobody has said so."""
    path = tus.begin(6)
    tus.patch(path, 0, b"abc")
    with spooled(web, path).open("ab") as file:
        file.write(b"def")
    old = time.time() - 60
    os.utime(spooled(web, path), (old, old))
    wait_for(lambda: requests.get(f"{web.url}/files/{id_of(path)}", timeout=20).ok, 40, what="File")
    assert content(web, path) == b"abcdef"
    assert tus.head(path).offset == 6


@pytest.mark.parametrize("name", ["working", "last"])
def test_head_finishes_it_too(web: Web, tus: Tus, name: str) -> None:
    path = tus.begin(6)
    tus.patch(path, 0, b"abc")
    with spooled(web, path).open("ab") as file:
        file.write(b"def")
    if name == "last":  # killed between the renaming and the commit
        spooled(web, path).rename(spooled(web, path).with_suffix(""))
    assert tus.head(path).offset == 6
    assert content(web, path) == b"abcdef"


def test_the_bytes_tell_the_type_and_a_refused_one_ends_the_upload(web: Web, tus: Tus) -> None:
    page = b"<!doctype html><html>" + b" " * 20_000
    path = tus.begin(len(page), Upload_Metadata=metadata(filename="a.txt", filetype="text/plain"))
    answer = tus.patch(path, 0, page)
    assert (answer.status, tus.head(path).status) == (415, 410)
    assert not spooled(web, path).exists()
    short = tus.begin(15)
    assert tus.patch(short, 0, page[:15]).status == 415


def test_options_come_by_the_metadata(web: Web, tus: Tus) -> None:
    words = metadata(filename="a.txt", metadata=json.dumps({"album": "Ünterwegs"}), expires_in="3600")
    path = tus.begin(3, Upload_Metadata=words)
    tus.patch(path, 0, b"abc")
    shown = web.file(id_of(path))
    assert shown["metadata"] == {"album": "Ünterwegs"}
    assert shown["expires_at"]


def test_the_whole_file_has_a_digest(web: Web, tus: Tus) -> None:
    digest = base64.b64encode(hashlib.sha256(b"abcdef").digest()).decode()
    path = tus.begin(6, Repr_Digest=f"sha-256=:{digest}:")
    tus.patch(path, 0, b"abc")
    assert tus.patch(path, 3, b"def").status == 204
    wrong = tus.begin(6, Repr_Digest=f"sha-256=:{digest}:")
    assert tus.patch(wrong, 0, b"abcdeX").status == 400
    assert tus.head(wrong).status == 410


def test_creation_is_repeatable_with_a_key(tus: Tus) -> None:
    first = tus.create(3, Idempotency_Key="tus-1", Upload_Metadata=NAMED)
    second = tus.create(3, Idempotency_Key="tus-1", Upload_Metadata=NAMED)
    assert (second.status, second.headers["Location"]) == (201, first.headers["Location"])
    assert tus.create(4, Idempotency_Key="tus-1", Upload_Metadata=NAMED).status == 422


def parts(tus: Tus, *contents: bytes) -> list[str]:
    found = []
    for one in contents:
        path = tus.begin(len(one), Upload_Concat="partial")
        assert tus.patch(path, 0, one).status == 204
        found.append(path)
    return found


@pytest.mark.parametrize("absolute", [False, True])
def test_parts_are_joined(web: Web, tus: Tus, absolute: bool) -> None:
    found = parts(tus, CONTENT[:MIB], CONTENT[MIB : 2 * MIB], CONTENT[2 * MIB :])
    assert tus.head(found[0]).headers["Upload-Concat"] == "partial"
    assert requests.get(f"{web.url}/files/{id_of(found[0])}", timeout=20).status_code == 404
    addresses = " ".join(web.url + path if absolute else path for path in found)
    answer = tus.create(Upload_Concat=f"final;{addresses}", Upload_Metadata=NAMED)
    assert answer.status == 201, answer
    final = answer.headers["Location"]
    head = tus.head(final)
    assert (head.offset, head.headers["Upload-Length"]) == (len(CONTENT), str(len(CONTENT)))
    assert head.headers["Upload-Concat"] == f"final;{addresses}"
    assert content(web, final) == CONTENT
    assert web.file(id_of(final))["name"] == "Bericht für Mai.bin"
    assert not any(spooled(web, path).exists() for path in found)
    assert tus.patch(final, 0, b"x").status == 403


def test_a_part_may_come_twice(web: Web, tus: Tus) -> None:
    one, two = parts(tus, b"abc", b"de")
    final = tus.begin(Upload_Concat=f"final;{one} {two} {one}")
    assert content(web, final) == b"abcdeabc"


def test_unfinished_parts_are_joined_when_they_are_here(web: Web, tus: Tus) -> None:
    one, two = tus.begin(3, Upload_Concat="partial"), tus.begin(Upload_Concat="partial", Upload_Defer_Length="1")
    tus.patch(one, 0, b"abc")
    final = tus.begin(Upload_Concat=f"final;{one} {two}")
    head = tus.head(final)
    assert head.status == 200
    assert "Upload-Offset" not in head.headers
    assert "Upload-Length" not in head.headers
    tus.patch(two, 0, b"de", Upload_Length="2")
    wait_for(lambda: "Upload-Offset" in tus.head(final).headers, what="joined parts")
    assert content(web, final) == b"abcde"


def test_only_parts_can_be_joined(tus: Tus) -> None:
    path = tus.begin(3)
    assert tus.create(Upload_Concat=f"final;{path}").status == 400
    (part,) = parts(tus, b"abc")
    assert tus.create(3, Upload_Concat=f"final;{part}").status == 400
    tus.ask("DELETE", part)
    assert tus.create(Upload_Concat=f"final;{part}").status == 400


def test_a_final_upload_ends_with_its_part(tus: Tus) -> None:
    part = tus.begin(3, Upload_Concat="partial")
    final = tus.begin(Upload_Concat=f"final;{part}")
    tus.ask("DELETE", part)
    wait_for(lambda: tus.head(final).status == 410, 40, what="end of the final upload")


def test_services_tell_their_trouble_so_that_progress_is_kept(web: Web, tus: Tus) -> None:
    """Another host's upload, as after a change of the proxy."""
    path = tus.begin(3)
    change(web, "UPDATE uploads SET spool_id = 'another' WHERE id = ?", id_of(path))
    answer = tus.head(path)
    assert (answer.status, answer.headers["Retry-After"]) == (423, "1")
    assert tus.patch(path, 0, b"abc").status == 423
    assert tus.ask("DELETE", path).status == 204


def test_ids_begin_with_the_number_of_the_spool(web: Web, tus: Tus) -> None:
    spool_id = (Path(web.env["SPOOL_DIR"]) / "spool-id").read_text()
    assert id_of(tus.begin(3)).startswith(spool_id[:8])


def test_a_slow_client_beside_quick_ones(web: Web, tus: Tus) -> None:
    slow = tus.begin(100_000)
    with tus.stalled(slow, 0, b"x" * 600, 100_000) as sock:
        for number in range(50):
            sock.sendall(b"x" * 600)
            path = tus.begin(1000)
            assert tus.patch(path, 0, bytes(1000)).status == 204, number
    wait_for(lambda: tus.head(slow).offset == 51 * 600, what="kept bytes")


def test_a_thousand_uploads_in_progress_take_and_give_back_their_room(web: Web, tus: Tus) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: tus.begin(100), range(900)))
        answers = list(pool.map(lambda path: tus.patch(path, 0, bytes(50)).offset, paths))
        assert set(answers) == {50}
        assert {answer.offset for answer in pool.map(tus.head, paths[::30])} == {50}
    began = time.monotonic()
    one = tus.begin(3)
    assert tus.patch(one, 0, b"abc").status == 204
    assert time.monotonic() - began < 5
    assert content(web, one) == b"abc"
    assert int(web_command(web, "expire", "--all").split()[0]) >= 900
    assert tus.head(paths[0]).status == 410
    wait_for(lambda: not any(spooled(web, path).exists() for path in paths), 60, "room")


def test_more_than_the_allowed_uploads_in_progress_are_refused(web: Web) -> None:
    """And ended ones count no more."""
    env = {**web.env, "UPLOADS_UNFINISHED": "3", "SPOOL_DIR": web.env["SPOOL_DIR"] + "-2"}
    folder = web.log.parent / "few"
    folder.mkdir()
    env["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{folder / 'files.db'}"
    few = Web(folder, env)
    few.start()
    few.wait()
    try:
        tus = Tus(few.url)
        paths = [tus.begin(3) for _ in range(3)]
        answer = tus.create(3)
        assert (answer.status, int(answer.headers["Retry-After"])) == (429, 60)
        tus.ask("DELETE", paths[0])
        tus.begin(3)
    finally:
        few.stop()


def test_the_operator_sees_and_ends_them(web: Web, tus: Tus) -> None:
    path = tus.begin(10)
    tus.patch(path, 0, b"abc")
    listed = web_command(web, "list")
    assert f"{id_of(path)}  tus   async   3/10 bytes" in listed
    assert "in progress, with" in listed
    state = requests.get(f"{web.url}/status", timeout=20).json()
    assert state["unfinished_uploads"] >= 1
    metrics = requests.get(f"{web.url}/metrics", timeout=20).text
    assert "ferryman_unfinished_uploads " in metrics
    assert web_command(web, "expire", id_of(path)) == "1 ended.\n"
    assert tus.head(path).status == 410


def web_command(web: Web, *words: str) -> str:
    command = [sys.executable, "-m", "flask", "--app", "app", "uploads", *words]
    done = subprocess.run(command, cwd=ROOT, env=web.env, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_bytes_with_a_wrong_checksum_tell_no_type(web: Web, tus: Tus) -> None:
    """What was damaged on the way may look like anything."""
    content = b"plain text, " * 1000
    path = tus.begin(len(content), Upload_Metadata=metadata(filename="a.txt", filetype="text/plain"))
    damaged = b"<!doctype html><html>".ljust(len(content))
    assert tus.patch(path, 0, damaged, Upload_Checksum=checksum("md5", content)).status == 460
    assert tus.patch(path, 0, content, Upload_Checksum=checksum("md5", content)).status == 204
    web.settled(id_of(path))
    assert web.file(id_of(path))["detected_type"] == "text/plain"
    page = tus.begin(len(damaged), Upload_Metadata=metadata(filename="a.txt", filetype="text/plain"))
    assert tus.patch(page, 0, damaged, Upload_Checksum=checksum("md5", damaged)).status == 415
    assert tus.head(page).status == 410
