"""Logs: every line is JSON, says which request and file it is about, and holds no secret."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask

from core import logs
from tests.kit.ports import free_port
from tests.kit.stack import ROOT, RedisServer, S3Server, Service, Web, Worker, wait_for

SECRET = "hidden-Passw0rd"
CREDENTIALS = {"Authorization": f"Bearer fm_0a1b_{SECRET}", "Cookie": f"key={SECRET}"}
Line = dict[str, Any]


def lines(service: Web | Worker) -> list[Line]:
    """All it has logged; a line that is not JSON fails."""
    return [json.loads(line) for line in service.text().splitlines()]


def about(service: Web | Worker, **fields: object) -> list[Line]:
    """Its lines that have these fields."""
    return [line for line in lines(service) if fields.items() <= line.items()]


@pytest.fixture(scope="module")
def stack(s3: S3Server, redis_server: RedisServer, server_dir: Path) -> Iterator[tuple[Web, Worker]]:
    """Web and worker."""
    folder = server_dir / "logs"
    folder.mkdir()
    env = {
        **s3.settings,
        **redis_server.settings,
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
    }
    web, worker = Web(folder, env), Worker(folder, env)
    with ExitStack() as stopping:
        for service in (web, worker):
            service.start()
            stopping.callback(service.kill)
        web.wait()
        worker.wait()
        yield web, worker


def post(web: Web, mode: str, request_id: str = "") -> requests.Response:
    headers = {"X-Request-ID": request_id} if request_id else {}
    files = {"file": ("a.txt", b"hello")}
    return requests.post(f"{web.url}/{mode}_upload", files=files, headers=headers, timeout=30)


def test_a_request_that_changes_something_has_one_line(stack: tuple[Web, Worker]) -> None:
    web, _ = stack
    answer = post(web, "normal", "client-made.1_A")
    assert answer.headers["X-Request-ID"] == "client-made.1_A"
    (line,) = wait_for(lambda: about(web, event="request", request_id="client-made.1_A"))
    assert list(line)[:4] == ["time", "level", "logger", "event"]
    assert line["time"].endswith("Z")
    assert (line["method"], line["path"], line["status"]) == ("POST", "/normal_upload", 201)
    assert 0 < line["duration_ms"] < 30_000


@pytest.mark.parametrize("given", ["", "a" * 65, "with space", 'quote"', "ä".encode().decode("latin-1")])
def test_a_request_id_that_is_none_is_replaced(stack: tuple[Web, Worker], given: str) -> None:
    answer = requests.get(f"{stack[0].url}/nowhere", headers={"X-Request-ID": given}, timeout=5)
    assert len(answer.headers["X-Request-ID"]) == 32


def test_a_read_is_logged_only_if_it_fails(stack: tuple[Web, Worker]) -> None:
    web, _ = stack
    for request_id, path in (("good-read", "/?token=hidden"), ("failed-read", "/files/none?token=hidden")):
        requests.get(f"{web.url}{path}", headers={"X-Request-ID": request_id}, timeout=5)
    wait_for(lambda: about(web, request_id="failed-read", status=404, path="/files/none"))
    assert not about(web, request_id="good-read")
    assert "hidden" not in web.text()


def test_the_ids_go_with_the_file_into_the_worker(stack: tuple[Web, Worker]) -> None:
    web, worker = stack
    file_id = post(web, "celery", "to-the-worker").json()["id"]
    assert web.settled(file_id)["upload_status"] == "COMPLETE"
    # The same message again, as a broker may bring it, is one that the worker speaks of.
    again = (
        "import worker\n"
        "from core import logs\n"
        "with logs.about(request_id='again'):\n"
        f"    worker.celery.send_task('upload_task', ({file_id!r}, None), headers=logs.subject())\n"
    )
    subprocess.run([sys.executable, "-c", again], env=worker.env, cwd=ROOT, check=True, timeout=30)
    wait_for(lambda: about(worker, request_id="again", file_id=file_id, logger="delivery.deliver"))
    assert lines(web)
    assert {line["logger"] for line in lines(worker)} >= {
        "celery.apps.worker",
        "celery.worker.strategy",
        "delivery.deliver",
    }


def test_a_thread_of_the_pool_knows_its_request(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.setFormatter(logs.formatter("json"))
    app.extensions["ferryman"].store.put = _breaks
    data = {"file": (BytesIO(b"hello"), "a.txt")}
    answer = app.test_client().post("/async_upload", data=data, headers={"X-Request-ID": "pool"})
    said = wait_for(lambda: [line for line in caplog.text.splitlines() if "was not delivered" in line])
    line = json.loads(said[0])
    assert (line["request_id"], line["file_id"]) == ("pool", answer.get_json()["id"])
    assert "in _breaks" in line["exception"], "the traceback is in the same line"


def _breaks(*_: object) -> str:
    raise RuntimeError("broken")


def test_no_secret_is_in_any_log(tmp_path: Path) -> None:
    dead = free_port()
    env = {
        "S3_BUCKET_NAME": "b",
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{dead}",
        "AWS_ACCESS_KEY": f"key-{SECRET}",
        "AWS_ACCESS_SECRET": f"aws-{SECRET}",
        "SQLALCHEMY_DATABASE_URI": f"postgresql+psycopg://someone:db-{SECRET}@127.0.0.1:{dead}/none",
        "CELERY_BROKER_URL": f"redis://someone:broker-{SECRET}@127.0.0.1:{dead}/0",
        "SPOOL_DIR": str(tmp_path / "spool"),
        "LOG_LEVEL": "debug",
    }
    web, worker = Web(tmp_path, env), Worker(tmp_path, env)
    with ExitStack() as stopping:
        for service in (web, worker):
            Service.start(service)  # without its database
            stopping.callback(service.kill)
        web.wait()
        for path in ("/healthz", "/readyz", f"/files/none?token={SECRET}"):
            requests.get(web.url + path, headers=CREDENTIALS, timeout=20)
        for mode in ("normal", "async", "celery"):
            files = {"file": ("a.txt", b"hello")}
            answer = requests.post(f"{web.url}/{mode}_upload", files=files, headers=CREDENTIALS, timeout=20)
            assert answer.status_code == 503
        wait_for(lambda: "Cannot connect" in worker.text())
    events = [line["event"] for line in lines(web)]
    assert any("the database failed" in event for event in events)
    assert any(line.get("path") == "/healthz" and line["level"] == "debug" for line in lines(web))
    assert SECRET not in web.text() + worker.text()


@pytest.mark.parametrize(
    "text",
    [
        f"cannot reach redis://:{SECRET}@host/0",
        f"postgresql://user:{SECRET}@host/d",
        f"Authorization: Bearer {SECRET}",
        f"the key fm_0a1b_{SECRET.replace('-', '_')} is old",
        f"GET https://s3/b/k?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}",
        f"redis://user:{'p' * 5000}{SECRET}{'p' * 20_000}@host/0",
        f"redis://{'u' * 5000}:{SECRET}@host/0",
        f"postgresql://user:a/b@{SECRET}@host/d",
        f"https://{SECRET}@host/d",
        f"https://host/look?next=redis://user:{SECRET}@host",
        f'{{"key":"%22fm_0a1b_{SECRET}"}}',
    ],
)
@pytest.mark.parametrize("shape", ["json", "text"])
def test_what_a_library_gives_away_is_hidden(text: str, shape: str) -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "%s", (text,), None)
    said = logs.formatter(shape).format(record)
    assert "***" in said
    assert SECRET not in said
    assert SECRET.replace("-", "_") not in said


@pytest.mark.parametrize("text", ["http://host:80/a", "https://host/a@b", "me@host", "a://b c@d"])
def test_an_address_without_credentials_stays(text: str) -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "%s", (text,), None)
    assert text in logs.formatter("json").format(record)


PIECES = ["x-amz-", "x-amz-a-", "://", "://a:", "://a/", "://:@", "://@", ":", "@", " @", "a", "fm_", "-fm_"]


@pytest.mark.parametrize("piece", [*PIECES, "bearer ", "x-amz-a=", "- ", "\n"])
def test_a_line_takes_time_in_proportion_to_its_length(piece: str) -> None:
    once, twice = (_line_seconds(piece * (size // len(piece))) for size in (200_000, 400_000))
    assert twice < 3 * max(once, 0.01)
    assert twice < 0.5


def _line_seconds(text: str) -> float:
    """The shortest of three times that a line takes to be made."""
    record, line, seconds = logging.LogRecord("x", logging.ERROR, "", 0, "%s", (text,), None), "", []
    for _ in range(3):
        began = time.process_time()
        line = logs.formatter("json").format(record)
        seconds.append(time.process_time() - began)
    assert len(line) < 100_000
    return min(seconds)


@pytest.mark.parametrize("secret", [f"redis://:{SECRET}@host", f"Bearer {SECRET}\t"])
@pytest.mark.parametrize("filling", ["x ", "xx"])
def test_a_secret_in_a_long_text_is_hidden_wherever_it_is_cut(secret: str, filling: str) -> None:
    formatter, half = logs.formatter("json"), logs.LONGEST_TEXT // 2
    for distance in range(-20, 60):
        ends = filling * 12_000
        for text in (
            f"{ends[: half - distance]} {secret} {ends}",
            f"{ends} {secret} {ends[: half - distance]}",
        ):
            record = logging.LogRecord("x", logging.ERROR, "", 0, "%s", (text,), None)
            assert SECRET[:4] not in formatter.format(record)
            assert SECRET[-4:] not in formatter.format(record)
