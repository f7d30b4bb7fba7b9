"""Metrics: counted over all processes, looked up at the scrape, and all that the dashboard shows."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

import pytest
import requests
from flask import Flask

from core.errors import StoreError
from core.metrics import Metrics
from tests.conftest import running_app
from tests.kit.ports import free_port
from tests.kit.samples import Samples, parsed
from tests.kit.stack import ROOT, RedisServer, S3Server, Web, Worker, wait_for


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, server_dir: Path) -> Iterator[Web]:
    """Two web processes and a worker with two."""
    folder = server_dir / "metrics"
    folder.mkdir()
    env = {
        **s3.settings,
        **redis_server.settings,
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "shared"),
    }
    web, worker = Web(folder, env, workers=2), Worker(folder, env)
    with ExitStack() as stopping:
        for service in (web, worker):
            service.start()
            stopping.callback(service.kill)
        web.wait()
        worker.wait()
        yield web


def test_it_counts_over_all_processes(web: Web) -> None:
    for mode in ("normal", "async", "celery"):
        for _ in range(4):
            file_id = web.upload(mode, "a.txt", b"hello").json()["id"]
            assert web.settled(file_id)["upload_status"] == "COMPLETE"
    requests.post(f"{web.url}/async_upload", data="x", timeout=5)

    def found() -> Samples:
        return parsed(requests.get(f"{web.url}/metrics", timeout=5).text)

    wait_for(lambda: found().get(("ferryman_run_seconds_count", "celery")) == 4)
    samples = found()
    for mode in ("normal", "async", "celery"):
        assert samples["ferryman_uploads_total", mode] == 4
        assert samples["ferryman_upload_bytes_total", mode] == 20
        assert samples["ferryman_accept_seconds_count", mode] == 4
        assert samples["ferryman_delivery_seconds_count", mode] == 4
    assert samples["ferryman_errors_total", "UnsupportedUpload"] == 1
    assert samples["ferryman_undelivered_files", "PENDING"] == 0


def test_every_metric_of_the_dashboard_is_there(web: Web) -> None:
    requests.post(f"{web.url}/async_upload", data="x", timeout=5)  # a cause of errors is there from its first one
    text = requests.get(f"{web.url}/metrics", timeout=5).text
    known = {name for name, _ in parsed(text)}
    dashboard = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = {name for query in queries for name in re.findall(r"ferryman_\w+", query)}
    assert used
    assert used <= known
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in used}
    assert shown >= {re.sub(r"_(bucket|count|sum)$", "", name) for name in known if not name.endswith("_created")}


def test_what_waits_is_looked_up(app: Flask) -> None:
    def down(*_: object) -> str:
        raise StoreError("S3 does not answer.")

    app.extensions["ferryman"].store.put = down
    client = app.test_client()
    client.post("/async_upload", data={"file": (BytesIO(b"hello"), "a.txt")})

    def given_back() -> Samples | None:
        samples = parsed(client.get("/metrics").text)
        return samples if samples["ferryman_retries_total", "async"] else None

    samples = wait_for(given_back)
    assert samples["ferryman_undelivered_files", "PENDING"] == 1
    assert samples["ferryman_undelivered_files", "PROCESSING"] == 0
    assert samples["ferryman_oldest_undelivered_seconds", ""] > 0
    assert samples["ferryman_errors_total", "StoreError"] == 1
    wait_for(lambda: parsed(client.get("/metrics").text)["ferryman_spool_bytes", ""] >= 5)
    assert samples["ferryman_pool_files", ""] in (0, 1)


def test_a_failure_that_is_answered_counts_once(env: dict[str, str]) -> None:
    with running_app({**env, "S3_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}) as app:
        client = app.test_client()
        answer = client.post("/normal_upload", data={"file": (BytesIO(b"hello"), "a.txt")})
        assert answer.status_code == 502, answer.text
        assert parsed(client.get("/metrics").text)["ferryman_errors_total", "StoreError"] == 1


def test_counting_takes_next_to_nothing() -> None:
    metrics = Metrics(["async"])
    best = 1.0
    for _ in range(200):
        began = time.perf_counter()
        metrics.accepted("async", 5, 0.01)
        best = min(best, time.perf_counter() - began)
    assert best < 50e-6
