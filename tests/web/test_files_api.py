"""Listing, reading, downloading and deleting files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient

from core.database import db
from delivery.deliver import deliver
from models import File
from ops.sweeper import clean
from tests.conftest import running_app
from tests.kit.stack import BUCKET, S3Server, wait_for
from tests.kit.uploads import accepted, read

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

CONTENT = os.urandom(100_000)


def names(answer: Any) -> list[str]:
    return [row["name"] for row in answer.json["files"]]


def test_listing_goes_through_all_pages_newest_first(client: FlaskClient) -> None:
    for number in range(7):
        accepted(client, "celery", name=f"{number}.txt")
    seen: list[str] = []
    address = "/files?limit=3"
    while address:
        answer: Any = client.get(address)
        seen += names(answer)
        address = answer.json["next"]
        if len(seen) == 3:
            accepted(client, "celery", name="new.txt")  # what comes meanwhile shifts nothing
    assert seen == [f"{number}.txt" for number in reversed(range(7))]


def test_listing_is_narrowed_by_status_mode_and_name(client: FlaskClient) -> None:
    accepted(client, "normal", name="Report 100%.pdf")
    accepted(client, "celery", name="report_b.csv")
    assert names(client.get("/files?status=COMPLETE")) == ["Report 100%.pdf"]
    assert names(client.get("/files?mode=celery")) == ["report_b.csv"]
    assert names(client.get("/files?name=REPORT")) == ["report_b.csv", "Report 100%.pdf"]
    assert names(client.get("/files?name=0%25")) == ["Report 100%.pdf"]
    assert names(client.get("/files?name=_")) == ["report_b.csv"]
    assert names(client.get("/files?name=report&status=PENDING&mode=normal")) == []
    following = read(client, "/files?name=report&limit=1")["next"]
    assert "name=report" in following
    assert names(client.get(following)) == ["Report 100%.pdf"]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=x",
        "limit=-1",
        "limit=",
        "limit=%C2%B2",
        "status=DONE",
        "mode=ftp",
        "name=%00",
        f"name={'x' * 256}",
        "cursor=",
        "cursor=x",
        "cursor=AAAA",
        "cursor=MjAyNi0xMS0yNSB4",
        "cursor=%C3%A9",
        "colour=red",
        "limit=1&limit=2",
    ],
)
def test_a_query_that_makes_no_sense_is_refused(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/files?{query}")
    assert (answer.status_code, answer.content_type) == (400, "application/problem+json")


def test_a_status_that_has_not_changed_is_304(client: FlaskClient) -> None:
    row = accepted(client, "celery")
    first = client.get(f"/files/{row['id']}")
    again = client.get(f"/files/{row['id']}", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    with client.application.app_context():
        deliver(row["id"])
    changed: Any = client.get(f"/files/{row['id']}", headers={"If-None-Match": first.headers["ETag"]})
    assert (changed.status_code, changed.json["upload_status"]) == (200, "COMPLETE")


@pytest.mark.parametrize("address", ["/files", "/files/{id}", "/files/{id}/content?proxy=1"])
def test_head_is_get_without_a_body(client: FlaskClient, address: str) -> None:
    row = accepted(client, "normal")
    got = client.get(address.format(**row))
    head = client.head(address.format(**row))
    assert (head.status_code, head.data) == (got.status_code, b"")
    assert head.headers["Content-Length"] == got.headers["Content-Length"]


# --- content


def test_content_is_a_redirect_to_a_download_that_expires(client: FlaskClient) -> None:
    row = accepted(client, "normal", b"<script>alert(1)</script>", "r\u00e9sum\u00e9.html")
    answer = client.get(f"/files/{row['id']}/content")
    assert answer.status_code == 302
    assert "no-store" in answer.headers["Cache-Control"]
    address = answer.headers["Location"]
    assert "X-Amz-Expires=60" in address
    got = requests.get(address, timeout=5)
    assert got.content == b"<script>alert(1)</script>"
    assert got.headers["Content-Disposition"].startswith("attachment; ")
    assert requests.get(address.replace("Expires=60", "Expires=61"), timeout=5).status_code == 403
    assert requests.get(address.partition("?")[0], timeout=5).status_code == 403


def test_content_through_the_service_is_a_safe_download(client: FlaskClient) -> None:
    row = accepted(client, "normal", b"<script>alert(1)</script>", "page.html")
    got = client.get(f"/files/{row['id']}/content?proxy=1")
    assert (got.status_code, got.data) == (200, b"<script>alert(1)</script>")
    assert got.headers["Content-Disposition"] == "attachment; filename=page.html"
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in got.headers["Content-Security-Policy"]
    assert got.headers["ETag"] == f'"{row["id"]}"'
    again = client.get(f"/files/{row['id']}/content?proxy=1", headers={"If-None-Match": got.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=99990-", 99_990, 100_000),
        ("bytes=-5", 99_995, 100_000),
        ("bytes=99999-200000", 99_999, 100_000),
    ],
)
def test_a_range_of_the_content(client: FlaskClient, asked: str, start: int, stop: int) -> None:
    row = accepted(client, "normal", CONTENT)
    got = client.get(f"/files/{row['id']}/content?proxy=1", headers={"Range": asked})
    assert (got.status_code, got.data) == (206, CONTENT[start:stop])
    assert got.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"
    assert got.headers["Content-Length"] == str(stop - start)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Range": "bytes=100000-"}, 416),
        ({"Range": "bytes=0-1,5-6"}, 200),
        ({"Range": "lines=0-1"}, 200),
        ({"Range": "bytes=x"}, 200),
        ({"Range": "bytes=0-1", "If-Range": '"other"'}, 200),
        ({"Range": "bytes=0-1", "If-Range": "{etag}"}, 206),
    ],
)
def test_a_range_that_cannot_be_or_need_not_be(client: FlaskClient, headers: dict[str, str], status: int) -> None:
    row = accepted(client, "normal", CONTENT)
    asked = {name: value.replace("{etag}", f'"{row["id"]}"') for name, value in headers.items()}
    got = client.get(f"/files/{row['id']}/content?proxy=1", headers=asked)
    assert got.status_code == status
    if status == 416:
        assert got.headers["Content-Range"] == f"bytes */{len(CONTENT)}"
    if status == 200:
        assert got.data == CONTENT


def test_an_empty_file_has_empty_content(client: FlaskClient) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n\r\n--b--\r\n'
    row: Any = client.post("/normal_upload", data=body, content_type="multipart/form-data; boundary=b").json
    got = client.get(f"/files/{row['id']}/content?proxy=1")
    assert (got.status_code, got.data, got.headers["Content-Length"]) == (200, b"", "0")


def test_content_of_a_file_that_is_not_there_yet(client: FlaskClient) -> None:
    row = accepted(client, "celery")
    answer: Any = client.get(f"/files/{row['id']}/content")
    assert (answer.status_code, answer.json["file_id"]) == (409, row["id"])


def test_content_that_vanished_from_the_bucket_is_an_error_that_says_so(
    client: FlaskClient, bucket: S3Client
) -> None:
    row = accepted(client, "normal")
    bucket.delete_object(Bucket=BUCKET, Key=row["key"])
    answer = client.get(f"/files/{row['id']}/content?proxy=1")
    assert (answer.status_code, answer.content_type) == (502, "application/problem+json")


# --- delete


def exists(bucket: S3Client, key: str) -> bool:
    return "Contents" in bucket.list_objects_v2(Bucket=BUCKET, Prefix=key)


def rows(app: Flask) -> int:
    with app.app_context():
        return db.session.query(File).count()


@pytest.mark.parametrize("mode", ["normal", "celery"])
def test_delete_leaves_nothing(
    app: Flask, client: FlaskClient, bucket: S3Client, spool_dir: Path, mode: str
) -> None:
    row = accepted(client, mode)
    answer = client.delete(f"/files/{row['id']}")
    assert (answer.status_code, answer.data) == (204, b"")
    assert not exists(bucket, row["key"])
    assert os.listdir(spool_dir) == ["spool-id"]
    assert rows(app) == 0
    for again in (client.delete(f"/files/{row['id']}"), client.get(f"/files/{row['id']}")):
        assert again.status_code == 404
    with app.app_context():
        deliver(row["id"])  # the message that is still in the queue
    assert not exists(bucket, row["key"])


def test_delete_while_it_is_delivered_ends_in_nothing(
    app: Flask, client: FlaskClient, bucket: S3Client, spool_dir: Path
) -> None:
    row = accepted(client, "celery")
    with app.app_context():
        assert File.claim(row["id"], "a run", 30)
    assert client.delete(f"/files/{row['id']}").status_code == 204
    assert client.get(f"/files/{row['id']}").status_code == 404
    assert read(client, "/files")["files"] == []
    assert client.post(f"/files/{row['id']}/retry").status_code == 404
    with app.app_context():
        assert not File.complete(row["id"], "a run", "url", "sha")
        clean()  # the run may still be sending
    assert rows(app) == 1
    assert (spool_dir / row["id"]).exists()
    bucket.put_object(Bucket=BUCKET, Key=row["key"], Body=b"what the run sent in its last moment")
    with app.app_context():
        db.session.execute(db.update(File).values(due_at=File.created_at))
        db.session.commit()
        clean()
    assert rows(app) == 0
    assert not exists(bucket, row["key"])
    assert os.listdir(spool_dir) == ["spool-id"]


def test_a_run_that_ends_after_the_delete_takes_its_object_along(
    app: Flask, client: FlaskClient, bucket: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = accepted(client, "celery")
    ferry = app.extensions["ferryman"]
    put = ferry.store.client.put_object

    def delete_meanwhile(**arguments: Any) -> Any:  # the network is the edge: the delete comes while bytes travel
        answer = put(**arguments)
        if arguments["Key"] == row["key"]:  # not of a probe of the store
            assert client.delete(f"/files/{row['id']}").status_code == 204
        return answer

    monkeypatch.setattr(ferry.store.client, "put_object", delete_meanwhile)
    with app.app_context():
        deliver(row["id"])
    assert not exists(bucket, row["key"])


def test_delete_while_s3_is_away_is_finished_by_the_sweep(
    env: dict[str, str], s3: S3Server, bucket: S3Client, app: Flask, client: FlaskClient
) -> None:
    row = accepted(client, "normal")
    away = {**env, "S3_ENDPOINT_URL": "http://127.0.0.1:9"}
    with running_app(away) as cut_off:
        assert cut_off.test_client().delete(f"/files/{row['id']}").status_code == 204
    assert client.get(f"/files/{row['id']}").status_code == 404
    assert exists(bucket, row["key"])
    with app.app_context():
        clean()
    assert not exists(bucket, row["key"])
    assert rows(app) == 0


@pytest.fixture
def other_spool(env: dict[str, str], tmp_path: Path) -> Iterator[Flask]:
    """The same service on another machine."""
    with running_app({**env, "SPOOL_DIR": str(tmp_path / "other")}) as running:
        yield running


def test_delete_by_another_machine_drops_the_bytes_where_they_are(
    app: Flask, client: FlaskClient, other_spool: Flask, spool_dir: Path
) -> None:
    row = accepted(client, "celery")
    assert other_spool.test_client().delete(f"/files/{row['id']}").status_code == 204
    with other_spool.app_context():
        clean()
    assert (spool_dir / row["id"]).exists()
    with app.app_context():
        clean()
    assert os.listdir(spool_dir) == ["spool-id"]
    assert rows(app) == 0


def test_delete_then_an_upload_of_the_same_name(client: FlaskClient) -> None:
    row = accepted(client, "normal")
    client.delete(f"/files/{row['id']}")
    assert accepted(client, "normal")["id"] != row["id"]
    wait_for(lambda: len(read(client, "/files")["files"]) == 1)
