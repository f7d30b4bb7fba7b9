"""Limits of an owner: requests in a minute, bytes in a day, files in flight; no overshot, no leak."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, update

from access import keys
from access.quota import Account, ReservationRow
from core.database import db, utcnow
from models import File
from tests.conftest import running_app
from tests.kit.made import PHOTO, presets
from tests.kit.ports import free_port
from tests.kit.stack import RedisServer, Web, wait_for
from tests.kit.uploads import MAKE, upload

SIZE = 10_000
BODY = SIZE + 300  # with the form around it


def used(app: Flask) -> int:
    with app.app_context():
        return db.session.scalars(select(func.coalesce(func.sum(Account.uploaded_bytes), 0))).one()


def reserved(app: Flask) -> int:
    with app.app_context():
        return db.session.scalars(select(func.count()).select_from(ReservationRow)).one()


def test_requests_in_a_minute(make: MAKE) -> None:
    client = make(KEY_REQUESTS_PER_MINUTE="5")

    def refused() -> Any:  # a new minute may begin in between
        answers = [client.get("/files") for _ in range(6)]
        assert [answer.status_code for answer in answers[:2]].count(200) >= 1
        assert answers[0].headers["RateLimit-Limit"] == "5"
        return answers[-1] if answers[-1].status_code == 429 else None

    answer = wait_for(refused, 10)
    assert answer.content_type == "application/problem+json"
    assert answer.headers["RateLimit-Remaining"] == "0"
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    assert answer.headers["RateLimit-Reset"] == answer.headers["Retry-After"]


def test_processes_count_together_and_alone_when_redis_is_away(
    env: dict[str, str], make: MAKE, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        server.wait()
        settings = {**server.settings, "KEY_REQUESTS_PER_MINUTE": "20"}
        one, other = make(**settings), make(**settings)

        def left(client: FlaskClient) -> int:
            return int(client.get("/files").headers["RateLimit-Remaining"])

        wait_for(lambda: left(one) - left(other) == 1, 10)
        server.kill()
        assert one.get("/files").status_code == 200
        assert left(one) > 15
        assert upload(one, content=b"x" * SIZE).status_code == 202
    finally:
        server.kill()


def test_bytes_in_a_day(make: MAKE) -> None:
    client = make(KEY_BYTES_PER_DAY=str(2 * BODY))
    assert [upload(client, content=b"x" * SIZE).status_code for _ in range(3)] == [202, 202, 429]
    answer = upload(client, content=b"x" * SIZE)
    assert 0 < int(answer.headers["Retry-After"]) <= 24 * 3600 + 1
    assert used(client.application) == 2 * SIZE
    assert reserved(client.application) == 0
    with client.application.app_context():
        db.session.execute(update(Account).values(day=utcnow().date() - timedelta(days=1)))
        db.session.commit()
    assert upload(client, content=b"x" * SIZE).status_code == 202
    assert used(client.application) == SIZE


def test_what_is_refused_costs_nothing(make: MAKE) -> None:
    client = make(KEY_BYTES_PER_DAY=str(2 * BODY))
    for field, name in (("file", ""), ("other", "a.txt")):
        answer = client.post("/async_upload", data={field: (BytesIO(b"x" * SIZE), name)})
        assert answer.status_code == 400
    assert (used(client.application), reserved(client.application)) == (0, 0)


def test_a_replay_costs_nothing(make: MAKE) -> None:
    client = make(KEY_BYTES_PER_DAY=str(3 * BODY))
    for _ in range(4):
        form = {"file": (BytesIO(b"x" * SIZE), "a.txt")}
        assert client.post("/celery_upload", data=form, headers={"Idempotency-Key": "k"}).status_code == 202
    assert (used(client.application), reserved(client.application)) == (SIZE, 0)


def test_a_body_of_unknown_length_is_refused_where_bytes_are_counted(make: MAKE) -> None:
    client = make(KEY_BYTES_PER_DAY="1000000")
    chunked = {"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
    kind = "multipart/form-data; boundary=b"
    answer = client.post("/async_upload", input_stream=BytesIO(), content_type=kind, environ_overrides=chunked)
    assert answer.status_code == 411


def test_files_in_flight(make: MAKE) -> None:
    client = make(KEY_FILES_IN_FLIGHT="2")  # no worker runs, so what goes by celery stays in flight
    answers = [upload(client, content=b"x" * SIZE) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert answers[2].headers["Retry-After"]
    assert client.delete(answers[0].headers["Location"]).status_code == 204
    assert upload(client, content=b"x" * SIZE).status_code == 202


def test_seconds_of_processing_in_a_day(make: MAKE, tmp_path: Path) -> None:
    client = make(KEY_PROCESS_SECONDS_PER_DAY="3", **presets(tmp_path))

    def ask() -> Any:
        form = {"file": (BytesIO(PHOTO.read_bytes()), "a.jpg"), "process": "thumb"}
        return client.post("/celery_upload", data=form)

    first = ask()
    assert first.status_code == 202
    today, values = utcnow(), {"owner": "alice", "mode": "async", "size": 1, "content_type": "image/webp"}
    rows = {
        "of today": (today, 2.5),
        "of yesterday": (today - timedelta(days=1), 100.0),
        "of today too": (today, 1.0),
    }
    for number, (moment, seconds) in enumerate(rows.values()):
        assert ask().status_code == 202
        child = File.draft(
            "a", id=f"{number:032}", key=f"{number}", parent_id=first.json["id"], cpu_seconds=seconds
        )
        vars(child).update(values, crc64nvme="", spool_id="", upload_status="COMPLETE", attempts=1, bytes_sent=1)
        vars(child).update(dict.fromkeys(("created_at", "updated_at", "due_at", "retry_until"), moment))
        with client.application.app_context(), db.engine.begin() as connection:
            vars(child).update(detected_type="", recipe_digest=f"{number}", output="variant", sheet_no=0)
            File.insert(connection, child)
    refused = ask()
    assert (refused.status_code, refused.json["detail"]) == (
        429,
        "Quota exceeded: 3 seconds of processing per day.",
    )
    assert int(refused.headers["Retry-After"]) <= 86_401
    assert upload(client, content=b"x").status_code == 202  # without anything to be made


def post_to(web: Web, headers: dict[str, str], _: int) -> int:
    form = {"file": ("a.txt", os.urandom(SIZE))}
    return requests.post(f"{web.url}/async_upload", files=form, headers=headers, timeout=60).status_code


@pytest.mark.parametrize("limit", ["KEY_BYTES_PER_DAY", "KEY_FILES_IN_FLIGHT"])
def test_fifty_at_once_never_overshoot(env: dict[str, str], database_uri: str, tmp_path: Path, limit: str) -> None:
    allowed = 7
    settings = {**env, "AUTH": "required", "SQLALCHEMY_DATABASE_URI": database_uri, "LEASE_SECONDS": "5"}
    # Nothing is delivered without a broker.
    settings["CELERY_BROKER_URL"] = f"redis://127.0.0.1:{free_port()}/0"
    settings["UPLOAD_THREADS"] = "1"
    settings[limit] = str(allowed * BODY if "BYTES" in limit else allowed)
    settings["S3_ENDPOINT_URL"] = f"http://127.0.0.1:{free_port()}"
    web = Web(tmp_path, settings, workers=2)
    web.start()
    try:
        web.wait()
        with running_app(settings) as app:
            with app.app_context():
                headers = {"Authorization": f"Bearer {keys.create_key('alice')}"}

            post = partial(post_to, web, headers)
            with ThreadPoolExecutor(50) as clients:
                codes = list(clients.map(post, range(50)))
            assert set(codes) == {202, 429}
            assert 0 < codes.count(202) <= allowed
            with app.app_context():
                assert db.session.scalars(select(func.count()).select_from(File)).one() == codes.count(202)
            # Reservations of the refused are gone, so what is left can be used to the last.
            codes += [post(0) for _ in range(allowed + 1)]
            assert codes.count(202) == allowed
            assert reserved(app) == 0
    finally:
        web.kill()


def test_a_crash_gives_the_reservation_back(env: dict[str, str], make: MAKE, tmp_path: Path) -> None:
    limits = {"KEY_BYTES_PER_DAY": str(BODY), "LEASE_SECONDS": "2"}
    web = Web(tmp_path, {**env, "AUTH": "required", **limits})
    web.start()
    try:
        web.wait()
        client = make(**limits)
        key = client.environ_base["HTTP_AUTHORIZATION"]
        with socket.create_connection(("127.0.0.1", int(web.url.rpartition(":")[2]))) as stuck:
            head = (
                "POST /async_upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b"
            )
            stuck.sendall(f"{head}\r\nAuthorization: {key}\r\nContent-Length: {BODY}\r\n\r\n--b\r\n".encode())
            wait_for(lambda: reserved(client.application) == 1)
            assert upload(client, content=b"x" * SIZE).status_code == 429
            web.kill()
    finally:
        web.kill()
    wait_for(lambda: upload(client, content=b"x" * SIZE).status_code == 202, 10)


def test_without_keys_nothing_is_counted(env: dict[str, str], make: MAKE) -> None:
    client = make(AUTH="open", KEY_BYTES_PER_DAY="1", KEY_FILES_IN_FLIGHT="1", KEY_REQUESTS_PER_MINUTE="1")
    assert [upload(client, content=b"x" * SIZE).status_code for _ in range(3)] == [202] * 3
