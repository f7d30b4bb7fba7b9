"""Direct uploads through the real server and a real S3: begin, send, finish, end."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.kit.bucket import keys_of
from tests.kit.direct import Direct, crc64nvme, put
from tests.kit.stack import BUCKET, RedisServer, S3Server, Web, serving, wait_for

MIB = 1024 * 1024
HELLO = b"hello"


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("direct")
    presets = folder / "presets.toml"
    presets.write_text('[thumb]\nkind = "image"\nmax = 64\n')
    settings = {"DIRECT": "true", "S3_KEY_PREFIX": "direct/", "DENIED_CONTENT_TYPES": "text/html"}
    with serving(folder, s3, redis_server, workers=2, **settings) as web:
        yield web


@pytest.fixture
def direct(web: Web) -> Direct:
    return Direct(web.url)


def test_one_put(direct: Direct, web: Web) -> None:
    begun = direct.begin("Bericht für 東京.txt", 5, content_type="text/plain", crc64nvme=crc64nvme(HELLO))
    assert direct.ask("GET", f"/files/{begun['id']}").status_code == 404
    assert direct.finish(begun["id"]).status_code == 409
    assert put(begun["put"], HELLO).status_code == 200
    answer = direct.finish(begun["id"])
    assert (answer.status_code, answer.headers["Location"]) == (201, f"/files/{begun['id']}")
    file = answer.json()
    assert (file["upload_status"], file["mode"], file["size"]) == ("COMPLETE", "direct", 5)
    assert (file["name"], file["content_type"]) == ("Bericht für 東京.txt", "text/plain")
    assert file["detected_type"] == "text/plain"
    assert file["url"].endswith(file["key"])
    assert direct.content(begun["id"]) == HELLO
    assert direct.finish(begun["id"]).json() == web.file(begun["id"])


@pytest.mark.parametrize("size", [0, 1, 5 * MIB])
@pytest.mark.parametrize("digest", ["", "crc64nvme", "sha256", "md5"])
def test_sizes_and_digests(direct: Direct, size: int, digest: str) -> None:
    content = os.urandom(size)
    digests = {
        "crc64nvme": crc64nvme(content),
        "sha256": base64.b64encode(hashlib.sha256(content).digest()).decode(),
        "md5": base64.b64encode(hashlib.md5(content).digest()).decode(),
    }
    begun = direct.begin("a.bin", size, **({digest: digests[digest]} if digest else {}))
    assert put(begun["put"], content).ok
    file = direct.finish(begun["id"]).json()
    assert (file["upload_status"], file["size"]) == ("COMPLETE", size)
    if digest == "sha256":
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert direct.content(begun["id"]) == content


@pytest.mark.parametrize("checked", [False, True])
def test_parts(direct: Direct, checked: bool) -> None:
    content = os.urandom(17 * MIB)
    begun = direct.begin("a.bin", len(content), multipart=True, crc64nvme=crc64nvme(content))
    assert (begun["part_size"], begun["parts"]) == (16 * MIB, 2)
    first, last = content[: 16 * MIB], content[16 * MIB :]
    given = {"crc64nvme": crc64nvme(last)} if checked else {}
    assert put(direct.address(begun["id"], 2, **given).json(), last).ok
    unfinished = direct.finish(begun["id"])
    assert (unfinished.status_code, unfinished.json()["detail"]) == (
        409,
        f"S3 has {MIB} of {len(content)} bytes.",
    )
    shown = direct.ask("GET", f"/direct/{begun['id']}").json()
    assert shown["sent"] == [{"number": 2, "size": MIB}]
    assert put(direct.address(begun["id"], 1).json(), first).ok
    file = direct.finish(begun["id"]).json()
    assert (file["upload_status"], file["size"], file["sha256"]) == ("COMPLETE", len(content), None)
    assert direct.content(begun["id"]) == content
    assert direct.ask("GET", f"/direct/{begun['id']}").status_code == 409
    assert direct.address(begun["id"], 1).status_code == 409


def test_large_files_go_in_parts(direct: Direct) -> None:
    begun = direct.begin("a.bin", 1024 * MIB)
    assert (begun["part_size"], begun["parts"]) == (64 * MIB, 16)
    assert direct.delete(begun["id"]).status_code == 204
    assert direct.finish(begun["id"]).status_code == 410
    assert direct.address(begun["id"], 1).status_code == 410


def test_metadata_and_lifetime(direct: Direct) -> None:
    begun = direct.begin(metadata={"order": "17"}, expires_in=3600)
    put(begun["put"], HELLO)
    file = direct.finish(begun["id"]).json()
    assert file["metadata"] == {"order": "17"}
    assert file["expires_at"] > file["created_at"]


def test_a_client_that_never_returns(direct: Direct, web: Web) -> None:
    begun = direct.begin()
    put(begun["put"], HELLO)
    found = wait_for(lambda: direct.ask("GET", f"/files/{begun['id']}"), 20, what="file")
    assert found.json()["upload_status"] == "COMPLETE"


def test_events_tell_of_it(direct: Direct) -> None:
    begun = direct.begin()
    put(begun["put"], HELLO)
    direct.finish(begun["id"])
    waited = direct.ask("GET", f"/files/{begun['id']}", Prefer="wait=10", If_None_Match='"none"')
    assert waited.elapsed.total_seconds() < 5
    events = requests.get(f"{direct.url}/files/{begun['id']}/events", timeout=20).text
    assert '"upload_status": "COMPLETE"' in events


BAD = [
    ({}, "size is missing"),
    ({"size": 5}, "name must be a text"),
    ({"name": "a", "size": -1}, "size must be"),
    ({"name": "a", "size": "5"}, "size must be"),
    ({"name": "a", "size": True}, "size must be"),
    ({"name": "", "size": 5}, "no name"),
    ({"name": 5, "size": 5}, "name must be a text"),
    ({"name": "a\0b", "size": 5}, "NUL"),
    ({"name": "x" * 256, "size": 5}, "255 bytes"),
    ({"name": "a", "size": 5, "key": "../../etc"}, "Unknown: key"),
    ({"name": "a", "size": 5, "content_type": "no type"}, "not a media type"),
    ({"name": "a", "size": 5, "content_type": "text/plain\r\nX: y"}, "not a media type"),
    ({"name": "a", "size": 5, "crc64nvme": "zz"}, "base64 of 8 bytes"),
    ({"name": "a", "size": 5, "crc64nvme": crc64nvme(HELLO)[:-1] + "é"}, "base64 of 8 bytes"),
    ({"name": "a", "size": 5, "sha256": "00" * 32}, "base64 of 32 bytes"),
    ({"name": "a", "size": 5, "multipart": "yes"}, "multipart must be"),
    ({"name": "a", "size": 5, "metadata": []}, "metadata must be"),
    ({"name": "a", "size": 5, "metadata": {"a": 1}}, "metadata"),
    ({"name": "a", "size": 5, "expires_in": 0}, "expires_in"),
    ({"name": "a", "size": 5, "process": "nothing-like-it"}, "preset"),
]


@pytest.mark.parametrize(("body", "words"), BAD, ids=lambda value: str(value)[:40])
def test_what_is_refused_at_once(direct: Direct, body: Any, words: str) -> None:
    answer = direct.ask("POST", "/direct", body)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["detail"]


def test_other_refusals(direct: Direct) -> None:
    assert direct.create(size=6 * 1024 * MIB).status_code == 413
    assert direct.create(content_type="text/html").status_code == 415
    assert requests.post(f"{direct.url}/direct", data=b"x", timeout=20).status_code == 415
    assert direct.address(direct.begin()["id"], 1).status_code == 409
    in_parts = direct.begin(size=5, multipart=True)
    for number in ("0", "2", "1" * 50):
        assert direct.ask("GET", f"/direct/{in_parts['id']}/parts/{number}").status_code == 400
    for number in ("-1", "x", "1.0"):
        assert direct.ask("GET", f"/direct/{in_parts['id']}/parts/{number}").status_code == 404
    assert direct.address(in_parts["id"], 1, crc64nvme="x").status_code == 400
    for upload_id in ("0" * 32, "..%2F..%2Fetc", "A" * 32, "0" * 31, "%00"):
        assert direct.finish(upload_id).status_code in (400, 404)
        assert direct.delete(upload_id).status_code in (400, 404)
        assert direct.address(upload_id, 1).status_code in (400, 404)


def gone(direct: Direct, begun: dict[str, Any]) -> None:
    """Nothing of an upload is left."""
    assert direct.finish(begun["id"]).status_code == 410
    assert direct.ask("GET", f"/files/{begun['id']}").status_code == 404


def test_a_lie_about_the_type_is_removed(direct: Direct, bucket: Any) -> None:
    page = b"<!doctype html><script>alert(1)</script>"
    begun = direct.begin("a.txt", len(page), content_type="text/plain")
    put(begun["put"], page)
    answer = direct.finish(begun["id"])
    assert (answer.status_code, "text/html" in answer.json()["detail"]) == (422, True)
    gone(direct, begun)
    assert not [key for key in keys_of(bucket, BUCKET) if begun["put"]["url"].partition("?")[0].endswith(key)]


@pytest.mark.parametrize("digest", ["sha256", "md5"])
def test_a_lie_about_the_bytes_is_removed(direct: Direct, digest: str) -> None:
    lie = base64.b64encode(hashlib.new(digest, b"other").digest()).decode()
    begun = direct.begin("a.txt", 5, **{digest: lie})
    put(begun["put"], HELLO)
    answer = direct.finish(begun["id"])
    assert (answer.status_code, answer.json()["detail"]) == (422, f"The bytes do not match the {digest}.")
    gone(direct, begun)


def test_a_lie_about_the_bytes_of_parts_is_removed(direct: Direct) -> None:
    begun = direct.begin(multipart=True, crc64nvme=crc64nvme(b"other"))
    put(direct.address(begun["id"], 1).json(), HELLO)
    assert direct.finish(begun["id"]).status_code == 422
    gone(direct, begun)


def test_more_bytes_than_announced(direct: Direct) -> None:
    begun = direct.begin(multipart=True)
    put(direct.address(begun["id"], 1).json(), HELLO + b"!")
    assert direct.finish(begun["id"]).status_code == 422
    gone(direct, begun)


def test_idempotency(direct: Direct) -> None:
    def create(name: str) -> requests.Response:
        return direct.ask("POST", "/direct", {"name": name, "size": 5}, Idempotency_Key="direct-1")

    first, again = create("a.txt"), create("a.txt")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    assert create("b.txt").status_code == 422
    assert put(again.json()["put"], HELLO).ok
    assert direct.finish(first.json()["id"]).status_code == 201
    assert create("a.txt").json()["id"] == first.json()["id"]


def test_delete_removes_what_is_there(direct: Direct, bucket: Any) -> None:
    begun = direct.begin()
    put(begun["put"], HELLO)
    assert direct.delete(begun["id"]).status_code == 204
    assert direct.delete(begun["id"]).status_code == 410
    assert not [key for key in keys_of(bucket, BUCKET) if begun["put"]["url"].partition("?")[0].endswith(key)]


def test_the_file_can_be_deleted(direct: Direct, bucket: Any) -> None:
    begun = direct.begin()
    put(begun["put"], HELLO)
    key = direct.finish(begun["id"]).json()["key"]
    assert key in keys_of(bucket, BUCKET)
    assert direct.ask("DELETE", f"/files/{begun['id']}").status_code == 204
    assert key not in keys_of(bucket, BUCKET)
    assert direct.finish(begun["id"]).status_code == 404
