"""The API's document: complete, valid, as published, and true of a live service."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import ROOT, RedisServer, S3Server, Web, Worker


@pytest.fixture(scope="module")
def service(
    s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    """A whole service that asks for keys."""
    folder = tmp_path_factory.mktemp("openapi")
    env = {**s3.settings, **redis_server.settings, "AUTH": "required", "KEY_REQUESTS_PER_MINUTE": "1000000"}
    env |= {"SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}", "SPOOL_DIR": str(folder / "spool")}
    web, worker = Web(folder, env), Worker(folder, env)
    try:
        web.start()
        worker.start()
        web.wait()
        worker.wait()
        yield web
    finally:
        codes = (web.stop(), worker.stop())
    assert codes == (0, 0)


@pytest.fixture(scope="module")
def key(service: Web) -> str:
    command = [sys.executable, "-m", "flask", "--app", "app", "keys", "create", "alice"]
    made = subprocess.run(command, env=service.env, cwd=ROOT, check=True, capture_output=True, text=True)
    return made.stdout.strip()


def find_faults(service: Web, *options: str) -> None:
    """Let schemathesis try the service by its own document."""
    command = [Path(sys.executable).parent / "schemathesis", "--config-file", ROOT / "tests" / "schemathesis.toml"]
    command += ["run", f"{service.url}/openapi.json", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(result.stdout, result.stderr)
    assert result.returncode == 0


def test_schemathesis_finds_nothing_with_a_key(service: Web, key: str) -> None:
    find_faults(service, "--header", f"Authorization: Bearer {key}", "--max-examples", "10")
