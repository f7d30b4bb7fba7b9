"""The API's document: complete, valid, as published, and true of a live service."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from access import auth
from access.keys import create_key
from openapi import components, direct, document
from tests.conftest import running_app
from tests.kit.stack import ROOT, RedisServer, S3Server, Web, Worker, wait_for


class Tried(NamedTuple):
    """One request that schemathesis made."""

    operation: str
    status: int
    link: str | None


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.fuzz)])
def settings(
    request: pytest.FixtureRequest,
    s3: S3Server,
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """Settings of a service that asks for keys, on each kind of database."""
    folder = tmp_path_factory.mktemp("openapi")
    keys = {"AUTH": "required", "KEY_REQUESTS_PER_MINUTE": "1000000", "SPOOL_DIR": str(folder / "spool")}
    keys |= {"TOKEN_SECRET": secrets.token_urlsafe(32), "DIRECT": "true"}
    uri = f"sqlite:///{folder / 'files.db'}"
    if request.param == "postgresql":
        uri = request.getfixturevalue("postgres").new_database(uuid4().hex)
    return {**s3.settings, **redis_server.settings, **keys, "SQLALCHEMY_DATABASE_URI": uri}


@pytest.fixture(scope="module")
def service(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """The whole service."""
    folder = tmp_path_factory.mktemp("service")
    web, worker = Web(folder, settings), Worker(folder, settings)
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
def open_service(
    settings: dict[str, str], service: Web, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    """Another web process of it, which asks for no keys."""
    web = Web(tmp_path_factory.mktemp("open"), {**settings, "AUTH": "open"})
    web.start()
    try:
        web.wait()
        yield web
    finally:
        code = web.stop()
    assert code == 0


def made_key(service: Web, *options: str) -> str:
    command = [sys.executable, "-m", "flask", "--app", "app", "keys", "create", "alice", *options]
    made = subprocess.run(command, env=service.env, cwd=ROOT, check=True, capture_output=True, text=True)
    return made.stdout.strip()


@pytest.fixture(scope="module")
def keys(service: Web) -> tuple[str, str]:
    """A key for files, and one for metrics."""
    return made_key(service), made_key(service, "--metrics")


def ticket(service: Web, key: str) -> str:
    """A ticket for the addresses that have it in them; without a key, what is none."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    made = requests.post(f"{service.url}/direct/tickets", headers=headers, timeout=20)
    return made.json()["companionEndpoint"].rpartition("/")[2] if made.ok else "fm_none"


def find_faults(service: Web, folder: Path, *options: str, keys: tuple[str, str] = ("", "")) -> list[Tried]:
    """Let schemathesis try the service by its own document; it must find nothing."""
    report = folder / "report.ndjson"
    command = [str(Path(sys.executable).parent / "schemathesis")]
    command += [
        "--config-file",
        str(ROOT / "tests" / "openapi" / "schemathesis.toml"),
        "run",
        f"{service.url}/openapi.json",
    ]
    command += ["--report-ndjson-path", str(report), *options]
    if keys[0]:
        command += ["--header", f"Authorization: Bearer {keys[0]}"]
    hooks = ROOT / "tests" / "openapi" / "schemathesis_hooks.py"
    env = {
        **os.environ,
        "METRICS_KEY": keys[1],
        "TICKET": ticket(service, keys[0]),
        "SCHEMATHESIS_HOOKS": str(hooks),
    }
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return list(tried(report))


def tried(report: Path) -> Iterator[Tried]:
    """Read the requests out of a report."""
    for line in report.read_text().splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for name, exchange in recorder.get("interactions", {}).items():
            if answer := exchange.get("response"):
                case = recorder["cases"][name]
                link = (case.get("transition") or {}).get("id")
                yield Tried("{method} {path}".format(**case["value"]), answer["status_code"], link)


def guarded(app: Flask) -> set[str]:
    """The operations that need a key."""
    return {
        f"{verb.upper()} {path}"
        for path, operations in app.extensions["openapi"]["paths"].items()
        for verb, operation in operations.items()
        if "security" not in operation
    }


def test_schemathesis_finds_nothing_with_a_key(
    service: Web, keys: tuple[str, str], tmp_path: Path, app: Flask
) -> None:
    seen = find_faults(service, tmp_path, "--generation-deterministic", keys=keys)
    opened = {one.operation for one in seen if one.status < HTTPStatus.BAD_REQUEST}
    # For these a file must have failed, there must be presets, a table, or bytes in S3; no link leads to an
    # upload's address.
    uploads = {f"{verb} /uploads/{{upload_id}}" for verb in ("HEAD", "GET", "PATCH", "DELETE")}
    rare = uploads | {
        "POST /files/{file_id}/retry",
        "POST /files/{file_id}/derivatives",
        "GET /files/{file_id}/report",
        "POST /direct/{upload_id}/finish",
    }
    assert guarded(app) - opened <= rare
    followed = {one.link.split()[4] for one in seen if one.link}
    assert followed == set(components.LINKS | direct.LINKS)
    assert HTTPStatus.TOO_MANY_REQUESTS not in {one.status for one in seen}


def test_schemathesis_finds_nothing_without_a_key(service: Web, tmp_path: Path, app: Flask) -> None:
    options = ["--generation-deterministic", "--max-examples", "3", "--phases", "examples,coverage,fuzzing"]
    seen = find_faults(service, tmp_path, *options)
    closed = [one for one in seen if one.operation in guarded(app)]
    assert {one.operation for one in closed} == guarded(app)
    opened = {one for one in closed if one.status != HTTPStatus.UNAUTHORIZED}
    # What is no id of a direct upload is no address.
    assert {(one.operation.split()[1][:8], one.status) for one in opened} <= {("/direct/", HTTPStatus.NOT_FOUND)}


def test_schemathesis_finds_nothing_where_no_key_is_needed(open_service: Web, tmp_path: Path, app: Flask) -> None:
    options = ["--generation-deterministic", "--max-examples", "3", "--exclude-checks", "ignored_auth"]
    seen = find_faults(open_service, tmp_path, *options)
    assert HTTPStatus.UNAUTHORIZED not in {one.status for one in seen}


@pytest.mark.fuzz
@pytest.mark.timeout(0)
def test_schemathesis_finds_nothing_in_a_longer_time(service: Web, keys: tuple[str, str], tmp_path: Path) -> None:
    """FUZZ_SECONDS at least, from a SEED that is told."""
    seed = os.environ.get("SEED") or str(secrets.randbelow(10**9))
    sys.stdout.write(f"SEED={seed}\n")
    options = ["--seed", seed, "--max-time", os.environ.get("FUZZ_SECONDS", "120")]
    # The service soon hears no more keys from an address that sends wrong ones again and again.
    seen = find_faults(service, tmp_path, *options, "--exclude-checks", "ignored_auth", keys=keys)
    sys.stdout.write(f"{len(seen)} requests\n")


@pytest.fixture
def closed(env: dict[str, str]) -> Iterator[FlaskClient]:
    """A client of an app that asks for keys, and lets each do five things a minute."""
    with running_app({**env, "AUTH": "required", "KEY_REQUESTS_PER_MINUTE": "5"}) as app:
        yield app.test_client()


def test_the_stream_without_end_answers_as_documented(closed: FlaskClient) -> None:
    with closed.application.app_context():
        key = {"Authorization": f"Bearer {create_key('stream')}"}

    def answered(headers: dict[str, str]) -> int:
        answer = closed.get("/events", headers=headers)
        answer.close()
        documented = as_documented(closed.application, "/events", answer.status_code)
        assert answer.mimetype in documented["content"]
        needed = {name for name, header in documented["headers"].items() if header["required"]}
        assert needed <= set(answer.headers.keys())
        return answer.status_code

    assert answered({}) == HTTPStatus.UNAUTHORIZED
    assert answered(key) == HTTPStatus.OK
    assert answered({**key, "Last-Event-ID": "x"}) == HTTPStatus.BAD_REQUEST
    wait_for(lambda: answered(key) == HTTPStatus.TOO_MANY_REQUESTS)


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


def as_documented(app: Flask, path: str, status: int) -> Any:
    """What the document says of an answer."""
    document = app.extensions["openapi"]
    components = document["components"]
    name = document["paths"][path]["get"]["responses"][str(status)]["$ref"].rpartition("/")[2]
    response = components["responses"][name]
    headers = {name: components["headers"][name] for name in response["headers"]}
    return {**response, "headers": headers}


def test_the_document_is_valid_and_complete(app: Flask) -> None:
    document = app.extensions["openapi"]
    validate(document)
    described = {
        (path, verb.upper())
        for path, operations in document["paths"].items()
        for verb in operations
        if verb != "head"  # described where it says more than GET
    }
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), verb)
        for rule in app.url_map.iter_rules()
        for verb in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not auth.is_static(rule.endpoint) and (rule.rule == "/" or not rule.rule.endswith("/"))
        if not rule.rule.startswith("/direct/s3/")  # as below a ticket
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


def test_a_mistyped_field_of_a_docstring_stops_the_start() -> None:
    app = Flask(__name__)

    @app.post("/mistyped")
    def mistyped() -> str:
        """Upload a file.
        ---
        post: {operationId: mistyped, tags: [Upload], x-uplaod: true, responses: {200: Index}}
        """
        return ""

    with pytest.raises(ValueError, match="x-uplaod"):
        document.build(app)
