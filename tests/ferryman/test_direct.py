"""Direct uploads of the client; and what it does where they are off, or the bucket cannot be reached."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from ferryman import direct
from ferryman.client import Client, Problem
from tests.kit.proxy import Link, Proxy
from tests.kit.stack import RedisServer, S3Server, Web, serving

MIB = 1024 * 1024
NAME = "film für 東京.bin"


@pytest.fixture(scope="module")
def bucket_link(s3: S3Server) -> Iterator[Proxy]:
    """The way of clients to the bucket, to be broken."""
    proxy = Proxy(s3.port)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def web(
    s3: S3Server, redis_server: RedisServer, bucket_link: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    public = f"http://127.0.0.1:{bucket_link.port}"
    settings = {"DIRECT": "true", "S3_PUBLIC_ENDPOINT_URL": public, "DENIED_CONTENT_TYPES": "text/html"}
    with serving(tmp_path_factory.mktemp("direct"), s3, redis_server, workers=2, **settings) as web:
        yield web


@pytest.fixture
def client(web: Web) -> Iterator[Client]:
    with Client(web.url) as client:
        yield client


def path_of(folder: Path, size: int) -> Path:
    path = folder / NAME
    path.write_bytes(random.randbytes(size))
    return path


def content(web: Web, file_id: str) -> bytes:
    return requests.get(f"{web.url}/files/{file_id}/content?proxy=1", timeout=30).content


@pytest.mark.parametrize("size", [0, 5, 3 * MIB, 101 * MIB])
def test_a_file_goes_to_the_bucket(web: Web, client: Client, tmp_path: Path, size: int) -> None:
    path, told = path_of(tmp_path, size), list[int]()
    file = direct.upload(client, path, on_progress=lambda sent, _: told.append(sent), metadata={"order": "17"})
    assert (file.name, file.mode, file.size, file.upload_status) == (NAME, "direct", size, "COMPLETE")
    assert file.metadata == {"order": "17"}
    assert (told == sorted(told), told[-1]) == (True, size)
    assert content(web, file.id) == path.read_bytes()


def test_a_cut_in_the_middle(web: Web, client: Client, bucket_link: Proxy, tmp_path: Path) -> None:
    path, cuts = path_of(tmp_path, 20 * MIB), [10 * MIB, 10 * MIB]

    def cut(link: Link, data: bytes) -> bool:
        if cuts and link.sent > cuts[0]:
            cuts.pop()
            return True
        return False

    bucket_link.on_request = cut
    file = direct.upload(client, path)
    assert (file.mode, cuts) == ("direct", [])
    assert content(web, file.id) == path.read_bytes()


def test_bytes_that_are_damaged_on_their_way(client: Client, web: Web, tmp_path: Path, s3: S3Server) -> None:
    """S3 knows by the Content-MD5 that they are others, and they are sent again."""
    begun = requests.post(f"{web.url}/direct", json={"name": "a", "size": 5}, timeout=20).json()["put"]
    headers = {**begun["headers"], "Content-MD5": "XUFAKrxLKna5cZ2REBfFkg=="}
    assert requests.put(begun["url"], data=b"other", headers=headers, timeout=20).status_code == 400
    assert requests.put(begun["url"], data=b"hello", headers=headers, timeout=20).status_code == 200


def test_the_bucket_cannot_be_reached(
    web: Web, client: Client, bucket_link: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "PAUSE_SECONDS", 0.01)
    path = path_of(tmp_path, 3 * MIB)
    bucket_link.refuse()
    try:
        file = client.wait(direct.upload(client, path).id)
    finally:
        bucket_link.recover()
    assert (file.mode, file.upload_status) == ("async", "COMPLETE")
    assert content(web, file.id) == path.read_bytes()


def test_where_it_is_off(s3: S3Server, redis_server: RedisServer, tmp_path: Path) -> None:
    path = path_of(tmp_path, 3 * MIB)
    with serving(tmp_path, s3, redis_server) as web, Client(web.url) as client:
        file = client.wait(direct.upload(client, path).id)
    assert (file.mode, file.upload_status) == ("async", "COMPLETE")


def test_a_refusal_is_final(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "page.txt"
    path.write_text("<!doctype html><p>")
    with pytest.raises(Problem) as refused:
        direct.upload(client, path)
    assert refused.value.status == 422


def test_the_command(web: Web, installed: Path, tmp_path: Path) -> None:
    path = path_of(tmp_path, 3 * MIB)
    command = [str(installed / "ferryman"), "upload", "--to", web.url, "--direct", str(path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "COMPLETE" in shown.stdout
    command[-1:] = ["--mode", "normal", str(path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2
