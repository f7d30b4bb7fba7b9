"""Traces: one from the request to the PutObject, through the pool and through the queue, without secrets."""

from __future__ import annotations

import os
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from local.run import TRACES
from tests.kit.stack import SECRET, RedisServer, S3Server, Web, Worker, wait_for

AGENT = Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument"
BEARER = "fm_0a1b_hidden-bearer"


class Receiver:
    """Takes traces as a collector does: OTLP over HTTP, in protobuf."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Keep the spans."""
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


@pytest.fixture(scope="module")
def web(receiver: Receiver, s3: S3Server, redis_server: RedisServer, server_dir: Path) -> Iterator[Web]:
    """Web and worker under the agent."""
    folder = server_dir / "traces"
    folder.mkdir()
    env = {
        **TRACES,
        **s3.settings,
        **redis_server.settings,
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.server.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "PATH": f"{AGENT.parent}:{os.environ['PATH']}",
    }
    web, worker = Web(folder, env), Worker(folder, env)
    with ExitStack() as stopping:
        for service in (web, worker):
            service.command = [str(AGENT), *service.command]
            service.start()
            stopping.callback(service.kill)
        web.wait()
        worker.wait()
        yield web


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("async", {"POST /async_upload", "S3.PutObject"}),
        ("celery", {"POST /celery_upload", "apply_async/upload_task", "run/upload_task", "S3.PutObject"}),
    ],
)
def test_one_trace_goes_from_the_request_to_s3(
    web: Web, receiver: Receiver, mode: str, expected: set[str]
) -> None:
    answer = requests.post(
        f"{web.url}/{mode}_upload",
        files={"file": ("a.txt", b"hello")},
        headers={"Authorization": f"Bearer {BEARER}"},
        timeout=30,
    )
    assert web.settled(answer.json()["id"])["upload_status"] == "COMPLETE"

    def trace() -> list[Span]:
        roots = [span for span in receiver.spans if span.name == f"POST /{mode}_upload"]
        found = [span for span in receiver.spans if roots and span.trace_id == roots[0].trace_id]
        return found if expected <= {span.name for span in found} else []

    found = wait_for(trace, what=f"trace with {expected}")
    assert len([span for span in found if span.kind == Span.SPAN_KIND_SERVER]) == 1
    told = str(receiver.spans)
    assert "hidden-bearer" not in told
    assert SECRET not in told
    assert "Signature" not in told
