"""Connections: a refusal reaches its client, the next request is answered, and broken framing is a 400."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import requests

from access.keys import FILES, METRICS, create_key
from tests.conftest import running_app
from tests.kit.stack import ROOT, RedisServer, S3Server, Web, wait_for

ROUNDS = 20
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n'
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
NODE = shutil.which("node")
CURL = shutil.which("curl")


class Case(NamedTuple):
    """A request that is refused before its body's end."""

    status: int
    path: str = "/async_upload"
    size: int = 1_000_000
    name: bytes = b"a.txt"
    headers: dict[str, str] = {}  # noqa: RUF012
    key: str | None = "files"


CASES = {
    "name": Case(400, size=700_000, name=b""),
    "no key": Case(401, key=None),
    "other key": Case(403, key="metrics"),
    "no such address": Case(404, "/nowhere"),
    "verb": Case(405, "/files"),
    "running": Case(409, size=600_000, headers={"Idempotency-Key": "running"}, key="holder"),
    "too large": Case(413, size=1_100_000),
    "type": Case(415, size=700_000, headers={"Content-Type": "application/x-www-form-urlencoded"}),
    "coding": Case(415, size=700_000, headers={"Content-Encoding": "gzip"}),
    "day": Case(429, size=1_040_000),
    "spool": Case(503),
}
BY_HEADERS = [name for name in CASES if name != "name"]


class Live(NamedTuple):
    web: Web
    port: int
    keys: dict[str, str]
    spool: Path
    database: Path

    def headers(self, case: Case) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self.keys[case.key]}"} if case.key else {}
        return {**FORM, **key, **case.headers}

    def say(self, *words: bytes, hang_up: bool = False, pause: float = 0.05) -> bytes:
        """Send bytes as they are; the answer is all that comes until the server closes its side."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
            for word in words:
                client.sendall(word)
                time.sleep(pause)
            if hang_up:
                client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(65536), b""))

    def upload(self, body: bytes, *fields: str) -> bytes:
        """An upload's head and body."""
        lines = ["POST /async_upload HTTP/1.1", "Host: localhost", f"Authorization: Bearer {self.keys['files']}"]
        lines += [f"Content-Type: {FORM['Content-Type']}", *fields, "", ""]
        return "\r\n".join(lines).encode() + body


@contextmanager
def serving(folder: Path, env: dict[str, str]) -> Iterator[Live]:
    """A web server, and a key of each kind for it."""
    env = {
        **env,
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
        "KEY_REQUESTS_PER_MINUTE": "0",
    }
    web = Web(folder, env)
    web.start()
    try:
        web.wait()
        roles = {"files": FILES, "holder": FILES, "metrics": METRICS}
        with running_app(env) as app, app.app_context():
            keys = {name: create_key(name, role) for name, role in roles.items()}
        yield Live(web, int(web.url.rpartition(":")[2]), keys, folder / "spool", folder / "files.db")
    finally:
        web.stop()


@pytest.fixture(scope="module")
def live(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that refuses for every reason there is."""
    limits = {"SPOOL_MAX_BYTES": "800000", "MAX_CONTENT_LENGTH": "1050000", "KEY_BYTES_PER_DAY": "1020000"}
    env = {**s3.settings, **redis_server.settings, **limits, "AUTH": "required"}
    with serving(tmp_path_factory.mktemp("connections"), env) as live:
        yield live


@pytest.fixture(scope="module")
def free(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that takes bodies of unknown length."""
    with serving(tmp_path_factory.mktemp("free"), {**s3.settings, **redis_server.settings}) as live:
        yield live


def body_of(case: Case) -> bytes:
    return (PART % case.name).ljust(case.size, b"x")


@pytest.fixture
def running(live: Live) -> Iterator[None]:
    """Another request with the Idempotency-Key is still sending."""
    case = CASES["running"]
    fields = {"Host": "x", "Content-Length": "1000", **live.headers(case)}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with socket.create_connection(("127.0.0.1", live.port)) as client:
        client.sendall(f"POST {case.path} HTTP/1.1\r\n{head}\r\n".encode() + PART % b"a.txt")
        wait_for(lambda: list(live.spool.glob("*.part")), what="spooled part of it")
        yield
    wait_for(lambda: not list(live.spool.glob("*.part")), what="end of it")


def named(answer: bytes) -> dict[str, str]:
    """The headers of an answer on the wire, by lower-case name."""
    lines = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


def assert_refused(answer: bytes, status: int) -> dict[str, Any]:
    """See that an answer is one problem, and the last on its connection."""
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:300]
    fields = named(answer)
    assert fields["connection"] == "close"
    assert fields["content-type"] == "application/problem+json"
    assert fields["x-content-type-options"] == "nosniff"
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", fields["x-request-id"])
    body: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert body["status"] == status
    assert body["detail"]
    return body


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("name", CASES)
def test_requests_is_refused_and_asks_again(live: Live, name: str) -> None:
    case, body = CASES[name], body_of(CASES[name])
    with requests.Session() as session:
        for _ in range(ROUNDS):
            refused = session.post(live.web.url + case.path, body, headers=live.headers(case), timeout=10)
            assert refused.status_code == case.status, refused.text
            assert refused.headers["Connection"] == "close"
            assert session.get(f"{live.web.url}/healthz", timeout=10).ok


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("name", CASES)
def test_http_client_is_refused_and_asks_again(live: Live, name: str) -> None:
    case, body = CASES[name], body_of(CASES[name])
    with closing(http.client.HTTPConnection("127.0.0.1", live.port, timeout=10)) as client:
        for _ in range(ROUNDS):
            client.request("POST", case.path, body, live.headers(case))
            refused = client.getresponse()
            assert refused.status == case.status
            assert json.loads(refused.read())["status"] == case.status
            client.request("GET", "/healthz")
            assert client.getresponse().read() == b'{"status":"alive"}\n'


@pytest.mark.skipif(not NODE, reason="NODE IS NOT INSTALLED, so its clients are not tried: apt-get install nodejs")
@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(("way", "size"), [("agent", 700_000), ("fetch", 300_000), ("fetch", 20_000_000)])
def test_node_is_refused_and_asks_again(live: Live, way: str, size: int) -> None:
    names = BY_HEADERS if way == "agent" else ["no key", "no such address", "verb"]
    cases = [CASES[name] for name in names if name not in ("spool", "too large", "day")]
    told = [{"path": case.path, "headers": live.headers(case), "status": case.status} for case in cases]
    job = {"url": live.web.url, "way": way, "rounds": ROUNDS, "size": size, "cases": told}
    command = [str(NODE), str(ROOT / "tests" / "kit" / "connections.mjs"), json.dumps(job)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(result.stdout) == []


def test_a_refusal_with_all_of_a_small_body_keeps_the_connection(live: Live) -> None:
    small = live.upload(b"x" * 1000, "Content-Length: 1000").replace(b"/async_upload", b"/nowhere")
    answers = live.say(small + small + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"404", b"404", b"200"]


def test_many_that_go_on_sending_stop_nobody(live: Live) -> None:
    head = live.upload(b"", "Content-Length: 100000000").replace(b"/async_upload", b"/nowhere")
    clients = [socket.create_connection(("127.0.0.1", live.port), timeout=10) for _ in range(300)]
    try:
        for client in clients:
            client.sendall(head + b"x" * 10_000)
        began = time.monotonic()
        assert requests.get(f"{live.web.url}/healthz", timeout=10).ok
        assert time.monotonic() - began < 2
        for client in clients:
            assert client.recv(12) == b"HTTP/1.1 404"
            client.sendall(b"x" * 10_000)
    finally:
        for client in clients:
            client.close()


CHUNK = b"%x\r\n%s\r\n" % (len(PART % b"a.txt"), PART % b"a.txt")
FRAMINGS = {
    "no number": b"zz\r\n",
    "prefix": b"0x54\r\n",
    "negative": b"-5\r\n",
    "empty size": b"\r\n",
    "bare LF": b"5\nhello\n0\n\n\r\n",
    "extension": b"5;=\r\nhello\r\n",
    "endless size": b"1" * 20_000,
    "no terminator": b"5\r\nhelloXX",
    "trailer": b"0\r\nnot a header\r\n\r\n",
    "forbidden trailer": b"0\r\nHost: y\r\n\r\n",
    "endless trailers": b"0\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    "long trailer": b"0\r\na: " + b"b" * 10_000 + b"\r\n\r\n",
}
CUTS = [
    CHUNK[:1],
    CHUNK[:3],
    CHUNK[:20],
    CHUNK[:-1],
    CHUNK,
    CHUNK + b"0",
    CHUNK + b"0\r\n",
    CHUNK + b"0\r\na: b\r\n",
]


def left(live: Live) -> tuple[int, list[str]]:
    """How many rows there are, and which files being received."""
    with closing(sqlite3.connect(live.database)) as connection:
        rows = connection.execute("SELECT count(*) FROM files").fetchone()[0]
    return rows, [path.name for path in live.spool.glob("*.part")]


@pytest.mark.parametrize("framing", FRAMINGS)
def test_malformed_chunks_are_the_clients_fault(free: Live, framing: str) -> None:
    before = left(free)
    for start in (b"", CHUNK):
        assert_refused(free.say(free.upload(start + FRAMINGS[framing], "Transfer-Encoding: chunked")), 400)
    assert left(free) == before
    assert "Traceback" not in free.web.text()


@pytest.mark.parametrize("cut", CUTS)
def test_a_body_that_breaks_off_in_its_framing_is_the_clients_fault(free: Live, cut: bytes) -> None:
    before = left(free)
    assert_refused(free.say(free.upload(cut, "Transfer-Encoding: chunked"), hang_up=True), 400)
    assert left(free) == before
    assert "Traceback" not in free.web.text()


def test_a_body_in_another_coding_is_refused_and_told_why(live: Live) -> None:
    answer = live.say(live.upload(b"", "Content-Encoding: gzip", "Content-Length: 1000"))
    assert "Content-Encoding" in assert_refused(answer, 415)["detail"]
    assert named(answer)["accept-encoding"] == "identity"
    whole = (PART % b"a.txt") + b"x\r\n--b--\r\n"
    taken = live.upload(whole, "Content-Encoding: identity", f"Content-Length: {len(whole)}", "Connection: close")
    assert live.say(taken).startswith(b"HTTP/1.1 202 ")


@pytest.mark.parametrize(
    ("request_line", "fields", "status"),
    [
        ("GET /healthz HTTP/1.1", "", 400),
        ("GET /healthz HTTP/1.1", "Host: a\r\nHost: b\r\n", 400),
        ("GET /healthz HTTP/1.1", "Host: a/b\r\n", 400),
        ("GET /healthz HTTP/1.1", "Host: user@a\r\n", 400),
        ("GET /healthz HTTP/1.1", "Host: a b\r\n", 400),
        ("GET /healthz HTTP/1.1", "Host: x\r\nno colon\r\n", 400),
        ("GET /healthz HTTP/9.9", "Host: x\r\n", 400),
        ("nonsense", "", 400),
        (f"GET /{'x' * 9000} HTTP/1.1", "Host: x\r\n", 414),
        ("GET /healthz HTTP/1.1", "Host: x\r\nExpect: wonders\r\n", 417),
        ("GET /healthz HTTP/1.1", f"Host: x\r\nCookie: {'x' * 9000}\r\n", 431),
        ("GET /healthz HTTP/1.1", "Host: x\r\nTransfer-Encoding: gzip, chunked\r\n", 501),
        ("GET /healthz HTTP/1.1", "Host: x\r\nTransfer-Encoding: strange\r\n", 501),
    ],
)
def test_what_the_server_refuses_itself_is_a_problem_too(
    live: Live, request_line: str, fields: str, status: int
) -> None:
    assert_refused(live.say(f"{request_line}\r\n{fields}\r\n".encode(), pause=0), status)


def test_http_1_0_needs_no_host(live: Live) -> None:
    assert live.say(b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 ")


@pytest.mark.parametrize(
    "host", ["xn--strae-oqa.de", "xn--a", "my_app:5000", "[::1]:5000", "a..b", "x" * 70, "%7f", "-"]
)
@pytest.mark.parametrize("path", ["/async_upload", "/healthz", "/files//x", "/nowhere"])
def test_no_host_is_too_odd(live: Live, host: str, path: str) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", live.port, timeout=10)) as client:
        client.request("GET", path, headers={"Host": host, **live.headers(CASES["name"])})
        answer = client.getresponse()
        text = answer.read().decode()
    assert answer.status < 500, text
    assert not (answer.getheader("Location") or "/").startswith("http")
    if path == "/async_upload" and answer.status == 200:
        example = json.loads(text)["example"]
        assert urlsplit(example.split()[-1].strip("'")).netloc == host


@pytest.mark.parametrize("name", BY_HEADERS)
@pytest.mark.usefixtures("running")
def test_who_waits_for_100_continue_is_refused_at_once(live: Live, name: str) -> None:
    case = CASES[name]
    fields = {"Host": "x", "Expect": "100-continue", "Content-Length": str(case.size), **live.headers(case)}
    head = "".join(f"{field}: {value}\r\n" for field, value in fields.items())
    assert_refused(live.say(f"POST {case.path} HTTP/1.1\r\n{head}\r\n".encode()), case.status)


def test_without_a_boundary_nothing_is_asked_for(live: Live) -> None:
    asked = live.upload(b"", "Expect: 100-continue", "Content-Length: 1000").replace(b"; boundary=b", b"")
    assert_refused(live.say(asked), 400)


@pytest.mark.parametrize("sends", ["at once", "when told"])
def test_100_continue_comes_once_when_the_body_is_wanted(live: Live, sends: str) -> None:
    body = (PART % b"a.txt") + b"x\r\n--b--\r\n"
    fields = ("Expect: 100-continue", f"Content-Length: {len(body)}", "Connection: close")
    words = [live.upload(body, *fields)] if sends == "at once" else [live.upload(b"", *fields), body]
    answer = live.say(*words, pause=0.5)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"100", b"202"]


@pytest.mark.skipif(not CURL, reason="CURL IS NOT INSTALLED, so it is not tried: apt-get install curl")
@pytest.mark.parametrize(("size", "status"), [(700_000, "202"), (2_000_000, "413")])
def test_curl_waits_for_100_continue(live: Live, tmp_path: Path, size: int, status: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(size))
    key = f"Authorization: Bearer {live.keys['holder']}"
    command = [str(CURL), "-sS", "--expect100-timeout", "10", "-H", "Expect: 100-continue", "-H", key]
    command += ["-F", f"file=@{path}", "-o", "/dev/null", "-w", "%{http_code} %{size_upload}"]
    result = subprocess.run([*command, f"{live.web.url}/async_upload"], capture_output=True, text=True, check=True)
    code, sent = result.stdout.split()
    assert code == status, result.stderr
    assert (int(sent) > 0) == (status == "202")


@pytest.mark.parametrize(
    ("name", "value"),
    [("WEB_CONCURRENCY", "0"), ("WEB_THREADS", "-1"), ("PORT", "http"), ("CLIENT_PATIENCE_SECONDS", "soon")],
)
def test_gunicorn_names_a_wrong_setting(live: Live, name: str, value: str) -> None:
    env = {**live.web.env, name: value}
    result = subprocess.run(live.web.command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode != 0
    [line] = result.stderr.splitlines()
    assert line.startswith(f"ferryman: {name} must be ")


@pytest.mark.parametrize("command", ["celery -q -A worker worker", "flask --app app db current"])
def test_other_processes_name_a_wrong_setting_too(live: Live, command: str) -> None:
    env = {**live.web.env, "WEB_CONCURRENCY": "two"}
    words = [sys.executable, "-m", *command.split()]
    result = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode != 0
    assert result.stderr.strip() == "ferryman: WEB_CONCURRENCY must be a whole number, not 'two'."


def test_a_failure_of_ours_is_a_problem_that_is_counted_and_closes(env: dict[str, str], tmp_path: Path) -> None:
    web = Web(tmp_path, env)
    web.command[-1] = "tests.kit.failing:create_app()"
    web.start()
    try:
        web.wait()
        port = int(web.url.rpartition(":")[2])
        for name in ("fails", "sends_what_no_header_may_hold", "fails_while_it_streams"):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(f"GET /{name}?token=hush HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                answer = b"".join(iter(lambda: client.recv(65536), b""))
            assert_refused(answer, 500)
            assert named(answer)["x-request-id"] in web.text()
        counted = requests.get(f"{web.url}/metrics", timeout=10).text
        assert 'ferryman_errors_total{cause="Unexpected"} 3.0' in counted
        assert "hush" not in web.text()
    finally:
        web.stop()
