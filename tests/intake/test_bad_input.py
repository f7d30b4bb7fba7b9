"""What is refused: the contract's code and body each, and nothing left behind. On a real gunicorn."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from tests.kit.forms import body_of, form
from tests.kit.stack import RedisServer, S3Server, Web, wait_for

LIMIT = 100_000
MODES = ["normal", "async", "celery"]
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'


class Live(NamedTuple):
    web: Web
    spool: Path
    database: Path

    def leftovers(self) -> tuple[int, list[str]]:
        """How many rows there are, and which spool files."""
        with sqlite3.connect(self.database) as connection:
            rows = connection.execute("SELECT count(*) FROM files").fetchone()[0]
        connection.close()
        return rows, sorted(name for name in os.listdir(self.spool) if name != "spool-id")


@pytest.fixture(scope="module")
def live(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("bad-input")
    env = {
        **s3.settings,
        **redis_server.settings,
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
        "MAX_CONTENT_LENGTH": str(LIMIT),
        "ALLOWED_CONTENT_TYPES": "text/*, image/png",
    }
    web = Web(folder, env)
    try:
        web.start()
        web.wait()
        yield Live(web, folder / "spool", folder / "files.db")
    finally:
        web.stop()


@pytest.fixture(autouse=True)
def _nothing_left(live: Live) -> Iterator[None]:
    before = live.leftovers()
    yield
    assert live.leftovers() == before


def assert_problem(answer: requests.Response, status: int, detail: str = "") -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["type"] == "about:blank"
    assert body["title"]
    assert detail in body.get("detail", "")
    assert "Traceback" not in answer.text
    return body


REFUSED_FORMS: dict[str, tuple[list[tuple[str, str | None, bytes]], int, str]] = {
    "no part": ([], 400, "no file"),
    "only text": ([("note", None, b"hello")], 400, "no file"),
    "text in the field": ([("file", None, b"hello")], 400, "text"),
    "another field": ([("document", "a.txt", b"x")], 400, "exactly one"),
    "two parts": ([("file", "a.txt", b"x"), ("file", "b.txt", b"y")], 400, "exactly one"),
    "a file and another": ([("file", "a.txt", b"x"), ("more", "b.txt", b"y")], 400, "exactly one"),
    "no name": ([("file", "", b"x")], 400, "no name"),
    "blank name": ([("file", "  ", b"x")], 400, "no name"),
    "only dots": ([("file", "../..", b"x")], 400, "no name"),
    "too many parts": ([(f"f{number}", None, b"") for number in range(20)], 413, "count"),
    "type not taken": ([("file", "a.pdf", b"x")], 415, "application/pdf"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", REFUSED_FORMS)
def test_a_wrong_form_is_refused(live: Live, mode: str, case: str) -> None:
    parts, status, detail = REFUSED_FORMS[case]
    answer = requests.post(f"{live.web.url}/{mode}_upload", **form(*parts), timeout=20)
    assert_problem(answer, status, detail)


MALFORMED = {
    "empty body": b"",
    "no boundary": b"hello",
    "no end": HEAD + b"hello",
    "no body": HEAD,
    "headers cut off": HEAD[:40],
    "no disposition": b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n",
    "bare header": b"--b\r\nnonsense\r\n\r\nx\r\n--b--\r\n",
    "not UTF-8": HEAD.replace(b"a.txt", b"\xff.txt") + b"x\r\n--b--\r\n",
    "junk after the boundary": HEAD + b"x\r\n--bxx\r\n",
    "a type that is none": HEAD[:-2] + b"Content-Type: nonsense\r\n\r\nx\r\n--b--\r\n",
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_form_is_refused(live: Live, case: str) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    url = f"{live.web.url}/async_upload"
    assert_problem(requests.post(url, data=MALFORMED[case], headers=headers, timeout=20), 400)


def test_an_endless_part_header_is_refused(live: Live) -> None:
    answer = requests.post(
        f"{live.web.url}/async_upload", **form(("file", "a" * 20_000 + ".txt", b"x")), timeout=20
    )
    assert_problem(answer, 413)


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", ""])
def test_another_content_type_is_refused(live: Live, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = requests.post(f"{live.web.url}/async_upload", data=b"{}", headers=headers, timeout=20)
    assert_problem(answer, 415, "multipart/form-data")


def test_a_missing_boundary_is_refused(live: Live) -> None:
    answer = requests.post(
        f"{live.web.url}/async_upload", data=b"x", headers={"Content-Type": "multipart/form-data"}, timeout=20
    )
    assert_problem(answer, 400)


@pytest.mark.parametrize("chunked", [False, True])
def test_one_byte_over_the_limit_is_refused(live: Live, chunked: bool) -> None:
    body = body_of(LIMIT + 1)
    answer = requests.post(
        f"{live.web.url}/async_upload",
        data=iter([body[:50_000], body[50_000:]]) if chunked else body,
        headers={"Content-Type": "multipart/form-data; boundary=b"},
        timeout=20,
    )
    assert_problem(answer, 413, str(LIMIT))


def test_a_huge_declared_length_is_refused_before_it_is_sent(live: Live) -> None:
    answer = raw(live, b"Content-Length: 99999999999\r\n\r\n")
    assert b" 413 " in answer.splitlines()[0]


def test_the_answer_reaches_a_client_that_goes_on_sending(live: Live) -> None:
    answer = requests.post(
        f"{live.web.url}/async_upload",
        data=iter([body_of(LIMIT)] + [b"x" * 100_000] * 100),
        headers={"Content-Type": "multipart/form-data; boundary=b"},
        timeout=20,
    )
    assert_problem(answer, 413)


def raw(live: Live, rest: bytes, half_close: bool = True) -> bytes:
    """Send a request by hand, and read the answer to its end."""
    host, port = live.web.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /async_upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n" + rest
        )
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n100\r\n"]
)
def test_a_body_that_breaks_off_leaves_nothing(live: Live, framing: bytes) -> None:
    answer = raw(live, framing + HEAD + b"half of it")
    assert b" 400 " in answer.splitlines()[0]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 400


def test_a_connection_that_is_reset_leaves_nothing(live: Live) -> None:
    host, port = live.web.url.removeprefix("http://").split(":")
    before = live.leftovers()
    with socket.create_connection((host, int(port))) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        head = b"POST /async_upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n"
        connection.sendall(head + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + HEAD + b"x")
        wait_for(lambda: live.leftovers() != before, what="spool file")
    wait_for(lambda: live.leftovers() == before, what="clean spool")


@pytest.mark.parametrize("method", ["DELETE", "PATCH"])
def test_another_method_is_refused(live: Live, method: str) -> None:
    answer = requests.request(method, f"{live.web.url}/async_upload", timeout=20)
    assert_problem(answer, 405)
    assert "POST" in answer.headers["Allow"]


@pytest.mark.parametrize("file_id", ["0" * 32, "1", "no-id", "%00", "..%2f..%2fetc", "é" * 500])
def test_an_unknown_id_is_not_found(live: Live, file_id: str) -> None:
    assert_problem(requests.get(f"{live.web.url}/files/{file_id}", timeout=20), 404)


def test_an_unknown_path_is_not_found(live: Live) -> None:
    assert_problem(requests.get(f"{live.web.url}/nothing/here", timeout=20), 404)
