"""The webhook: told once of every file that ends, signed, with patience for a receiver that is away."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import update
from standardwebhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

import notify
import webhooks
from database import db, utcnow
from deliver import deliver
from notify import Sender
from tests.conftest import made_app
from tests.stack import Service, Web, wait_for

KEY = base64.b64encode(b"a secret of some thirty-two bytes").decode()
SECRET = f"whsec_{KEY}"


class Receiver:
    """A small real receiver, which answers as it is told."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def env(env: dict[str, str], receiver: Receiver) -> dict[str, str]:
    return {**env, "WEBHOOK_URL": receiver.url, "WEBHOOK_SECRET": SECRET}


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
        Sender(app).send_due()


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
    run = app.test_cli_runner()
    assert "delivered" in run.invoke(args=["webhooks", "list"]).output
    assert run.invoke(args=["webhooks", "list", "--failed"]).output == ""


def test_pauses_grow_and_come_to_an_end(app: Flask, receiver: Receiver) -> None:
    end_a_file(app)
    receiver.close()  # nobody listens any more
    for pause in (*notify.PAUSES, None):
        send(app)
        with app.app_context():
            message = db.session.scalars(db.select(webhooks.Webhook)).one()
            if pause is None:
                assert (webhooks.state(message), message.attempts) == ("given up", len(notify.PAUSES) + 1)
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
    for app in made_app({**env, "WEBHOOK_URL": "", "WEBHOOK_SECRET": ""}):
        end_a_file(app)
        with app.app_context():
            assert webhooks.log() == []
