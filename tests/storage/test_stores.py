"""The contract with S3-compatible stores: what is COMPLETE is there byte for byte, whatever a store leaves out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
import requests

from config import Config
from storage.store import Store
from tests.kit.bucket import keys_of
from tests.kit.direct import Direct, crc64nvme, post, put
from tests.kit.stack import BUCKET, RedisServer, Service, Web, Worker, wait_for
from tests.kit.stores import STORES

MODES = ["normal", "async", "celery"]
SIZES = {"0 B": 0, "1 B": 1, "100 kB": 100_000, "20 MB": 20_000_000}
MANY_PARTS = 150_000_000
CONTENT = os.urandom(MANY_PARTS)


class Place(NamedTuple):
    """A whole service on one store."""

    store: str
    web: Web
    bucket: Store

    def keys(self) -> list[str]:
        """The keys of everything in the bucket."""
        return keys_of(self.bucket.client, BUCKET)


@pytest.fixture(scope="module", params=list(STORES))
def place(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as running:
        server = STORES[request.param](folder)
        _start(running, server)
        server.wait()
        env = {
            **server.settings,
            "CELERY_BROKER_URL": f"redis://127.0.0.1:{redis_server.port}/{1 + list(STORES).index(request.param)}",
            "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
            "SPOOL_DIR": str(folder / "spool"),
            "DIRECT": "true",
        }
        web, worker = Web(folder, env), Worker(folder, env)
        _start(running, web)
        _start(running, worker)
        web.wait()
        worker.wait()
        yield Place(request.param, web, Store(Config.from_mapping(server.settings)))


def _start(running: ExitStack, service: Service) -> None:
    service.start()
    running.callback(service.stop)


def come_and_go(place: Place, mode: str, content: bytes) -> None:
    """Upload, download by both ways, delete; nothing may be left."""
    web = place.web
    answer = web.upload(mode, "a file.bin", content, "application/x-test")
    assert answer.status_code == (201 if mode == "normal" else 202), answer.text
    row = web.settled(answer.json()["id"])
    assert row["upload_status"] == "COMPLETE", row
    address = f"{web.url}/files/{row['id']}/content"
    for way in ("", "?proxy=1"):
        got = requests.get(address + way, timeout=60)
        assert (got.status_code, digest(got.content)) == (200, digest(content)), way
        if len(content) > 10:
            part = requests.get(address + way, timeout=60, headers={"Range": "bytes=5-9"})
            assert part.content == content[5:10], way
            assert part.status_code == 206 or (place.store, way) == ("rclone", ""), "rclone calls a part 200"
    assert place.keys() == [row["key"]]
    assert requests.delete(f"{web.url}/files/{row['id']}", timeout=20).status_code == 204
    assert place.keys() == []


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_a_file_comes_and_goes(place: Place, mode: str, size: str) -> None:
    come_and_go(place, mode, CONTENT[: SIZES[size]])


def test_many_parts_come_and_go(place: Place) -> None:
    come_and_go(place, "async", CONTENT)


# What each store makes of direct uploads: by one PUT, or in parts where a PUT's headers are not enforced.
ONE_PUT = {"seaweedfs": "final", "nanio": "copied", "rclone": "copied", "juicefs": "copied", "moto": "parts"}
FORMS = {"seaweedfs", "juicefs"}


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_file_goes_straight_to_the_store(place: Place, in_parts: bool) -> None:
    direct, content = Direct(place.web.url), CONTENT[:17_000_000]
    begun = direct.begin("a file.bin", len(content), multipart=in_parts, crc64nvme=crc64nvme(content))
    if "put" in begun:
        assert ("incoming/" in begun["put"]["url"]) == (ONE_PUT[place.store] == "copied")
        assert put(begun["put"], content).ok
    else:
        assert in_parts or ONE_PUT[place.store] == "parts"
        direct.send_parts(begun, content)
    file = direct.finish(begun["id"])
    assert (file.status_code, file.json()["upload_status"]) == (201, "COMPLETE"), file.text
    assert digest(direct.content(begun["id"])) == digest(content)
    assert place.keys() == [file.json()["key"]]
    assert direct.ask("DELETE", f"/files/{begun['id']}").status_code == 204
    assert place.keys() == []


def test_other_bytes_never_become_a_file(place: Place) -> None:
    direct = Direct(place.web.url)
    begun = direct.begin("a.bin", 5, multipart=True, crc64nvme=crc64nvme(b"hello"))
    put(direct.address(begun["id"], 1).json(), b"other")
    assert direct.finish(begun["id"]).status_code == 422
    assert place.keys() == []


def test_a_form_goes_straight_to_the_store(place: Place) -> None:
    direct = Direct(place.web.url)
    form = direct.ask("GET", "/direct/s3/params?filename=a.bin&type=")
    if place.store not in FORMS:
        assert (form.status_code, "does not enforce" in form.json()["detail"]) == (501, True)
        return
    assert post(form.json(), b"hello").status_code == 201
    upload_id = form.json()["fields"]["key"].rpartition("/")[2]
    wait_for(lambda: direct.ask("GET", f"/files/{upload_id}").ok, 20, "file")
    assert direct.content(upload_id) == b"hello"
    assert direct.ask("DELETE", f"/files/{upload_id}").status_code == 204
