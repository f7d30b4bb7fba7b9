"""The audit of `make check`: fails for a known vulnerability, says loudly that it could not look."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from tests.kit.ports import free_port
from tests.kit.stack import ROOT


@contextmanager
def osv(vulnerable: str) -> Iterator[str]:
    """An advisory service as https://osv.dev, that knows one package as vulnerable; the answer is its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            vulnerability = {"id": "FAKE-2026-1", "modified": "2026-01-01T00:00:00Z", "affected": []}
            known = asked["package"]["name"] == vulnerable
            body = json.dumps({"vulns": [vulnerability]} if known else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def audit(folder: Path, address: str) -> subprocess.CompletedProcess[str]:
    (folder / "constraints.txt").write_text("# pins\nflask==3.1.3\nredis==8.1.0\n")
    command = [sys.executable, str(ROOT / ".ci" / "audit.py"), "-s", "osv", "--osv-url", address]
    return subprocess.run(
        [*command, "--cache-dir", str(folder)], cwd=folder, capture_output=True, text=True, check=False
    )


def test_a_known_vulnerability_fails(tmp_path: Path) -> None:
    with osv("redis") as address:
        result = audit(tmp_path, address)
    assert (result.returncode, result.stderr) == (1, "pip-audit: redis 8.1.0: FAKE-2026-1\n")


def test_none_passes_in_silence(tmp_path: Path) -> None:
    with osv("another") as address:
        result = audit(tmp_path, address)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_service_out_of_reach_is_told_loudly(tmp_path: Path) -> None:
    result = audit(tmp_path, f"http://127.0.0.1:{free_port()}")
    assert result.returncode == 0
    assert result.stderr == "pip-audit: NOT CHECKED, SINCE THE ADVISORY SERVICE CANNOT BE REACHED\n"


def test_so_is_one_that_cannot_be_trusted(tmp_path: Path) -> None:
    with osv("another") as address:
        result = audit(tmp_path, address.replace("http:", "https:"))
    assert result.returncode == 0
    assert result.stderr == "pip-audit: NOT CHECKED, SINCE THE ADVISORY SERVICE CANNOT BE REACHED\n"
