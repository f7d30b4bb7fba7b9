"""Fixtures: one S3 server and one Redis for all tests; a database, a spool and an app for each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from playwright.sync_api import Browser, sync_playwright
from werkzeug.test import TestResponse

from access import keys
from app import create_app
from config import Config
from core.database import db
from storage.store import Store
from tests.kit.browser import launch
from tests.kit.damaging_proxy import DamagingProxy
from tests.kit.proxy import Proxy
from tests.kit.stack import PostgresServer, RedisServer, S3Server
from tests.kit.uploads import MAKE

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


class Client(FlaskClient):
    """Takes an answer that has an end to that end, where servers close it and work begins that waited for it."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        answer = super().open(*args, **kwargs)
        if answer.content_length is not None:
            answer.get_data()
            answer.close()
        return answer


Flask.test_client_class = Client


LONGEST = (
    "local/test_run.py",
    "openapi/test_openapi.py",
    "storage/test_stores.py",
    "storage/test_spool_disk.py",
    "ops/test_slow_clients.py",
    "ops/test_refusals.py",
    "delivery/test_late_digests.py",
    "core/test_migrations.py",
    "web/test_page.py",
    "faults/test_faults.py",
    "test_docs.py",
)
"""The files that take longest: they come first, so that no worker begins one when the others are done.

test_docs comes when test_run has ended: both start `make run`, and two starts at once choose the same ports.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def server_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


AnyServer = TypeVar("AnyServer", S3Server, RedisServer, PostgresServer)


def running(service: AnyServer) -> Iterator[AnyServer]:
    service.start()
    try:
        _wait(service)
        yield service
    finally:
        service.stop()


def _wait(service: AnyServer) -> None:
    try:
        service.wait()
    except AssertionError as error:
        raise AssertionError(f"{error}; its log ends with: {service.text()[-3000:]}") from error


@pytest.fixture(scope="session")
def s3(server_dir: Path) -> Iterator[S3Server]:
    yield from running(S3Server(server_dir))


@pytest.fixture(scope="session")
def redis_server(server_dir: Path) -> Iterator[RedisServer]:
    yield from running(RedisServer(server_dir))


@pytest.fixture(scope="session")
def postgres(server_dir: Path) -> Iterator[PostgresServer]:
    yield from running(PostgresServer(server_dir))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'files.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database(uuid4().hex)


@pytest.fixture
def env(s3: S3Server, redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    """Settings of a whole service on real parts, with SQLite."""
    return {
        **s3.settings,
        **redis_server.settings,
        "AUTH": "open",
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{tmp_path / 'files.db'}",
        "SPOOL_DIR": str(tmp_path / "spool"),
    }


@pytest.fixture
def app(env: dict[str, str]) -> Iterator[Flask]:
    """The app on real parts."""
    with running_app(env) as running:
        yield running


@contextmanager
def running_app(env: dict[str, str]) -> Iterator[Flask]:
    """An app with empty tables; whatever the test does to it, its threads and connections end."""
    app = create_app(env)
    with app.app_context():
        db.create_all()
    try:
        yield app
    finally:
        app.extensions["ferryman"].pool.stop(5)
        app.extensions["ferryman"].celery.close()
        with app.app_context():
            db.engine.dispose()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def make(env: dict[str, str], redis_server: RedisServer) -> Iterator[MAKE]:
    """Makes the client of an owner under limits."""
    with redis_server.client as client:
        client.flushdb()  # what other tests have counted in this minute
    running = ExitStack()

    def made(**settings: str) -> FlaskClient:
        app = running.enter_context(running_app({**env, "AUTH": "required", **settings}))
        client = app.test_client()
        with app.app_context():
            client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {keys.create_key('alice')}"
        return client

    with running:
        yield made


@pytest.fixture
def bucket(s3: S3Server) -> S3Client:
    """The boto3 client of the service, for looking into the bucket."""
    return Store(Config.from_mapping(s3.settings)).client


@pytest.fixture(scope="module")
def s3_link(s3: S3Server) -> Iterator[Proxy]:
    """A way to S3 that can break."""
    proxy = Proxy(s3.port)
    yield proxy
    proxy.close()


@pytest.fixture
def damaging_proxy(s3: S3Server) -> Iterator[DamagingProxy]:
    """A way to S3 that can fall silent."""
    with closing(DamagingProxy(s3.port)) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium."""
    with sync_playwright() as playwright:
        chromium = launch(playwright)
        yield chromium
        chromium.close()


@pytest.fixture
def spool_dir(env: dict[str, str]) -> Path:
    return Path(env["SPOOL_DIR"])
