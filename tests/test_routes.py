"""The endpoints in one process, on a real store and broker."""

from __future__ import annotations

import base64
import json
import re
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from app import create_app
from delivery.queue import spool_queue
from tests.kit.stack import RedisServer, S3Server, wait_for
from tests.kit.uploads import read, upload

INLINE = 1000


@pytest.fixture
def env(env: dict[str, str]) -> dict[str, str]:
    return {**env, "CELERY_INLINE_MAX_BYTES": str(INLINE)}


def test_the_index_names_every_endpoint(app: Flask, client: FlaskClient) -> None:
    endpoints = read(client, "/")["endpoints"]
    listed = {entry.split()[1] for entry in endpoints}
    rules = {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule) for rule in app.url_map.iter_rules()} - {
        "/static/{filename}",
        "/docs/assets/{filename}",
        *("/normal_upload/", "/async_upload/", "/celery_upload/", "/uploads/"),  # others of the same
    }
    assert listed == {rule for rule in rules if not rule.startswith("/direct/s3/")}  # as below a ticket


@pytest.mark.parametrize(
    "name",
    [
        "報告書.txt",
        "naïve café.txt",
        'say "hi".txt',
        "..\\..\\up.txt",
        "../../etc/passwd.txt",
        "x" * 251 + ".txt",
        "a;b=c.txt",
    ],
)
def test_the_name_stays_as_it_was_sent(client: FlaskClient, name: str) -> None:
    sent = name.replace('"', "%22")
    body = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{sent}"\r\n\r\nx\r\n--b--\r\n'
    kind = "multipart/form-data; boundary=b"
    answer: Any = client.post("/normal_upload", data=body.encode(), content_type=kind)
    assert answer.status_code == 201, answer.text
    assert answer.json["name"] == name
    assert "/" not in answer.json["key"]
    assert answer.json["key"].isascii()
    assert read(client, answer.headers["Location"]) == answer.json


def test_the_file_is_the_same_everywhere(client: FlaskClient) -> None:
    answer = upload(client, "async", name="hello.txt")
    assert answer.json["url"] is None
    wait_for(lambda: read(client, answer.headers["Location"])["upload_status"] == "COMPLETE")
    row = read(client, answer.headers["Location"])
    assert list(row) == list(answer.json)
    assert row["created_at"].endswith("Z")


def test_other_fields_are_passed_over(client: FlaskClient) -> None:
    data = {"note": "hello", "file": (BytesIO(b"x"), "a.txt"), "more": "x" * 10_000}
    assert client.post("/normal_upload", data=data).status_code == 201


def queued(redis: Redis, queue: str) -> list[Any]:
    messages = redis.lrange(queue, 0, -1)
    redis.delete(queue)
    return list(messages)


@pytest.fixture
def redis(redis_server: RedisServer) -> Redis:
    redis_server.client.flushall()
    return redis_server.client


def test_a_file_is_delivered_when_its_client_has_the_answer(app: Flask) -> None:
    form = {"file": (BytesIO(b"hello"), "hello.txt")}
    with FlaskClient(app).post("/async_upload", data=form) as answer:
        address = answer.location
        time.sleep(0.2)
        assert read(app.test_client(), address)["upload_status"] == "PENDING"
    wait_for(lambda: read(app.test_client(), address)["upload_status"] == "COMPLETE")


def test_a_small_file_travels_in_its_message_encoded_once(client: FlaskClient, redis: Redis) -> None:
    content = b"\xff" * INLINE
    answer = upload(client, "celery", content, "hello.txt")
    assert answer.status_code == 202
    [message] = queued(redis, "ferryman")
    body = json.loads(json.loads(message)["body"])
    assert body[0] == [answer.json["id"], base64.b64encode(content).decode()]
    assert "body_encoding" not in json.loads(message)["properties"] or (
        json.loads(message)["properties"]["body_encoding"] is None
    )


def test_a_large_file_travels_as_its_id_to_the_workers_of_its_spool(
    app: Flask, client: FlaskClient, redis: Redis
) -> None:
    answer = upload(client, "celery", b"x" * (INLINE + 1))
    assert queued(redis, "ferryman") == []
    [message] = queued(redis, spool_queue(app.extensions["ferryman"].spool.id))
    assert json.loads(json.loads(message)["body"])[0] == [answer.json["id"], None]
    assert len(message) < 2000


def test_readiness_is_of_what_accepts_and_the_status_of_all(client: FlaskClient) -> None:
    assert client.get("/readyz").status_code == 200
    assert read(client, "/readyz") == {"status": "ready", "checks": {"database": "ok", "spool": "ok"}}
    assert read(client, "/status") == {
        "status": "ok",
        "checks": {"database": "ok", "spool": "ok", "bucket": "ok", "broker": "ok", "loops": "ok"},
        "oldest_undelivered_seconds": None,
        "unfinished_uploads": 0,
    }
    upload(client, "celery", name="hello.txt")
    assert read(client, "/status")["oldest_undelivered_seconds"] is None  # it is kept for a second
    wait_for(lambda: read(client, "/status")["oldest_undelivered_seconds"] is not None, 5)
    assert 0 <= read(client, "/status")["oldest_undelivered_seconds"] < 10
    assert read(client, "/healthz") == {"status": "alive"}


def test_the_app_can_be_made_many_times(s3: S3Server, env: dict[str, str], tmp_path: Path) -> None:
    """Settings are the app's own, not the process's."""
    one, two = create_app(env), create_app({**env, "SPOOL_DIR": str(tmp_path / "other")})
    assert one.extensions["ferryman"].spool.id != two.extensions["ferryman"].spool.id
    assert one.extensions["ferryman"].celery is not two.extensions["ferryman"].celery
