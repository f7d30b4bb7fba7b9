"""The API's document: complete, valid, as published, and true of a live service."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from tests.stack import ROOT, RedisServer, S3Server, Web, Worker


@pytest.fixture(scope="module")
def service(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
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
    """Let schemathesis try the service by its own document, but for the one stream that has no end."""
    program = str(Path(sys.executable).parent / "schemathesis")
    command = [program, "--config-file", str(ROOT / "tests" / "schemathesis.toml")]
    # No cursor, digest or name with an extension comes about by chance, so valid requests may be refused.
    command += ["run", f"{service.url}/openapi.json", "--exclude-operation-id", "watchAll"]
    command += ["--exclude-checks", "positive_data_acceptance", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_schemathesis_finds_nothing_with_a_key(service: Web, key: str) -> None:
    find_faults(service, "--header", f"Authorization: Bearer {key}", "--max-examples", "10")


def test_the_events_of_a_deleted_file_are_as_documented(client: FlaskClient) -> None:
    row: Any = client.post("/celery_upload", data={"file": (BytesIO(b"hello"), "a.txt")}).json
    assert client.delete(f"/files/{row['id']}").status_code == HTTPStatus.NO_CONTENT
    stream = client.get("/events", headers={"Last-Event-ID": "0"})
    pieces, told = stream.iter_encoded(), list[Any]()
    while not told or told[-1]["error"] != "Deleted.":
        told += map(json.loads, re.findall(rb"^data: (.*)$", next(pieces), re.MULTILINE))
    stream.close()
    assert [event["name"] for event in told] == [None, None]
    schema = client.application.extensions["openapi"]["components"]["schemas"]["Event"]
    for event in told:
        OAS31Validator(schema).validate(event)


def test_the_document_is_valid_and_complete(app: Flask) -> None:
    document = app.extensions["openapi"]
    validate(document)
    described = {(path, verb.upper()) for path, operations in document["paths"].items() for verb in operations}
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), verb)
        for rule in app.url_map.iter_rules()
        for verb in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static"
    }
    assert described == served


def test_the_published_document_is_the_one_that_is_served(app: Flask) -> None:
    published = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert published == json.loads(json.dumps(app.extensions["openapi"])), "look at the change; `make openapi`"


def test_the_document_can_be_read_by_people(client: FlaskClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "style-src 'self'" in page.headers["Content-Security-Policy"]
    assert "<script" not in page.text
    assert "style=" not in page.text
    for operations in client.application.extensions["openapi"]["paths"].values():
        for operation in operations.values():
            assert f'id="{operation["operationId"]}"' in page.text
