"""What the operator's commands find, mend and leave alone: reconcile, set-lifecycle, s3-doctor, readback."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import requests
from flask import Flask
from moto import mock_aws

from config import MIB
from core.database import new_id
from core.errors import StoreError
from delivery.deliver import deliver
from file import rename_file
from local import servers as local_servers
from models import File
from storage.checksum import Crc64Nvme
from storage.s3.requests import ObjectInfo
from tasks import upload_task
from tests.conftest import running_app
from tests.kit.damaging_proxy import FORM, HEAD, TAIL, DamagingProxy
from tests.kit.stack import BUCKET, S3Server, wait_for
from tests.kit.uploads import accepted, upload

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MODES = ["normal", "async", "celery"]


@pytest.fixture
def folder() -> str:
    """A folder in the bucket that no other test has."""
    return uuid4().hex


@pytest.fixture
def env(env: dict[str, str], folder: str) -> dict[str, str]:
    return {
        **env,
        "S3_KEY_PREFIX": f"{folder}/uploads/",
        "S3_CHECKSUM_MODE": "crc64nvme",
    }  # no probe in the bucket


def reconcile(app: Flask, *options: str, grace: int = 0) -> list[str]:
    """Run the command; the answer is what it finds, without its last line."""
    result = app.test_cli_runner().invoke(args=["reconcile", "--grace", str(grace), *options])
    assert result.exit_code == 0, result.output
    *found, total = result.output.splitlines()
    assert total == f"{len(found)} found."
    return found


class World:
    """An app, and what disagrees in it; each method makes one disagreement and answers its name."""

    def __init__(self, app: Flask, bucket: S3Client) -> None:
        self.app = app
        self.bucket = bucket
        self.client = app.test_client()
        self.spool = Path(app.extensions["ferryman"].spool.folder)
        self.prefix: str = app.extensions["ferryman"].config.S3_KEY_PREFIX

    def put(self, key: str) -> str:
        self.bucket.put_object(Bucket=BUCKET, Key=key, Body=b"x")
        return key

    def begin(self, key: str) -> str:
        """Begin a multipart upload, and leave it."""
        self.bucket.create_multipart_upload(Bucket=BUCKET, Key=key)
        return key

    def orphan_spool_file(self) -> str:
        name = new_id()
        (self.spool / name).write_bytes(b"x")
        return name

    def row_without_bytes(self) -> str:
        row = accepted(self.client, "celery")
        (self.spool / row["id"]).unlink()
        return str(row["id"])

    def object_without_row(self) -> str:
        return self.put(self.prefix + rename_file("a.txt"))

    def left_probe(self) -> str:
        return self.put(f"{self.prefix}s3-probe-0123456789abcdef")

    def row_without_object(self) -> str:
        row = accepted(self.client, "normal")
        self.bucket.delete_object(Bucket=BUCKET, Key=row["key"])
        return str(row["key"])

    def multipart_with_row(self) -> str:
        return self.begin(accepted(self.client, "celery")["key"])

    def multipart_of_complete_row(self) -> str:
        return self.begin(accepted(self.client, "normal")["key"])

    def multipart_without_row(self) -> str:
        return self.begin(self.prefix + rename_file("a.txt"))

    def everything(self) -> tuple[list[str], ...]:
        """All there is of this test: spool files, objects, unfinished uploads."""
        ours = self.prefix.partition("/")[0]
        objects = self.bucket.list_objects_v2(Bucket=BUCKET, Prefix=ours).get("Contents", [])
        uploads = self.bucket.list_multipart_uploads(Bucket=BUCKET, Prefix=ours).get("Uploads", [])
        return (
            sorted(os.listdir(self.spool)),
            sorted(entry["Key"] for entry in objects),
            sorted(entry["Key"] for entry in uploads),
        )


@pytest.fixture
def world(app: Flask, bucket: S3Client) -> World:
    return World(app, bucket)


Maker = Callable[[World], str]

MENDED: dict[str, tuple[Maker, str]] = {
    "orphan spool file": (World.orphan_spool_file, "spool file without a row"),
    "object without row": (World.object_without_row, "object without a row"),
    "probe of a process that was killed": (World.left_probe, "object without a row"),
    "multipart with row": (World.multipart_with_row, "unfinished upload that nobody works on"),
    "multipart of a complete row": (World.multipart_of_complete_row, "unfinished upload that nobody works on"),
    "multipart without row": (World.multipart_without_row, "unfinished upload that nobody works on"),
}
TOLD: dict[str, tuple[Maker, str]] = {
    "row without bytes": (World.row_without_bytes, "undelivered row without spool file"),
    "complete row without object": (World.row_without_object, "complete row without object"),
}


@pytest.mark.parametrize("kind", MENDED)
def test_what_can_be_mended_is_reported_first_and_mended_when_told(world: World, kind: str) -> None:
    make, words = MENDED[kind]
    clean = world.everything()
    name = make(world)
    before = world.everything()
    assert reconcile(world.app) == [f"{words}: {name} (would be mended by --apply)"]
    assert world.everything() == before
    assert reconcile(world.app, "--apply") == [f"{words}: {name} (mended)"]
    gone = [set(had) - set(has) for had, has in zip(before, world.everything(), strict=True)]
    assert set().union(*gone) == {name}
    assert reconcile(world.app) == []
    assert world.everything()[2] == clean[2]


@pytest.mark.parametrize("kind", TOLD)
def test_what_nothing_can_mend_is_told_only(world: World, kind: str) -> None:
    make, words = TOLD[kind]
    name = make(world)
    before = world.everything()
    for options in ([], ["--apply"]):
        assert reconcile(world.app, *options) == [f"{words}: {name} (look at it)"]
    assert world.everything() == before


def test_what_is_younger_than_the_grace_is_left_alone(world: World) -> None:
    for make, _ in (*MENDED.values(), *TOLD.values()):
        make(world)
    before = world.everything()
    assert reconcile(world.app, "--apply", grace=60) == []
    assert world.everything() == before
    assert len(reconcile(world.app)) == len(MENDED) + len(TOLD)


def test_a_service_in_order_is_in_order(world: World) -> None:
    for mode in MODES:
        accepted(world.client, mode)
    wait_for(lambda: len(os.listdir(world.spool)) == 2)  # its identity, and what Celery has not taken
    assert reconcile(world.app, "--apply") == []


def processing_row(world: World) -> str:
    """A row that a run is working on."""
    row = accepted(world.client, "celery")
    with world.app.app_context():
        assert File.claim(row["id"], "a run", 60)
    return str(row["key"])


FOREIGN: dict[str, Callable[[World, str], object]] = {
    "key of another form": lambda world, _: world.put(f"{world.prefix}notes.txt"),
    "key in a folder below": lambda world, _: world.put(f"{world.prefix}sub/{rename_file('a.txt')}"),
    "prefix that starts alike": lambda world, folder: world.put(f"{folder}/uploads2/{rename_file('a.txt')}"),
    "key above": lambda world, folder: world.put(f"{folder}/{rename_file('a.txt')}"),
    "multipart of another form": lambda world, _: world.begin(f"{world.prefix}notes.txt"),
    "multipart elsewhere": lambda world, folder: world.begin(f"{folder}/uploads2/{rename_file('a.txt')}"),
    "multipart of a running row": lambda world, _: world.begin(processing_row(world)),
    "file in the spool": lambda world, _: (world.spool / "notes.txt").write_text("mine"),
    "file with nearly our name": lambda world, _: (world.spool / new_id().upper()).write_text("mine"),
    "half file": lambda world, _: (world.spool / f"{new_id()}.part").write_text("on its way"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_not_ours_or_at_work_is_never_touched(world: World, folder: str, kind: str) -> None:
    FOREIGN[kind](world, folder)
    before = world.everything()
    assert reconcile(world.app, "--apply") == []
    assert world.everything() == before


@pytest.fixture
def bare(env: dict[str, str], bucket: S3Client) -> Iterator[World]:
    """A service without a key prefix: it cannot know whose an object is."""
    with running_app({**env, "S3_KEY_PREFIX": ""}) as app:
        yield World(app, bucket)


def test_without_a_prefix_an_object_without_row_is_told_and_stays(bare: World) -> None:
    keys = [bare.object_without_row(), bare.multipart_without_row()]
    before = bare.everything()
    found = reconcile(bare.app, "--apply")
    assert f"object without a row: {keys[0]} (look at it)" in found
    assert f"unfinished upload that nobody works on: {keys[1]} (look at it)" in found
    assert bare.everything() == before


def test_without_a_prefix_the_unfinished_upload_of_a_row_is_mended(bare: World) -> None:
    key = bare.multipart_with_row()
    assert f"unfinished upload that nobody works on: {key} (mended)" in reconcile(bare.app, "--apply")
    assert key not in bare.everything()[2]


def test_objects_of_an_earlier_prefix_are_not_missed(world: World, bare: World) -> None:
    key = accepted(world.client, "normal")["key"]
    assert not [line for line in reconcile(bare.app) if key in line]


def test_without_s3_it_says_so(env: dict[str, str]) -> None:
    with running_app({**env, "S3_ENDPOINT_URL": "http://127.0.0.1:9"}) as app:
        result = app.test_cli_runner().invoke(args=["reconcile", "--apply"])
        assert result.exit_code == 1
        assert result.output.splitlines() == [
            "Objects cannot be listed here: S3 does not answer.",
            "Unfinished uploads cannot be listed here: S3 does not answer.",
            "0 found.",
        ]


def test_the_lifecycle_rule_is_set_once_and_other_rules_stay(env: dict[str, str], bucket: S3Client) -> None:
    name = f"lifecycle-{uuid4().hex}"
    other: Any = {"ID": "other", "Status": "Enabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 3}}
    with running_app({**env, "S3_BUCKET_NAME": name}) as app:
        runner = app.test_cli_runner()
        assert runner.invoke(args=["create-bucket"]).exit_code == 0
        for days in (7, 3):
            assert runner.invoke(args=["set-lifecycle", "--days", str(days)]).exit_code == 0
            [rule] = bucket.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
            assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": days}
            assert rule.get("Filter") == {"Prefix": env["S3_KEY_PREFIX"]}
        bucket.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": [other]})
        assert runner.invoke(args=["set-lifecycle"]).exit_code == 0
        rules = bucket.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
        assert sorted(rule["ID"] for rule in rules if "ID" in rule) == ["ferryman-abandoned-multiparts", "other"]


def test_cors_rules_are_set_once_other_rules_stay_and_pages_read_links(
    env: dict[str, str], bucket: S3Client
) -> None:
    name = f"cors-{uuid4().hex}"
    other: Any = {"ID": "other", "AllowedOrigins": ["https://other.example"], "AllowedMethods": ["DELETE"]}
    origins = {"CORS_ORIGINS": "https://app.example.com"}
    reading, sending = ["GET", "HEAD"], ["GET", "HEAD", "PUT", "POST"]
    for settings, methods in ((env, [reading]), ({**env, **origins}, [sending, reading])):
        with running_app({**settings, "S3_BUCKET_NAME": name}) as app:
            runner = app.test_cli_runner()
            assert runner.invoke(args=["create-bucket"]).exit_code == 0
            bucket.put_bucket_cors(Bucket=name, CORSConfiguration={"CORSRules": [other]})
            for _ in range(2):
                assert runner.invoke(args=["set-cors"]).exit_code == 0
            rules = bucket.get_bucket_cors(Bucket=name)["CORSRules"]
            assert [rule["AllowedMethods"] for rule in rules] == [["DELETE"], *methods]
            assert "yes  lets pages read links" in runner.invoke(args=["s3-doctor"]).output
            address = upload_and_link(app.test_client())
            for origin in ("null", "https://any.example"):
                answer = requests.get(address, headers={"Origin": origin}, timeout=20)
                assert answer.headers["Access-Control-Allow-Origin"] in ("*", origin)


def upload_and_link(client: Any) -> str:
    file_id = upload(client, "normal").json["id"]
    address: str = client.post(f"/files/{file_id}/links").json["url"]
    return address


@pytest.fixture
def own_s3(tmp_path: Path) -> Iterator[S3Server]:
    """A store of its own: after a refused upload SeaweedFS takes half a minute to stop, so this one is killed."""
    server = S3Server(tmp_path)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()
        local_servers.remove_seaweed_sockets(server.port)


def examined(env: dict[str, str]) -> tuple[str, list[str]]:
    """Run the doctor; the answer is what it says, and the objects that it leaves."""
    with running_app(env) as app:
        result = app.test_cli_runner().invoke(args=["s3-doctor"])
        assert result.exit_code == 0, result.output
        listing = app.extensions["ferryman"].store.client.list_objects_v2(Bucket=BUCKET)
    return result.output, [entry["Key"] for entry in listing.get("Contents", [])]


def test_the_doctor_trusts_the_checksums_of_a_store_that_checks_them(
    env: dict[str, str], own_s3: S3Server
) -> None:
    said, left = examined({**env, **own_s3.settings, "S3_CHECKSUM_MODE": "auto"})
    assert said.endswith("Safe: S3_CHECKSUM_MODE=auto\n")
    assert "here one request: checksums are verified; parts: checksums are verified\n" in said
    assert "no" not in [line[2:4].lower() for line in said.splitlines()]
    assert left == []


@pytest.fixture
def moto_env(env: dict[str, str]) -> Iterator[dict[str, str]]:
    """A store that takes a wrong checksum."""
    with mock_aws():
        settings = {**env, "S3_ENDPOINT_URL": ""}
        with running_app(settings) as app:
            assert app.test_cli_runner().invoke(args=["create-bucket"]).exit_code == 0
        yield settings


def test_the_doctor_finds_what_a_store_does_not_confirm_read_back(moto_env: dict[str, str]) -> None:
    said, left = examined(moto_env)
    assert said.endswith("Safe: S3_CHECKSUM_MODE=crc64nvme\n")
    assert left == []


def test_the_doctor_says_when_there_is_no_store(env: dict[str, str]) -> None:
    with running_app({**env, "S3_ENDPOINT_URL": "http://127.0.0.1:9"}) as app:
        result = app.test_cli_runner().invoke(args=["s3-doctor"])
        assert result.exit_code == 1
        assert "Error: S3 does not answer." in result.output


@pytest.fixture(params=["seaweedfs", "moto"])
def readback(request: pytest.FixtureRequest, env: dict[str, str]) -> Iterator[Flask]:
    """A service that checks by reading back, on each store."""
    if request.param == "moto":
        env = request.getfixturevalue("moto_env")
    with running_app({**env, "S3_CHECKSUM_MODE": "readback"}) as running:
        yield running


def deliver_as_worker(app: Flask, file_id: str) -> None:
    """What a Celery worker does with the message."""
    with app.app_context():
        upload_task(file_id)


@pytest.mark.parametrize(("mode", "size"), [*((mode, 5) for mode in MODES), ("async", 17 * MIB)])
def test_readback_delivers_in_every_mode(readback: Flask, mode: str, size: int) -> None:
    content = os.urandom(size)
    client = readback.test_client()
    answer: Any = client.post(f"/{mode}_upload", data=HEAD + content + TAIL, content_type=FORM)
    if mode == "celery":
        deliver_as_worker(readback, answer.json["id"])
    wait_for(lambda: b"COMPLETE" in client.get(answer.headers["Location"]).data)
    body = readback.extensions["ferryman"].store.client.get_object(Bucket=BUCKET, Key=answer.json["key"])["Body"]
    with body:
        assert body.read() == content


def test_readback_does_not_put_damaged_bytes(readback: Flask) -> None:
    crc = Crc64Nvme()
    crc.update(b"right")
    info = ObjectInfo(readback.extensions["ferryman"].config.S3_KEY_PREFIX + "x", "text/plain", 5, crc.text())
    store = readback.extensions["ferryman"].store
    with pytest.raises(StoreError, match="different bytes"):
        store.put(BytesIO(b"wrong"), info)
    assert not store.holds(info)


def test_readback_adopts_no_other_object_and_overwrites_none(readback: Flask) -> None:
    row = accepted(readback.test_client(), "celery", b"right")
    s3: S3Client = readback.extensions["ferryman"].store.client
    s3.put_object(Bucket=BUCKET, Key=row["key"], Body=b"wrong")
    with readback.app_context():
        deliver(row["id"])
        found = File.find(row["id"])
    assert found
    assert (found.upload_status, found.error) == ("PENDING", "S3 holds other bytes under this key.")
    with s3.get_object(Bucket=BUCKET, Key=row["key"])["Body"] as body:
        assert body.read() == b"wrong"


class Damage:
    """Flips a byte of what passes, once."""

    def __init__(self) -> None:
        self.done = False

    def __call__(self, data: bytes) -> bytes:
        damaged = data if self.done else data.replace(b"precious", b"prec!ous")
        self.done = self.done or damaged != data
        return damaged


@pytest.fixture(params=["crc64nvme", "readback"])
def damaged(request: pytest.FixtureRequest, env: dict[str, str], own_s3: S3Server) -> Iterator[Flask]:
    """A service with a network that damages one upload."""
    proxy = DamagingProxy(own_s3.port, Damage())
    settings = {**env, **own_s3.settings, "S3_ENDPOINT_URL": proxy.url, "S3_CHECKSUM_MODE": request.param}
    with running_app(settings) as running:
        yield running
    proxy.close()


def test_damage_on_the_way_is_never_complete_and_heals(damaged: Flask) -> None:
    file_id = accepted(damaged.test_client(), "celery", b"precious")["id"]
    with damaged.app_context():
        deliver(file_id)
        first = File.find(file_id)
        assert first
        assert first.upload_status == "PENDING"
        deliver(file_id)
        second = File.find(file_id)
        assert second
        assert second.upload_status == "COMPLETE", second.error
