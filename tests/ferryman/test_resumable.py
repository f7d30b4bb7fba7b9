"""Uploads of the client that go on: after cuts, a killed run, and a service that was restarted."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from ferryman import resumable
from ferryman.client import Client, Problem, Unreachable
from tests.kit.proxy import Link, Proxy
from tests.kit.stack import RedisServer, S3Server, Web, serving, wait_for

MIB = 1024 * 1024
SIZE = 24 * MIB


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(
        tmp_path_factory.mktemp("resumable"), s3, redis_server, workers=2, DENIED_CONTENT_TYPES="text/html"
    ) as web:
        yield web


@pytest.fixture
def proxy(web: Web) -> Iterator[Proxy]:
    """The way to the service, to be broken."""
    proxy = Proxy(int(web.url.rpartition(":")[2]))
    yield proxy
    proxy.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "film für 東京.bin"
    path.write_bytes(random.randbytes(SIZE))
    return path


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "state"


class Cuts:
    """Breaks a connection after so many bytes of a PATCH, several times."""

    def __init__(self, times: int, after: int) -> None:
        self.left = times
        self.after = after
        self.passed = 0

    def __call__(self, link: Link, data: bytes) -> bool:
        self.passed += len(data)
        if self.left and link.sent > self.after:
            self.left -= 1
            return True
        return False


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check(web: Web, file_id: str, path: Path) -> None:
    shown = web.settled(file_id)
    assert shown["name"] == path.name
    content = requests.get(f"{web.url}/files/{file_id}/content?proxy=1", timeout=30).content
    assert hashlib.sha256(content).hexdigest() == sha256(path)


@pytest.mark.parametrize("mode", resumable.MODES)
def test_a_broken_connection_costs_only_what_was_on_its_way(
    web: Web, proxy: Proxy, path: Path, memory: Path, mode: str
) -> None:
    proxy.on_request = cuts = Cuts(3, 5 * MIB)
    told: list[int] = []
    with Client(f"http://127.0.0.1:{proxy.port}") as client:
        file = resumable.upload(client, path, mode, on_progress=lambda sent, _: told.append(sent), memory=memory)
    assert cuts.left == 0
    assert cuts.passed < SIZE + 4 * MIB
    assert told[-1] == SIZE
    assert not list(memory.iterdir())
    if mode == "async":
        check(web, file.id, path)


def test_a_later_call_goes_on_where_the_first_came_to(web: Web, proxy: Proxy, path: Path, memory: Path) -> None:
    proxy.on_request = Cuts(100, 8 * MIB)
    with Client(f"http://127.0.0.1:{proxy.port}", patience=0) as client, pytest.raises(Unreachable):
        proxy_cuts_all(client, proxy, path, memory)
    proxy.on_request = second = Cuts(0, 0)
    with Client(f"http://127.0.0.1:{proxy.port}") as client:
        file = resumable.upload(client, path, memory=memory)
    assert second.passed < SIZE - 6 * MIB
    check(web, file.id, path)


def proxy_cuts_all(client: Client, proxy: Proxy, path: Path, memory: Path) -> None:
    """Upload until the first break, after which the service is away."""
    cut = proxy.on_request

    def once(link: Link, data: bytes) -> bool:
        is_cut = cut(link, data)
        if is_cut:
            proxy.on_request = lambda link, data: True
        return is_cut

    proxy.on_request = once
    resumable.upload(client, path, memory=memory)


def test_another_content_is_another_upload(web: Web, path: Path, memory: Path) -> None:
    with Client(web.url) as client:
        first = resumable.upload(client, path, memory=memory)
        path.write_bytes(random.randbytes(SIZE))
        second = resumable.upload(client, path, memory=memory)
    assert first.id != second.id
    check(web, second.id, path)


def test_an_upload_that_has_expired_begins_anew(web: Web, proxy: Proxy, path: Path, memory: Path) -> None:
    proxy.on_request = Cuts(100, 8 * MIB)
    with Client(f"http://127.0.0.1:{proxy.port}", patience=0) as client, pytest.raises(Unreachable):
        proxy_cuts_all(client, proxy, path, memory)
    [note] = memory.iterdir()
    requests.delete(web.url + note.read_text(), headers=resumable.VERSION, timeout=20)
    with Client(web.url) as client:
        check(web, resumable.upload(client, path, memory=memory).id, path)


def test_what_is_refused_is_told(web: Web, tmp_path: Path, memory: Path) -> None:
    page = tmp_path / "page.txt"
    page.write_bytes(b"<!doctype html><html>" + bytes(20 * MIB))
    with Client(web.url) as client, pytest.raises(Problem) as raised:
        resumable.upload(client, page, memory=memory)
    assert raised.value.status == 415


def test_options_and_an_empty_file(web: Web, tmp_path: Path, memory: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    with Client(web.url) as client:
        file = resumable.upload(
            client, empty, name="other.txt", metadata={"a": "ü"}, expires_in=3600, memory=memory
        )
    assert (file.name, file.size, file.metadata) == ("other.txt", 0, {"a": "ü"})
    assert file.expires_at


def test_a_killed_command_goes_on(web: Web, proxy: Proxy, path: Path, installed: Path, tmp_path: Path) -> None:
    """As Ctrl-C or a closed laptop ends it; and the service is restarted between."""
    address = f"http://127.0.0.1:{proxy.port}"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "FERRYMAN_URL": address}
    command = [str(installed / "ferryman"), "upload", str(path), "--watch"]
    proxy.on_request = slow = Cuts(0, 0)

    def slowly(link: Link, data: bytes) -> bool:
        time.sleep(len(data) / (20 * MIB))
        return slow(link, data)

    proxy.on_request = slowly
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: slow.passed > 8 * MIB, what="8 MiB")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    web.kill()
    web.start()
    web.wait()
    proxy.on_request = second = Cuts(0, 0)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("COMPLETE")
    assert second.passed < SIZE - 6 * MIB
    check(web, done.stdout.split()[1], path)


@pytest.mark.parametrize(("flag", "is_resumed"), [("--resume", True), ("--no-resume", False), (None, True)])
def test_the_command_chooses_by_size(
    web: Web, proxy: Proxy, path: Path, installed: Path, tmp_path: Path, flag: str | None, is_resumed: bool
) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "FERRYMAN_URL": f"http://127.0.0.1:{proxy.port}"}
    small = tmp_path / "small.txt"
    small.write_text("small")
    seen: list[bytes] = []

    def note(link: Link, data: bytes) -> bool:
        if data.startswith((b"PATCH", b"POST")):
            seen.append(data.split()[1])
        return False

    proxy.on_request = note
    command = [str(installed / "ferryman"), "upload", *([flag] if flag else [])]
    subprocess.run([*command, str(path)], env=env, capture_output=True, check=True, timeout=60)
    assert any(one.startswith(b"/uploads") for one in seen) == is_resumed
    seen.clear()
    subprocess.run([*command, str(small)], env=env, capture_output=True, check=True, timeout=60)
    assert any(one.startswith(b"/uploads") for one in seen) == (flag == "--resume")
