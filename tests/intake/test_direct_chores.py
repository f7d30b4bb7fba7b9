"""Direct uploads that go wrong: S3 away, clients that never return, quotas, lost rows and objects."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, update

from access.quota import Account, ReservationRow
from core.database import db, utcnow
from core.services import services
from intake.direct import chores
from intake.direct.rows import DirectUpload
from models import File
from storage import bucket as s3_bucket
from tests.conftest import running_app
from tests.kit.bucket import keys_of
from tests.kit.direct import post, put
from tests.kit.proxy import Proxy
from tests.kit.stack import BUCKET, S3Server, wait_for
from tests.kit.uploads import MAKE, read
from tests.kit.zoo import png

MIB = 1024 * 1024
HELLO = b"hello"


@pytest.fixture
def link(s3: S3Server) -> Iterator[Proxy]:
    """The way of one test to S3, which may break."""
    proxy = Proxy(s3.port)
    yield proxy
    proxy.close()


@pytest.fixture
def prefix() -> str:
    return f"chores-{uuid4().hex}/"


@pytest.fixture
def client(env: dict[str, str], link: Proxy, prefix: str, tmp_path: Any) -> Iterator[FlaskClient]:
    presets = tmp_path / "presets.toml"
    presets.write_text('[thumb]\nkind = "image"\nwidth = 64\nheight = 64\n')
    settings = {
        "DIRECT": "true",
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{link.port}",
        "S3_KEY_PREFIX": prefix,
        "DENIED_CONTENT_TYPES": "text/html",
        "PRESETS_FILE": str(presets),
    }
    with running_app({**env, **settings}) as app:
        yield app.test_client()


def begin(client: FlaskClient, size: int = 5, name: str = "a.txt", **wanted: Any) -> Any:
    answer = client.post("/direct", json={"name": name, "size": size, **wanted})
    assert answer.status_code == 201, answer.text
    return answer.json


def finish(client: FlaskClient, begun: Any) -> Any:
    return client.post(f"/direct/{begun['id']}/finish")


def change(app: Flask, table: Any = DirectUpload, **values: Any) -> None:
    with app.app_context():
        db.session.execute(update(table).values(**values))
        db.session.commit()


def look(app: Flask) -> None:
    """Look at all unfinished uploads, as if each were due."""
    change(app, look_at=utcnow() - timedelta(seconds=1))
    with app.app_context():
        chores.look_at_due()


def row(app: Flask, begun: Any) -> Any:
    with app.app_context():
        found = db.session.execute(select(DirectUpload.__table__).where(DirectUpload.id == begun["id"])).first()
        db.session.rollback()
        return found


def is_gone(app: Flask, begun: Any) -> bool:
    found = row(app, begun)
    return bool(found.gone_at and not found.finished_at)


def expire(app: Flask) -> None:
    change(app, expires_at=utcnow() - timedelta(seconds=1))


def reserved(app: Flask) -> tuple[int, int, int]:
    """Bytes uploaded today, bytes reserved, and the number of reservations."""
    with app.app_context():
        uploaded = db.session.scalar(select(func.coalesce(func.sum(Account.uploaded_bytes), 0)))
        size = db.session.scalar(select(func.coalesce(func.sum(ReservationRow.reserved_bytes), 0)))
        count = db.session.scalar(select(func.count()).select_from(ReservationRow))
        db.session.rollback()
        return int(uploaded or 0), int(size or 0), int(count or 0)


def key_of(begun: Any) -> str:
    return str(begun["put"]["url"]).partition("?")[0].partition(f"/{BUCKET}/")[2]


# S3 does not answer.


def test_s3_away_at_finish(client: FlaskClient, link: Proxy) -> None:
    begun = begin(client, metadata={"order": "17"})
    put(begun["put"], HELLO)
    link.refuse()
    answer = finish(client, begun)
    assert (answer.status_code, answer.json["upload_status"], answer.json["size"]) == (202, "PENDING", 5)
    assert answer.json["metadata"] == {"order": "17"}
    assert finish(client, begun).status_code == 202
    look(client.application)
    assert read(client, f"/files/{begun['id']}")["upload_status"] == "PENDING"
    link.recover()
    look(client.application)
    file = read(client, f"/files/{begun['id']}")
    assert (file["upload_status"], file["size"], file["detected_type"]) == ("COMPLETE", 5, "text/plain")
    assert file["url"].endswith(file["key"])
    assert finish(client, begun).status_code == 201
    assert client.get(f"/files/{begun['id']}/content?proxy=1").data == HELLO


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "never came"), (b"<!doctype html><html>", "text/html")],
    ids=["nothing there", "a page"],
)
def test_what_was_promised_turns_out_wrong(client: FlaskClient, link: Proxy, content: bytes, words: str) -> None:
    begun = begin(client, len(content) or 5)
    if content:
        put(begun["put"], content)
    link.refuse()
    assert finish(client, begun).status_code == 202
    link.recover()
    look(client.application)
    file = read(client, f"/files/{begun['id']}")
    assert (file["upload_status"], words in file["error"]) == ("ERROR", True)
    assert is_gone(client.application, begun)
    assert client.post(f"/files/{begun['id']}/retry").status_code == 409


def test_presets_of_what_was_promised(client: FlaskClient, link: Proxy) -> None:
    picture = png()
    begun = begin(client, len(picture), "a", process="thumb")
    put(begun["put"], picture)
    link.refuse()
    assert finish(client, begun).status_code == 202
    link.recover()
    look(client.application)
    file = read(client, f"/files/{begun['id']}")
    assert (file["upload_status"], file["process"]) == ("COMPLETE", ["thumb"])
    assert [one["preset"] for one in file["derivatives"]] == ["thumb"]


def test_a_promise_that_s3_never_lets_us_keep(client: FlaskClient, link: Proxy) -> None:
    begun = begin(client)
    put(begun["put"], HELLO)
    link.refuse()
    finish(client, begun)
    change(client.application, File, retry_until=utcnow())
    look(client.application)
    assert read(client, f"/files/{begun['id']}")["upload_status"] == "ERROR"
    link.recover()
    assert client.post(f"/files/{begun['id']}/retry").status_code == 202
    look(client.application)
    assert read(client, f"/files/{begun['id']}")["upload_status"] == "COMPLETE"


def test_a_promised_file_that_is_deleted(client: FlaskClient, prefix: str, link: Proxy, bucket: Any) -> None:
    begun = begin(client)
    put(begun["put"], HELLO)
    link.refuse()
    finish(client, begun)
    assert client.delete(f"/files/{begun['id']}").status_code == 204
    link.recover()
    look(client.application)
    assert is_gone(client.application, begun)
    assert client.get(f"/files/{begun['id']}").status_code == 404
    assert key_of(begun) not in keys_of(bucket, BUCKET, prefix)


def test_s3_away_from_the_start(client: FlaskClient, link: Proxy) -> None:
    link.refuse()
    assert client.post("/direct", json={"name": "a.txt", "size": 5}).status_code == 502


def test_reading_much_takes_its_time(client: FlaskClient) -> None:
    content = os.urandom(65 * MIB)
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    begun = begin(client, len(content), "a.bin", sha256=digest)
    put(begun["put"], content)
    assert finish(client, begun).status_code == 202
    wait_for(lambda: read(client, f"/files/{begun['id']}")["upload_status"] == "COMPLETE", what="COMPLETE")
    assert read(client, f"/files/{begun['id']}")["sha256"] == hashlib.sha256(content).hexdigest()


# Clients that never return.


def test_expiry(client: FlaskClient, prefix: str, bucket: Any) -> None:
    app = client.application
    never, in_parts = begin(client), begin(client, multipart=True)
    put(read(client, f"/direct/{in_parts['id']}/parts/1"), HELLO)
    look(app)
    assert not is_gone(app, never)
    assert not is_gone(app, in_parts)
    expire(app)
    look(app)
    assert is_gone(app, never)
    assert is_gone(app, in_parts)
    with app.app_context():
        assert not list(s3_bucket.multiparts(services().store, prefix))
    assert finish(client, never).status_code == 410


def test_what_comes_before_the_end_is_a_file(client: FlaskClient) -> None:
    begun = begin(client)
    put(begun["put"], HELLO)
    expire(client.application)
    look(client.application)
    assert read(client, f"/files/{begun['id']}")["upload_status"] == "COMPLETE"


def test_what_comes_after_the_end_is_removed(client: FlaskClient, prefix: str, bucket: Any) -> None:
    app, begun = client.application, begin(client)
    expire(app)
    look(app)
    put(begun["put"], HELLO)
    assert key_of(begun) in keys_of(bucket, BUCKET, prefix)
    change(app, updated_at=utcnow() - timedelta(days=2))
    with app.app_context():
        chores.forget_old()
    assert key_of(begun) not in keys_of(bucket, BUCKET, prefix)
    assert row(app, begun) is None


def test_a_form_that_is_posted_after_the_file_is_there(client: FlaskClient, prefix: str, bucket: Any) -> None:
    app, form = client.application, read(client, "/direct/s3/params?filename=a.txt&type=")
    post(form, HELLO)
    look(app)
    post(form, b"other")
    assert form["fields"]["key"] in keys_of(bucket, BUCKET, prefix)
    change(app, updated_at=utcnow() - timedelta(days=2))
    with app.app_context():
        chores.forget_old()
    [left] = keys_of(bucket, BUCKET, prefix)
    assert read(client, "/files")["files"][0]["key"] == left


def test_parts_beyond_the_maximum_end_it(client: FlaskClient) -> None:
    app, begun = client.application, begin(client, multipart=True)
    put(read(client, f"/direct/{begun['id']}/parts/1"), HELLO + b"!")
    look(app)
    assert is_gone(app, begun)


def test_parts_that_a_lifecycle_rule_has_aborted(client: FlaskClient) -> None:
    app, begun = client.application, begin(client, multipart=True)
    put(read(client, f"/direct/{begun['id']}/parts/1"), HELLO)
    found = row(app, begun)
    with app.app_context():
        services().store.abort_parts(found.key, found.s3_upload_id)
    answer = finish(client, begun)
    assert (answer.status_code, "dropped" in answer.json["detail"]) == (410, True)
    assert is_gone(app, begun)


def test_parts_that_s3_has_completed_before(client: FlaskClient) -> None:
    """The process died between S3's answer and the row."""
    app, begun = client.application, begin(client, multipart=True)
    put(read(client, f"/direct/{begun['id']}/parts/1"), HELLO)
    found = row(app, begun)
    change(app, closing=True)
    with app.app_context():
        parts = [part.entry for part in services().store.sent_parts(found.key, found.s3_upload_id)]
        services().door.complete(found.key, found.s3_upload_id, parts, "")
    assert finish(client, begun).status_code == 201


def test_a_dead_holder(client: FlaskClient) -> None:
    app, begun = client.application, begin(client)
    put(begun["put"], HELLO)
    change(app, claim="dead", look_at=utcnow() + timedelta(seconds=1))
    began = time.monotonic()
    assert finish(client, begun).status_code == 201
    assert time.monotonic() - began > 0.9
    other = begin(client)
    change(app, claim="alive", look_at=utcnow() + timedelta(seconds=60))
    assert finish(client, other).status_code == 423


def test_looks_become_rarer(client: FlaskClient) -> None:
    app, begun = client.application, begin(client)

    def pause() -> float:
        with app.app_context():
            change(app, look_at=utcnow() - timedelta(seconds=1))
            chores.look_at_due()
        return float((row(app, begun).look_at - utcnow()).total_seconds())

    pauses = []
    for age in (1, 4, 16, 300):
        change(app, created_at=utcnow() - timedelta(seconds=age))
        pauses.append(round(pause()))
    assert pauses == [2, 4, 16, 60]


# Limits.


def test_quotas(make: MAKE) -> None:
    client = make(DIRECT="true", KEY_BYTES_PER_DAY="1000", KEY_FILES_IN_FLIGHT="2")
    app, begun = client.application, begin(client, 600)
    assert reserved(app) == (0, 600, 1)
    assert client.post("/direct", json={"name": "a", "size": 600}).status_code == 429
    put(begun["put"], bytes(600))
    assert finish(client, begun).status_code == 201
    assert reserved(app) == (600, 0, 0)
    ended = [begin(client, 10) for _ in range(2)]
    assert client.post("/direct", json={"name": "a", "size": 1}).status_code == 429
    assert [client.delete(f"/direct/{one['id']}").status_code for one in ended] == [204, 204]
    assert reserved(app) == (600, 0, 0)


def test_without_a_size_the_most_is_reserved(make: MAKE) -> None:
    client = make(DIRECT="true", KEY_BYTES_PER_DAY=str(100 * MIB), DIRECT_MAX_BYTES=str(60 * MIB))
    app, address = client.application, "/direct/s3/params?filename=a.txt&type="
    forms = [read(client, address) for _ in range(2)]
    assert reserved(app) == (0, 100 * MIB, 2)
    assert client.get(address).status_code == 429
    for form in forms:
        post(form, HELLO)
    look(app)
    assert reserved(app) == (10, 0, 0)
    assert post(read(client, address), bytes(61 * MIB)).status_code == 400


def test_uploads_in_progress_are_counted_by_all_doors(make: MAKE) -> None:
    client = make(DIRECT="true", UPLOADS_UNFINISHED="2")
    tus = {"Tus-Resumable": "1.0.0", "Upload-Length": "5"}
    assert client.post("/uploads", headers=tus).status_code == 201
    begun = begin(client)
    assert client.post("/direct", json={"name": "a", "size": 5}).status_code == 429
    assert client.post("/uploads", headers=tus).status_code == 429
    put(begun["put"], HELLO)  # whose client never says so, but there is no need to wait for the sweep
    assert client.post("/direct", json={"name": "a", "size": 5}).status_code == 201


@pytest.mark.parametrize("settings", [{}, {"DIRECT": "true", "CLAMD_ADDRESS": "127.0.0.1:3310"}])
def test_where_it_is_off(make: MAKE, settings: dict[str, str]) -> None:
    client = make(**settings)
    asks: list[Callable[[], Any]] = [
        lambda: client.post("/direct", json={"name": "a", "size": 5}),
        lambda: client.post("/direct/tickets"),
        lambda: client.get(f"/direct/{'0' * 32}/parts/1"),
        lambda: client.post(f"/direct/{'0' * 32}/finish"),
        lambda: client.get("/direct/s3/params?filename=a"),
        lambda: client.post("/direct/s3/multipart", json={"filename": "a"}),
    ]
    assert [ask().status_code for ask in asks] == [404] * len(asks)


def test_reconcile_and_metrics_know_them(client: FlaskClient, prefix: str, bucket: Any) -> None:
    app, waiting, in_parts = client.application, begin(client), begin(client, multipart=True)
    put(waiting["put"], HELLO)
    put(read(client, f"/direct/{in_parts['id']}/parts/1"), HELLO)
    runner = app.test_cli_runner()
    assert "0 found." in runner.invoke(args=["reconcile", "--grace", "0"]).output
    listed = runner.invoke(args=["uploads", "list"]).output
    assert waiting["id"] in listed
    assert "direct" in listed
    assert "ferryman_unfinished_direct_uploads 2.0" in client.get("/metrics").text
    ended = runner.invoke(args=["uploads", "expire", waiting["id"], in_parts["id"]]).output
    assert "2 ended." in ended
    assert is_gone(app, waiting)
    assert not keys_of(bucket, BUCKET, prefix)
