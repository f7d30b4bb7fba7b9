"""Watching files: event streams across processes, each event once, also after a break; waiting for a change."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient

from access import keys
from core import database
from core.database import db, utcnow
from delivery.deliver import deliver
from events import hub, streams
from events import log as event_log
from events.log import Event
from tests.conftest import running_app
from tests.kit.ports import free_port
from tests.kit.proxy import Link, Proxy
from tests.kit.stack import RedisServer, S3Server, Web, Worker, wait_for
from tests.kit.stack import Service as BareService
from tests.kit.uploads import accepted
from tests.kit.watchers import Watcher, attend

LIFE = ["PENDING", "PROCESSING", "COMPLETE"]


class Service(NamedTuple):
    web: Web
    env: dict[str, str]

    def watch(self, path: str, last: int | None = None) -> Watcher:
        return Watcher(int(self.web.url.rpartition(":")[2]), path, last)


@pytest.fixture(scope="module")
def service(
    s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Two web processes and a worker."""
    folder = tmp_path_factory.mktemp("watch")
    env = {**s3.settings, **redis_server.settings, "SPOOL_DIR": str(folder / "spool")}
    env["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{folder / 'files.db'}"
    web, worker = Web(folder, env, workers=2), Worker(folder, env)
    try:
        web.start()
        worker.start()
        web.wait()
        worker.wait()
        yield Service(web, env)
    finally:
        web.stop()
        worker.stop()


def statuses(watcher: Watcher, file_id: str | None = None) -> list[str]:
    return [
        seen.data["upload_status"]
        for seen in watcher.seen
        if seen.kind == "status" and file_id in (None, seen.data["id"])
    ]


@pytest.mark.parametrize("mode", ["normal", "async", "celery"])
def test_the_life_of_a_file_passes_by_in_order(service: Service, mode: str) -> None:
    watcher = service.watch("/events")
    attend([watcher], lambda: b"text/event-stream" in watcher.head)
    row = service.web.upload(mode, "a.txt", b"hello").json()
    attend([watcher], lambda: statuses(watcher, row["id"]) == LIFE, 10)
    mine = [seen for seen in watcher.seen if seen.data["id"] == row["id"]]
    assert [seen.number for seen in mine] == sorted({seen.number for seen in mine})
    assert mine[-1].data == {
        "id": row["id"],
        "name": "a.txt",
        "upload_status": "COMPLETE",
        "mode": mode,
        "bytes_sent": 5,
        "size": 5,
        "error": None,
        "url": service.web.file(row["id"])["url"],
        "metadata": {},
    }
    watcher.hang_up()


def test_the_stream_of_a_file_begins_with_what_it_is_and_ends_with_it(service: Service) -> None:
    row = service.web.upload("celery", "a.txt", b"hello").json()
    early = service.watch(f"/files/{row['id']}/events")
    attend([early], lambda: early.ended, 10)
    assert statuses(early)[-1] == "COMPLETE"
    assert statuses(early) == LIFE[-len(early.seen) :]
    late = service.watch(f"/files/{row['id']}/events")
    attend([late], lambda: late.ended, 10)
    assert late.seen == early.seen[-1:]
    headers = {"Last-Event-ID": str(late.seen[-1].number)}
    assert (
        requests.get(f"{service.web.url}/files/{row['id']}/events", headers=headers, timeout=5).status_code == 204
    )


def test_what_a_file_is_comes_first_also_where_the_log_is_not_read_that_far(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = accepted(client, "normal")
    with app.app_context():
        number = event_log.newest()
    read_up_to = number - 2
    monkeypatch.setattr(event_log, "begin", lambda: read_up_to)
    monkeypatch.setattr(event_log, "settled", lambda rows, after: rows[:1])
    stream = client.get(f"/files/{row['id']}/events")
    text = b"".join(read_some(stream, b"alive"))
    stream.close()
    assert re.findall(rb"^id: (\d+)$", text, re.MULTILINE) == [str(number).encode()]
    assert text.count(b"COMPLETE") == 1


def test_many_watchers_get_every_event_once_also_after_breaks(service: Service) -> None:
    watchers = [service.watch("/events") for _ in range(200)]
    attend(watchers, lambda: all(watcher.head for watcher in watchers))
    files = []
    for number in range(20):
        files.append(
            service.web.upload(("async", "celery")[number % 2], f"{number}.bin", os.urandom(50_000)).json()
        )
        for watcher in watchers[number::20]:  # some are away for a while
            watcher.receive()
            watcher.hang_up()
        if number % 3 == 0:
            for watcher in watchers:
                if watcher.socket.fileno() < 0 and watcher.seen:
                    watcher.connect()
    for watcher in watchers:
        if watcher.socket.fileno() < 0:
            watcher.connect(0 if not watcher.seen else None)
    ids = {row["id"] for row in files}

    def all_complete(watcher: Watcher) -> bool:
        complete = {seen.data["id"] for seen in watcher.seen if seen.data["upload_status"] == "COMPLETE"}
        return not ids - complete

    attend(watchers, lambda: all(map(all_complete, watchers)))
    expected = [seen.number for seen in watchers[0].seen if seen.data["id"] in ids]
    assert len(expected) >= 60
    for watcher in watchers:
        numbers = [seen.number for seen in watcher.seen if seen.data["id"] in ids]
        assert numbers == sorted(set(numbers))  # none twice, in order
        assert numbers == expected  # none left out
        watcher.hang_up()


def test_progress_is_told_while_a_large_file_travels(env: dict[str, str], s3: S3Server, tmp_path: Path) -> None:
    def slow(link: Link, data: bytes) -> bool:
        time.sleep(len(data) / 4_000_000)
        return False

    proxy = Proxy(s3.port)
    proxy.on_request = slow
    web = Web(tmp_path, {**env, "S3_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"})
    web.start()
    try:
        web.wait()
        port = int(web.url.rpartition(":")[2])
        early = Watcher(port, "/events")
        attend([early], lambda: bool(early.head))
        row = web.upload("async", "large.bin", os.urandom(12_000_000)).json()
        # Nothing rings at the start of a delivery, which here takes three seconds.
        attend([early], lambda: statuses(early, row["id"]) == ["PENDING", "PROCESSING"], 2)
        early.hang_up()
        watcher = Watcher(port, f"/files/{row['id']}/events")
        attend([watcher], lambda: watcher.ended, 20)
    finally:
        web.stop()
        proxy.refuse()
    progress = [seen.data["bytes_sent"] for seen in watcher.seen if seen.kind == "progress"]
    assert progress == sorted(progress)
    assert 0 < progress[0] < 12_000_000
    assert watcher.seen[-1].data["bytes_sent"] == 12_000_000


def test_without_redis_the_clock_wakes_the_watchers(env: dict[str, str], tmp_path: Path) -> None:
    web = Web(tmp_path, {**env, "CELERY_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0"})
    web.start()
    try:
        web.wait()
        watcher = Watcher(int(web.url.rpartition(":")[2]), "/events")
        attend([watcher], lambda: bool(watcher.head))
        row = web.upload("async", "a.txt", b"hello").json()
        attend([watcher], lambda: statuses(watcher, row["id"]) == LIFE, 10)
        watcher.hang_up()
    finally:
        web.stop()


def test_watchers_do_not_hold_the_stop(env: dict[str, str], tmp_path: Path) -> None:
    web = Web(tmp_path, env)
    web.start()
    web.wait()
    watchers = [Watcher(int(web.url.rpartition(":")[2]), "/events") for _ in range(20)]
    attend(watchers, lambda: all(watcher.head for watcher in watchers))
    assert web.stop(8) == 0
    attend(watchers, lambda: all(watcher.ended for watcher in watchers), 1)
    for watcher in watchers:
        watcher.hang_up()


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 19])
def test_a_last_event_id_of_another_kind_is_refused(client: FlaskClient, last: str) -> None:
    assert client.get("/events", headers={"Last-Event-ID": last}).status_code == 400


def test_too_many_watchers_are_refused_and_take_no_thread(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "MAX_WATCHERS", 1)
    first = client.get("/events")
    assert first.status_code == 200
    refused = client.get("/events")
    assert (refused.status_code, refused.content_type) == (503, "application/problem+json")
    assert refused.headers["Retry-After"]
    row = accepted(client)
    began = time.monotonic()
    answer = client.get(f"/files/{row['id']}", headers={"Prefer": "wait=5"})
    assert (answer.status_code, time.monotonic() - began < 2) == (200, True)
    first.close()
    again = client.get("/events")
    assert again.status_code == 200
    again.close()


@pytest.fixture
def closed_app(env: dict[str, str]) -> Iterator[Flask]:
    with running_app({**env, "AUTH": "required"}) as running:
        yield running


def test_nobody_sees_a_strangers_events(closed_app: Flask) -> None:
    client = closed_app.test_client()
    with closed_app.app_context():
        alice, bob = ({"Authorization": f"Bearer {keys.create_key(name)}"} for name in ("alice", "bob"))
    form = {"file": (BytesIO(b"hello"), "a.txt")}
    row: Any = client.post("/async_upload", data=form, headers=alice).json
    wait_for(lambda: b"COMPLETE" in client.get(f"/files/{row['id']}", headers=alice).data)
    assert client.get(f"/files/{row['id']}/events", headers=bob).status_code == 404
    seen = {}
    for name, key in {"alice": alice, "bob": bob}.items():
        stream = client.get("/events", headers={**key, "Last-Event-ID": "0"})
        seen[name] = b"".join(read_some(stream, b"COMPLETE" if name == "alice" else b"alive"))
        stream.close()
    assert row["id"].encode() in seen["alice"]
    assert row["id"].encode() not in seen["bob"]


def test_a_revoked_key_ends_its_streams_and_its_wait(
    closed_app: Flask, env: dict[str, str], tmp_path: Path
) -> None:
    with closed_app.app_context():
        right, revoked = keys.create_key("alice"), keys.create_key("alice")
    web = Web(tmp_path, {**env, "AUTH": "required", "LEASE_SECONDS": "300"})
    BareService.start(web)
    try:
        web.wait()
        headers = {"Authorization": f"Bearer {revoked}"}
        form = {"file": ("a.txt", b"hello")}
        row = requests.post(f"{web.url}/celery_upload", files=form, headers=headers, timeout=20).json()
        file = f"{web.url}/files/{row['id']}"
        addresses: dict[str, dict[str, str]] = {
            f"{web.url}/events": {},
            f"{file}/events": {},
            file: {"Prefer": "wait=60"},
        }
        with ThreadPoolExecutor(4) as pool:
            kept = requests.get(
                f"{web.url}/events", headers={"Authorization": f"Bearer {right}"}, stream=True, timeout=30
            )
            asked = [
                pool.submit(requests.get, address, headers={**headers, **more}, timeout=40)
                for address, more in addresses.items()
            ]
            time.sleep(1)
            began = time.monotonic()
            with closed_app.app_context():
                assert keys.revoke_key(revoked.split("_")[1])
            statuses = [answer.result().status_code for answer in asked]
        assert time.monotonic() - began < 15
        assert statuses == [200, 200, 401]
        pieces = kept.iter_content(None)
        assert [next(pieces) for _ in range(3)], "the stream of a right key goes on"
        kept.close()
    finally:
        web.kill()


def read_some(stream: Any, last: bytes) -> Iterator[bytes]:
    for piece in stream.response:
        yield piece
        if last in piece:
            return


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ALIVE_SECONDS", 1.5)


# --- waiting


def test_a_status_is_awaited(service: Service) -> None:
    row = service.web.upload("celery", "a.txt", b"hello").json()
    while row["upload_status"] != "COMPLETE":
        answer = requests.get(f"{service.web.url}/files/{row['id']}", headers={"Prefer": "wait=10"}, timeout=20)
        assert answer.headers["Preference-Applied"] == "wait=10"
        assert answer.json()["updated_at"] > row["updated_at"]
        row = answer.json()


@pytest.mark.parametrize(
    ("preference", "shortest", "longest"),
    [("wait=1", 1, 3), ("respond-async, wait=1", 1, 3), ("wait=x", 0, 0.5), ("wait", 0, 0.5), ("", 0, 0.5)],
)
def test_waiting_ends_when_nothing_happens(
    client: FlaskClient, preference: str, shortest: float, longest: float
) -> None:
    row = accepted(client)
    began = time.monotonic()
    answer: Any = client.get(f"/files/{row['id']}", headers={"Prefer": preference})
    assert shortest <= time.monotonic() - began < longest + 1.5
    assert answer.json["upload_status"] == "PENDING"


def test_what_the_client_does_not_know_yet_is_told_at_once(client: FlaskClient) -> None:
    row = accepted(client)
    began = time.monotonic()
    headers = {"Prefer": "wait=10", "If-None-Match": '"other"'}
    assert client.get(f"/files/{row['id']}", headers=headers).status_code == 200
    with client.application.app_context():
        deliver(row["id"])
    answer: Any = client.get(f"/files/{row['id']}", headers={"Prefer": "wait=10"})
    assert answer.json["upload_status"] == "COMPLETE"
    assert time.monotonic() - began < 5


# --- the log


@pytest.fixture
def log(database_uri: str) -> Iterator[None]:
    app = Flask(__name__)
    database.init_app(app, database_uri, survive_power_loss=False)
    with app.app_context():
        db.create_all()
        yield
        db.session.remove()
        db.engine.dispose()


def add(number: int, age: float = 0) -> None:
    event = {"file_id": "f", "owner": "o", "kind": "status", "upload_status": "PENDING", "bytes_sent": 0}
    db.session.add(Event(id=number, created_at=utcnow() - timedelta(seconds=age), **event))
    db.session.commit()


@pytest.mark.usefixtures("log")
def test_a_number_that_is_missing_is_waited_for_but_not_for_ever() -> None:
    for number in (1, 2, 4, 5):
        add(number)
    assert [row.id for row in event_log.settled(event_log.read(0), 0)] == [1, 2]
    add(3)
    assert [row.id for row in event_log.settled(event_log.read(2), 2)] == [3, 4, 5]
    add(7, age=3)  # number 6 was rolled back
    assert [row.id for row in event_log.settled(event_log.read(5), 5)] == [7]


@pytest.mark.usefixtures("log")
def test_what_is_older_than_a_day_is_forgotten() -> None:
    add(1, age=25 * 3600)
    add(2, age=23 * 3600)
    event_log.forget_old()
    assert [row.id for row in event_log.read(0)] == [2]


def test_a_stream_whose_client_is_gone_gives_its_place_back(service: Service) -> None:
    port = int(service.web.url.rpartition(":")[2])
    for _ in range(3):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as client:
            client.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.recv(1000)
    assert requests.get(f"{service.web.url}/healthz", timeout=5).ok
