"""Slow and hostile clients: others keep getting answers, and what is given up on leaves nothing behind."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path

import psutil
import pytest
import requests

from tests.kit.nginx import Nginx
from tests.kit.programs import NGINX
from tests.kit.stack import Web, wait_for

IDLE = 1000
SLOW = 80
STALLED = 20
FEW = 5
PATIENCE = 3
BYTES_PER_SECOND = 1000
TICK = 0.25
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="slow.txt"\r\n\r\n'


def upload_of(size: int) -> bytes:
    """An async upload on the wire."""
    body = PART + b"x" * size + b"\r\n--b--\r\n"
    head = f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    return b"POST /async_upload HTTP/1.1\r\nHost: localhost\r\n" + head.encode() + body


class Crowd:
    """Bad clients of one server, all from this process."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets = ExitStack()
        self._leaving = threading.Event()
        self._pacers: list[threading.Thread] = []

    def say(self, count: int, words: bytes = b"", hang_up: bool = False) -> list[socket.socket]:
        """Connect so often, say so much, and no more; perhaps close the sending half."""
        clients = []
        for _ in range(count):
            client = self._sockets.enter_context(socket.create_connection(("127.0.0.1", self._port), timeout=10))
            client.sendall(words)
            if hang_up:
                client.shutdown(socket.SHUT_WR)
            clients.append(client)
        return clients

    def say_slowly(self, count: int, words: bytes, pace: int = BYTES_PER_SECOND) -> list[socket.socket]:
        """Send the headers at once and the body at so many bytes a second, in the background."""
        start = words.index(b"\r\n\r\n") + 4
        clients = self.say(count, words[:start])
        pacer = threading.Thread(target=self._pace, args=(clients, words[start:], pace))
        pacer.start()
        self._pacers.append(pacer)
        return clients

    def leave(self) -> None:
        """Close all."""
        self._leaving.set()
        for pacer in self._pacers:
            pacer.join()
        self._sockets.close()

    def _pace(self, clients: list[socket.socket], words: bytes, pace: int) -> None:
        step = int(pace * TICK)
        for start in range(0, len(words), step):
            for client in clients:
                with suppress(OSError):
                    client.sendall(words[start : start + step])
            if self._leaving.wait(TICK):
                return


@pytest.fixture(autouse=True)
def _many_sockets() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> dict[str, str]:
    """More settings of the web server."""
    return {"CLIENT_PATIENCE_SECONDS": str(PATIENCE), **getattr(request, "param", {})}


@pytest.fixture
def web(env: dict[str, str], settings: dict[str, str], tmp_path: Path) -> Iterator[Web]:
    web = Web(tmp_path, {**env, **settings})
    web.start()
    try:
        web.wait()
        yield web
    finally:
        web.stop()


@pytest.fixture
def nginx(web: Web, tmp_path: Path) -> Iterator[Nginx]:
    if not NGINX:
        pytest.skip("NGINX IS NOT INSTALLED, so deploy/nginx.conf is not tested: apt-get install nginx-light")
    patience = {"client_body_timeout 20s": f"client_body_timeout {PATIENCE}s"}
    nginx = Nginx(tmp_path, [web], changes=patience)
    nginx.start()
    try:
        web.url = f"http://127.0.0.1:{nginx.port}"
        web.wait()
        yield nginx
    finally:
        nginx.stop()


@pytest.fixture
def crowd(web: Web) -> Iterator[Crowd]:
    crowd = Crowd(int(web.url.rpartition(":")[2]))
    yield crowd
    crowd.leave()


def answer_to(client: socket.socket) -> bytes:
    """All that a client gets until the server closes."""
    client.settimeout(10)
    answer = b""
    with suppress(ConnectionResetError):
        while data := client.recv(4096):
            answer += data
    return answer


def others_are_answered(web: Web, seconds: float) -> list[str]:
    """Ask and upload again and again, each within 2 s; the answer is the ids of the files."""
    ids = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        assert requests.get(f"{web.url}/healthz", timeout=10).ok
        asked = time.monotonic()
        ids.append(web.upload("async", "good.txt", b"x" * 100_000).json()["id"])
        assert asked - began < 2
        assert time.monotonic() - asked < 2
        time.sleep(0.2)
    return ids


def parts(spool_dir: Path) -> int:
    return len(list(spool_dir.glob("*.part")))


def test_threads_outlast_a_crowd(web: Web, crowd: Crowd, spool_dir: Path) -> None:
    crowd.say(IDLE)
    slow = crowd.say_slowly(SLOW, upload_of(1_000_000))
    patient = crowd.say_slowly(1, upload_of(2 * PATIENCE * BYTES_PER_SECOND))
    stalled = crowd.say(STALLED, upload_of(1_000_000)[:1000])
    dribbling = crowd.say_slowly(FEW, upload_of(1_000_000), BYTES_PER_SECOND // 10)
    mute = crowd.say(FEW, GET[:20])
    cut_off = crowd.say(FEW, upload_of(1_000_000)[:1000], hang_up=True)
    half_closed = crowd.say(FEW, GET, hang_up=True)
    lingering = crowd.say(FEW, GET)  # never close their side
    ids = others_are_answered(web, 3 * PATIENCE)

    for client in stalled + dribbling:
        answer = answer_to(client)
        assert answer.startswith(b"HTTP/1.1 408 "), answer
        assert b"application/problem+json" in answer
    assert all(answer_to(client) == b"" for client in mute)
    assert all(answer_to(client).startswith(b"HTTP/1.1 400 ") for client in cut_off)
    assert all(answer_to(client).startswith(b"HTTP/1.1 200 ") for client in half_closed + lingering)
    assert patient[0].recv(4096).startswith(b"HTTP/1.1 202 ")
    assert parts(spool_dir) == len(slow)

    crowd.leave()
    wait_for(lambda: parts(spool_dir) == 0, 5, "empty spool")
    assert {web.settled(file_id)["upload_status"] for file_id in ids} == {"COMPLETE"}
    assert "Traceback" not in web.text()
    assert "WORKER TIMEOUT" not in web.text()


@pytest.mark.parametrize("settings", [{"WEB_THREADS": "10"}], indirect=True)
def test_behind_nginx_slow_clients_hold_no_thread(nginx: Nginx, web: Web, crowd: Crowd, spool_dir: Path) -> None:
    crowd.say(IDLE)
    slow = crowd.say_slowly(SLOW, upload_of(1_000_000))
    patient = crowd.say_slowly(1, upload_of(2 * PATIENCE * BYTES_PER_SECOND))
    stalled = crowd.say(STALLED, upload_of(1_000_000)[:1000])
    crowd.say(FEW, upload_of(1_000_000)[:1000], hang_up=True)
    half_closed = crowd.say(FEW, GET)
    ids = others_are_answered(web, 3 * PATIENCE)

    assert all(answer_to(client) == b"" for client in stalled)
    assert all(answer_to(client).startswith(b"HTTP/1.1 200 ") for client in half_closed)
    assert patient[0].recv(4096).startswith(b"HTTP/1.1 202 ")
    assert len(slow) == SLOW
    assert parts(spool_dir) == 0
    assert {web.settled(file_id)["upload_status"] for file_id in ids} == {"COMPLETE"}
    assert "Traceback" not in web.text()


@pytest.mark.parametrize(
    ("said", "status", "listens"),
    [
        (upload_of(100_000), 202, False),
        (upload_of(100_000) + b"\r\n", 202, True),
        (upload_of(1000)[:-9], 404, True),
    ],
    ids=["all it announced", "more than it announced", "less, since it is refused"],
)
def test_the_server_waits_for_a_client_to_close_only_where_more_may_come(
    web: Web, crowd: Crowd, said: bytes, status: int, listens: bool
) -> None:
    said = said.replace(b"Host: localhost", b"Host: localhost\r\nConnection: close")
    if status == 404:
        said = said.replace(b"/async_upload", b"/other_upload")
    [client] = crowd.say(1, said)
    assert answer_to(client).startswith(f"HTTP/1.1 {status} ".encode())
    refused = nullcontext() if listens else pytest.raises((BrokenPipeError, ConnectionResetError))
    with refused:
        for _ in range(3):
            client.sendall(b"x")
            time.sleep(0.1)


@pytest.mark.parametrize("piece", [70_000, 10**9], ids=["in pieces", "at once"])
def test_bodies_that_follow_each_other_are_told_apart(web: Web, crowd: Crowd, piece: int) -> None:
    sizes = [3_000_000, 1, 200_000]
    words = b"".join(upload_of(size) for size in sizes) + GET
    [client] = crowd.say(1)
    for start in range(0, len(words), piece):
        client.sendall(words[start : start + piece])
    answers = answer_to(client)
    assert answers.count(b"HTTP/1.1 202 ") == len(sizes)
    assert answers.endswith(b'{"status":"alive"}\n')
    for size, file_id in zip(sizes, re.findall(rb'"id":"(\w+)"', answers), strict=True):
        row = web.settled(file_id.decode())
        assert (row["size"], row["sha256"]) == (size, hashlib.sha256(b"x" * size).hexdigest())


def test_an_answer_that_is_not_read_is_given_up(web: Web, crowd: Crowd) -> None:
    size = 32_000_000  # more than lies in sockets
    file_id = web.upload("normal", "large.bin", bytes(size)).json()["id"]
    ask = f"GET /files/{file_id}/content?proxy=1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    [reading] = crowd.say(1, ask.replace(b"Host: localhost", b"Host: localhost\r\nConnection: close"))
    [other] = crowd.say(1, ask)
    assert len(answer_to(reading)) > size
    time.sleep(2 * PATIENCE)
    assert len(answer_to(other)) < size


def test_threads_that_wake_up_let_the_running_one_go_on(web: Web) -> None:
    [worker] = psutil.Process(web.pid).children()
    threads = {thread.id for thread in worker.threads()}
    assert len(threads) > 1
    assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_BATCH}


def test_a_client_that_keeps_its_connection_is_answered_in_order_until_the_stop(web: Web, crowd: Crowd) -> None:
    ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    [client] = crowd.say(1)
    client.settimeout(10)
    answers = b""
    for pause in (0, 0.1, 0):  # at once again, then by way of the main loop, then two requests in one piece
        client.sendall(ask * 2)
        while answers.count(b'"alive"') < 2:
            answers += client.recv(4096)
        assert answers.count(b"HTTP/1.1 200 ") == 2
        answers = b""
        time.sleep(pause)

    stopped = threading.Event()

    def ask_on() -> None:
        with suppress(OSError):
            while not stopped.is_set() and client.send(ask) and client.recv(4096):
                pass

    asking = threading.Thread(target=ask_on)
    asking.start()
    assert web.stop(10) == 0  # one that asks without end does not hold the stop
    stopped.set()
    asking.join(10)
