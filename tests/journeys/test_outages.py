"""When a part is away: a clear answer or a row that says why, never a hang, never a bare 500."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from moto import mock_aws

from app import create_app
from core.database import db
from delivery.deliver import deliver
from models import File
from tests.conftest import running_app
from tests.kit.stack import wait_for
from tests.kit.uploads import read, upload

WRONG_S3 = {
    "S3 is down": ({"S3_ENDPOINT_URL": "http://127.0.0.1:9"}, "S3 does not answer."),
    "unknown key": ({"AWS_ACCESS_KEY": "nobody"}, "S3 does not accept the credentials."),
    "wrong secret": ({"AWS_ACCESS_SECRET": "wrong"}, "S3 does not accept the credentials."),
}


@pytest.fixture(params=WRONG_S3)
def sick_s3(request: pytest.FixtureRequest, env: dict[str, str]) -> Iterator[tuple[Flask, str]]:
    wrong, reason = WRONG_S3[request.param]
    with running_app({**env, **wrong}) as app:
        yield app, reason


def test_normal_mode_answers_502_and_the_row_says_why(sick_s3: tuple[Flask, str]) -> None:
    app, reason = sick_s3
    client = app.test_client()
    answer = upload(client, "normal")
    assert answer.status_code == 502
    assert answer.json["detail"] == reason
    row = read(client, f"/files/{answer.json['file_id']}")
    assert (row["upload_status"], row["error"], row["url"]) == ("ERROR", reason, None)


def test_async_mode_accepts_and_the_row_says_why(sick_s3: tuple[Flask, str]) -> None:
    app, reason = sick_s3
    client = app.test_client()
    answer = upload(client, "async")
    assert answer.status_code == 202
    wait_for(lambda: read(client, answer.headers["Location"])["error"] == reason)
    assert (Path(app.extensions["ferryman"].spool.folder) / answer.json["id"]).exists()


def test_the_status_names_the_bucket_and_uploads_are_still_accepted(sick_s3: tuple[Flask, str]) -> None:
    client = sick_s3[0].test_client()
    assert client.get("/readyz").status_code == 200
    state = read(client, "/status")
    assert state["status"] == "degraded"
    others = {"database": "ok", "spool": "ok", "broker": "ok", "loops": "ok"}
    assert state["checks"] == {**others, "bucket": "failed"}


@mock_aws
def test_a_bucket_that_does_not_exist_is_named(env: dict[str, str]) -> None:
    """Against moto, since SeaweedFS makes a missing bucket on the first upload."""
    with running_app({**env, "S3_ENDPOINT_URL": ""}) as app:
        client = app.test_client()
        answer = upload(client, "normal")
        assert (answer.status_code, answer.json["detail"]) == (502, "The bucket does not exist.")
        assert read(client, "/status")["checks"]["bucket"] == "failed"
        assert app.test_cli_runner().invoke(args=["create-bucket"]).exit_code == 0
        answer = upload(client, "normal")
        assert answer.status_code == 201
        assert answer.json["url"] == f"https://tests.s3.us-east-1.amazonaws.com/{answer.json['key']}"
        wait_for(lambda: read(client, "/status")["checks"]["bucket"] == "ok", 5)


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", ["closed", "deaf"])
def test_without_a_broker_celery_mode_still_accepts(env: dict[str, str], deaf_port: int, kind: str) -> None:
    port = 9 if kind == "closed" else deaf_port
    with running_app({**env, "CELERY_BROKER_URL": f"redis://127.0.0.1:{port}/0"}) as app:
        client = app.test_client()
        started = time.monotonic()
        answer = upload(client, "celery")
        assert answer.status_code == 202
        assert time.monotonic() - started < 10
        row = read(client, answer.headers["Location"])
        assert row["upload_status"] == "PENDING"
        assert read(client, "/status")["checks"]["broker"] == "failed"


def test_a_locked_database_is_503_and_nothing_is_kept(
    app: Flask, client: FlaskClient, spool_dir: Path, env: dict[str, str]
) -> None:
    path = env["SQLALCHEMY_DATABASE_URI"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = upload(client, "async")
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.content_type == "application/problem+json"
        other.execute("ROLLBACK")
    assert os.listdir(spool_dir) == ["spool-id"]
    with app.app_context():
        assert db.session.query(File).count() == 0
    assert upload(client, "async").status_code == 202


def test_an_unreachable_database_is_503(env: dict[str, str], spool_dir: Path) -> None:
    for app in _without_tables({**env, "SQLALCHEMY_DATABASE_URI": "postgresql+psycopg://u:s3cret@127.0.0.1:9/x"}):
        for answer in (upload(app.test_client(), "async"), app.test_client().get("/files/x")):
            assert answer.status_code == 503
            assert "s3cret" not in answer.text
        assert app.test_client().get("/healthz").status_code == 200
        assert read(app.test_client(), "/readyz")["checks"]["database"] == "failed"
    assert os.listdir(spool_dir) == ["spool-id"]


def _without_tables(env: dict[str, str]) -> Iterator[Flask]:
    yield create_app(env)


def test_a_spooled_file_that_vanished_is_an_error_that_says_so(
    app: Flask, client: FlaskClient, spool_dir: Path
) -> None:
    answer = upload(client, "celery")
    (spool_dir / answer.json["id"]).unlink()
    with app.app_context():
        deliver(answer.json["id"])
    row = read(client, answer.headers["Location"])
    assert (row["upload_status"], row["error"]) == ("ERROR", "The bytes are not in the spool.")
