"""Clients that others generate from the API's document are made, checked and used, through the real server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.stack import ROOT, RedisServer, S3Server, Web

DOCUMENT = ROOT / "docs" / "openapi.json"
NPM = shutil.which("npm")
EXPECTED = {"name": "報告書.txt", "status": "COMPLETE", "listed": [True], "content": "hello", "deleted": 204}
PYTHON_CLIENT = """
import json, sys
from io import BytesIO
from made import Client
from made.api.files import delete_file, get_content, get_file, list_files
from made.api.upload import put_named_async, upload_async
from made.models import Form, GetContentProxy
from made.types import File

with Client(base_url=sys.argv[1], raise_on_unexpected_status=True) as client:
    form = Form(file=File(payload=BytesIO(b"hello"), file_name="報告書.txt", mime_type="text/plain"))
    accepted = upload_async.sync(client=client, body=form)
    file = accepted
    while file.upload_status.value in ("PENDING", "PROCESSING"):
        file = get_file.sync(accepted.id, client=client, prefer="wait=20")
    listed = list_files.sync(client=client, name="報告", limit=1)
    content = get_content.sync(accepted.id, client=client, proxy=GetContentProxy.VALUE_0)
    raw = put_named_async.sync("raw.txt", client=client, body=File(payload=BytesIO(b"raw")))
    assert (raw.name, raw.size) == ("raw.txt", 3)
    deleted = delete_file.sync_detailed(accepted.id, client=client)
print(json.dumps({
    "name": file.name,
    "status": file.upload_status.value,
    "listed": [one.id == accepted.id for one in listed.files],
    "content": content.payload.read().decode(),
    "deleted": deleted.status_code.value,
}))
"""
TSC = ["npx", "tsc", "--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"]


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("generated")
    settings = {"SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}", "SPOOL_DIR": str(folder / "spool")}
    web = Web(folder, {**s3.settings, **redis_server.settings, **settings})
    try:
        web.start()
        web.wait()
        yield web
    finally:
        web.stop()


def run(command: list[str], folder: Path) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def said(command: list[str], folder: Path) -> Any:
    return json.loads(run(command, folder).splitlines()[-1])


def test_a_python_client(web: Web, tmp_path: Path) -> None:
    options = ["--path", str(DOCUMENT), "--output-path", str(tmp_path / "made"), "--meta", "none"]
    # Of types that it does not know, it must be told that they are bytes.
    bytes_too = "content_type_overrides:\n  application/offset+octet-stream: application/octet-stream\n"
    (tmp_path / "config.yaml").write_text(f"post_hooks: []\n{bytes_too}")
    generate = [sys.executable, "-m", "openapi_python_client", "generate", *options, "--config", "config.yaml"]
    assert "Warning" not in run(generate, tmp_path)
    (tmp_path / "use.py").write_text(PYTHON_CLIENT)
    assert said([sys.executable, "use.py", web.url], tmp_path) == EXPECTED


@pytest.mark.skipif(NPM is None, reason="NPM IS NOT INSTALLED, so no TypeScript client is tried")
def test_a_typescript_client(web: Web, tmp_path: Path) -> None:
    for source in (ROOT / "tests" / "kit" / "node").iterdir():
        if source.is_file():
            shutil.copy(source, tmp_path)
    run([str(NPM), "ci", "--no-audit", "--no-fund", "--silent"], tmp_path)
    run(["npx", "openapi-typescript", str(DOCUMENT), "-o", "api.ts"], tmp_path)
    run([*TSC, "--skipLibCheck", "client.ts"], tmp_path)
    assert said(["node", "client.js", web.url], tmp_path) == EXPECTED
