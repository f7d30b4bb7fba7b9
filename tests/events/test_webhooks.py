"""The webhook: told once of every file that ends, signed, with patience for a receiver that is away."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from sqlalchemy import Connection, Engine, event, update
from sqlalchemy.exc import OperationalError
from standardwebhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from app import create_app
from core.database import db, utcnow
from delivery.deliver import deliver
from events import webhook_sender, webhooks
from events.webhook_sender import Sender
from models import File
from tests.conftest import running_app
from tests.kit.receiver import KEY, SECRET, TOKEN, Behaviour, Receiver
from tests.kit.stack import PostgresServer, Service, Web, wait_for

OTHER_SECRET = f"whsec_{base64.b64encode(bytes(32)).decode()}"
MANY = 100


def hang(handler: BaseHTTPRequestHandler) -> None:
    """Say nothing until the sender has left."""
    handler.connection.recv(1)


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def garble(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"This is no HTTP.\r\n\r\n")


def answer_without_end(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    with suppress(OSError):
        while True:
            handler.wfile.write(bytes(65536))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def env(env: dict[str, str], receiver: Receiver) -> dict[str, str]:
    return {**env, "WEBHOOK_URL": receiver.url, "WEBHOOK_SECRET": SECRET}


@pytest.fixture
def either(env: dict[str, str], database_uri: str) -> Iterator[Flask]:
    """The app on each database."""
    with running_app({**env, "SQLALCHEMY_DATABASE_URI": database_uri}) as running:
        yield running


def end_a_file(app: Flask, lost: bool = False) -> str:
    """Bring a file to COMPLETE, or to ERROR."""
    form = {"file": (BytesIO(b"hello"), "a.txt")}
    row: Any = app.test_client().post("/celery_upload", data=form).json
    with app.app_context():
        if lost:
            app.extensions["ferryman"].spool.drop(row["id"])
        deliver(row["id"])
    return str(row["id"])


def send(app: Flask) -> None:
    with app.app_context():
        sender = Sender(app)
        while sender.send_one():
            pass


def make_due(app: Flask) -> None:
    """Let the pause be over."""
    with app.app_context():
        assert db.session.scalars(db.select(webhooks.Webhook.due_at)).one() > utcnow()
        db.session.execute(update(webhooks.Webhook).values(due_at=utcnow()))
        db.session.commit()


@pytest.mark.parametrize("lost", [False, True])
def test_the_end_of_a_file_is_told_once_and_signed(app: Flask, receiver: Receiver, lost: bool) -> None:
    file_id = end_a_file(app, lost)
    send(app)
    send(app)
    [(headers, body)] = receiver.got
    message: Any = Verifier(SECRET).verify(body.decode(), headers)
    status = "ERROR" if lost else "COMPLETE"
    assert message["type"] == f"file.{status.lower()}"
    shown: Any = app.test_client().get(f"/files/{file_id}").json
    assert message["data"] == shown
    assert message["timestamp"] == shown["updated_at"]
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRET).verify(body.decode().replace("a.txt", "b.txt"), headers)


def test_the_signature_is_that_of_the_standard(app: Flask, receiver: Receiver) -> None:
    end_a_file(app)
    send(app)
    [(headers, body)] = receiver.got
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body.decode()}"
    mac = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"
    for secret, changed in ((OTHER_SECRET, {}), (SECRET, {"webhook-id": "msg_other"})):
        with pytest.raises(WebhookVerificationError):
            Verifier(secret).verify(body.decode(), {**headers, **changed})


@pytest.mark.parametrize("status", [500, 302, 404])
def test_a_refusal_is_tried_again_under_the_same_id(app: Flask, receiver: Receiver, status: int) -> None:
    end_a_file(app)
    receiver.status = status
    send(app)
    send(app)  # not before its pause is over
    assert len(receiver.got) == 1
    make_due(app)
    receiver.status = 204
    send(app)
    assert len(receiver.got) == 2
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert set(receiver.paths) == {f"/hook?token={TOKEN}"}  # a redirect is not followed
    run = app.test_cli_runner()
    assert "delivered" in run.invoke(args=["webhooks", "list"]).output
    assert run.invoke(args=["webhooks", "list", "--failed"]).output == ""


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [(hang, "ReadTimeoutError"), (hang_up, "ProtocolError"), (garble, "ProtocolError")],
)
def test_no_answer_is_tried_again_and_gives_no_secret_away(
    app: Flask,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    behaviour: Behaviour,
    error: str,
) -> None:
    monkeypatch.setattr(webhook_sender, "READ_SECONDS", 0.2)
    end_a_file(app)
    receiver.behaviour = behaviour
    send(app)
    with app.app_context():
        [message] = webhooks.log()
    assert (webhooks.state(message), message.last_error) == ("waiting", f"No answer ({error}).")
    assert message.id in caplog.text
    assert KEY not in caplog.text
    assert TOKEN not in caplog.text
    make_due(app)
    receiver.behaviour = None
    send(app)
    assert [headers["webhook-id"] for headers, _ in receiver.got] == [message.id] * 2
    with app.app_context():
        [message] = webhooks.log()
    assert (webhooks.state(message), message.last_error, message.attempts) == ("delivered", None, 2)


def test_an_answer_without_end_is_not_read(app: Flask, receiver: Receiver) -> None:
    end_a_file(app)
    receiver.behaviour = answer_without_end
    send(app)
    with app.app_context():
        assert [webhooks.state(message) for message in webhooks.log()] == ["delivered"]


@contextmanager
def ends_cannot_be_committed(engine: Engine) -> Iterator[None]:
    """Let the database be away just when a file's end is to be committed."""
    ending: list[Connection] = []

    def note(connection: Connection, _: Any, statement: str, parameters: Any, *__: Any) -> None:
        if statement.startswith("UPDATE files") and "COMPLETE" in str(parameters):
            ending.append(connection)

    def fail(connection: Connection) -> None:
        if connection in ending:
            raise OperationalError("COMMIT", {}, ConnectionError("the database is away"))

    event.listen(engine, "after_cursor_execute", note)
    event.listen(engine, "commit", fail)
    try:
        yield
    finally:
        event.remove(engine, "after_cursor_execute", note)
        event.remove(engine, "commit", fail)


def test_an_end_that_is_rolled_back_tells_nobody(either: Flask, receiver: Receiver) -> None:
    with either.app_context():
        engine = db.engine
    with ends_cannot_be_committed(engine), pytest.raises(OperationalError):
        end_a_file(either)
    with either.app_context():
        file_id, status = db.session.execute(db.select(File.id, File.upload_status)).one()
        assert (status, webhooks.log()) == ("PROCESSING", [])
        db.session.execute(update(File).values(due_at=utcnow()))  # the lease of that run is over
        db.session.commit()
        deliver(file_id)
    send(either)
    [(_, body)] = receiver.got
    assert json.loads(body)["type"] == "file.complete"


def write_messages(app: Flask) -> set[str]:
    """Let many messages be due."""
    facts = {"file_id": "any", "owner": "any", "type": "file.complete", "body": "{}", "attempts": 0}
    ids = {f"msg_{number}" for number in range(MANY)}
    with app.app_context():
        now = utcnow()
        db.session.add_all(webhooks.Webhook(id=each, created_at=now, due_at=now, **facts) for each in ids)
        db.session.commit()
    return ids


def claim_in_a_process(env: dict[str, str], own: Path, other: Path) -> list[str]:
    """Claim messages until there is none, beginning with the other process."""
    app = create_app(env)
    with app.app_context():
        webhooks.log()
        own.touch()
        wait_for(other.exists)
        claimed = []
        while message := webhooks.claim(60):
            claimed.append(message.id)
        db.engine.dispose()
    return claimed


def test_two_processes_on_postgresql_claim_each_message_once(
    env: dict[str, str], postgres: PostgresServer, tmp_path: Path
) -> None:
    settings = {**env, "SQLALCHEMY_DATABASE_URI": postgres.new_database(uuid4().hex)}
    here, there = tmp_path / "here", tmp_path / "there"
    with running_app(settings) as app:
        ids = write_messages(app)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            job = pool.submit(claim_in_a_process, settings, there, here)
            first, second = claim_in_a_process(settings, here, there), job.result()
        assert Counter(first + second) == Counter(ids)
        assert first
        assert second


def test_a_sender_whose_lease_is_over_changes_nothing(either: Flask) -> None:
    write_messages(either)
    with either.app_context():
        db.session.execute(db.delete(webhooks.Webhook).where(webhooks.Webhook.id != "msg_0"))
        db.session.commit()
        late, present = webhooks.claim(0), webhooks.claim(60)
        assert late
        assert present
        assert not webhooks.give_up(late, "late")
        assert not webhooks.postpone(late, 0, "late")
        assert not webhooks.succeed(late)
        assert webhooks.succeed(present)
        [message] = webhooks.log()
        assert (webhooks.state(message), message.attempts) == ("delivered", 2)


def test_pauses_grow_and_come_to_an_end(app: Flask, receiver: Receiver) -> None:
    end_a_file(app)
    receiver.close()  # nobody listens any more
    for pause in (*webhook_sender.PAUSES, None):
        send(app)
        with app.app_context():
            message = db.session.scalars(db.select(webhooks.Webhook)).one()
            if pause is None:
                assert (webhooks.state(message), message.attempts) == ("given up", len(webhook_sender.PAUSES) + 1)
                break
            assert message.due_at
            wait = (message.due_at - utcnow()).total_seconds()
            assert 0.85 * pause < wait < 1.15 * pause
            db.session.rollback()
        make_due(app)


def test_gone_is_final_until_it_is_redelivered(app: Flask, receiver: Receiver) -> None:
    end_a_file(app)
    receiver.status = 410
    send(app)
    run = app.test_cli_runner()
    line = run.invoke(args=["webhooks", "list", "--failed"]).output
    assert line.rstrip().endswith("given up   Answered 410.")
    receiver.status = 200
    assert run.invoke(args=["webhooks", "redeliver", "msg_unknown"]).exit_code == 1
    assert run.invoke(args=["webhooks", "redeliver"]).exit_code == 2
    assert run.invoke(args=["webhooks", "redeliver", line.split()[0]]).exit_code == 0
    send(app)
    assert len(receiver.got) == 2
    receiver.status = 500
    assert "1 will be sent again" in run.invoke(args=["webhooks", "redeliver", line.split()[0]]).output
    send(app)
    assert "1 will be sent again" in run.invoke(args=["webhooks", "redeliver", "--failed"]).output


def test_a_crash_before_the_sending_loses_nothing_and_two_processes_send_once(
    app: Flask, env: dict[str, str], receiver: Receiver, tmp_path: Path
) -> None:
    ids = {end_a_file(app) for _ in range(5)}  # written with the end of the file, and sent by nobody yet
    web = Web(tmp_path, env, workers=2)
    Service.start(web)  # the tables are there already
    try:
        web.wait()
        wait_for(lambda: len(receiver.got) >= 5)
        ids.add(web.upload("async", "a.txt", b"hello").json()["id"])
        wait_for(lambda: len(receiver.got) >= 6)
    finally:
        assert web.stop() == 0
    assert sorted(json.loads(body)["data"]["id"] for _, body in receiver.got) == sorted(ids)
    assert KEY not in web.text()
    assert TOKEN not in web.text()


def test_a_stop_does_not_wait_for_a_receiver_that_hangs_and_another_process_sends_again(
    app: Flask, env: dict[str, str], receiver: Receiver, tmp_path: Path
) -> None:
    web = Web(tmp_path, {**env, "LOG_LEVEL": "debug"})
    Service.start(web)
    receiver.behaviour = hang
    try:
        web.wait()
        web.upload("async", "a.txt", b"hello")
        wait_for(lambda: receiver.got)
        began = time.monotonic()
        assert web.stop() == 0
        assert time.monotonic() - began < webhook_sender.STOP_SECONDS + 3
    finally:
        web.stop()
    receiver.behaviour = None
    send(app)  # not before the lease of the stopped process is over
    assert len(receiver.got) == 1
    make_due(app)
    send(app)
    assert len(receiver.got) == 2
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert KEY not in web.text()
    assert TOKEN not in web.text()


def test_a_deleted_file_tells_nobody_and_old_messages_are_forgotten(app: Flask, receiver: Receiver) -> None:
    form = {"file": (BytesIO(b"hello"), "a.txt")}
    row: Any = app.test_client().post("/celery_upload", data=form).json
    assert app.test_client().delete(f"/files/{row['id']}").status_code == 204
    send(app)
    assert receiver.got == []
    end_a_file(app)
    send(app)
    with app.app_context():
        webhooks.forget_old()
        assert len(webhooks.log()) == 1
        db.session.execute(update(webhooks.Webhook).values(created_at=utcnow() - timedelta(days=8)))
        db.session.commit()
        webhooks.forget_old()
        assert webhooks.log() == []


def test_without_an_address_nothing_is_written(env: dict[str, str]) -> None:
    with running_app({**env, "WEBHOOK_URL": "", "WEBHOOK_SECRET": ""}) as app:
        end_a_file(app)
        with app.app_context():
            assert webhooks.log() == []


def end_without_digest(app: Flask) -> str:
    """Bring a file to COMPLETE, and leave its digest for later."""
    form = {"file": (BytesIO(b"hello"), "a.txt")}
    row: Any = app.test_client().post("/celery_upload", data=form).json
    with app.app_context():
        File.claim(row["id"], "run", 60)
        File.complete(row["id"], "run", "url", None)
    return str(row["id"])


def test_a_message_that_waits_for_a_digest_goes_without_it_after_an_hour(
    either: Flask, receiver: Receiver
) -> None:
    """As when its host is lost."""
    file_id = end_without_digest(either)
    send(either)
    assert receiver.got == []
    with either.app_context():
        [message] = webhooks.log()
        assert timedelta(minutes=59) < message.due_at - utcnow() <= timedelta(hours=1)
    make_due(either)
    send(either)
    with either.app_context():
        assert File.digested(file_id, "f" * 64)
        assert not File.digested(file_id, "0" * 64)
    send(either)
    [(_, body)] = receiver.got
    assert json.loads(body)["data"]["sha256"] is None


def test_a_digest_sends_its_own_message_only(either: Flask, receiver: Receiver) -> None:
    first, second = end_without_digest(either), end_without_digest(either)
    with either.app_context():
        assert File.digested(second, "f" * 64)
        assert not File.digested(second, None)
    send(either)
    with either.app_context():
        assert File.digested(first, "0" * 64)
    send(either)
    send(either)
    told = [json.loads(body)["data"] for _, body in receiver.got]
    assert [(file["id"], file["sha256"]) for file in told] == [(second, "f" * 64), (first, "0" * 64)]


def test_a_file_that_is_deleted_before_its_digest_is_told_of_at_once(either: Flask, receiver: Receiver) -> None:
    file_id = end_without_digest(either)
    assert either.test_client().delete(f"/files/{file_id}").status_code == 204
    send(either)
    [(_, body)] = receiver.got
    message = json.loads(body)
    assert (message["type"], message["data"]["upload_status"]) == ("file.complete", "COMPLETE")
