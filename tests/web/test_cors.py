"""CORS: which pages may use the service, what they may send and read, and that errors are among it."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from app import create_app
from tests.conftest import running_app
from tests.kit.stack import RedisServer, Web
from tests.kit.tokens import Ferry, running_ferry

ORIGIN = "https://app.example.com"
LOCAL = "http://localhost:3000"
DOORS = [
    ("POST", "/async_upload"),
    ("POST", "/normal_upload"),
    ("POST", "/celery_upload"),
    ("PUT", "/async_upload/a.txt"),
    ("POST", "/uploads"),
    ("HEAD", f"/uploads/{'0' * 32}"),
    ("PATCH", f"/uploads/{'0' * 32}"),
    ("DELETE", f"/uploads/{'0' * 32}"),
    ("POST", "/tokens"),
    ("GET", "/files"),
    ("GET", "/events"),
    ("GET", f"/files/{'0' * 32}"),
    ("PATCH", f"/files/{'0' * 32}"),
    ("DELETE", f"/files/{'0' * 32}"),
    ("GET", f"/files/{'0' * 32}/content"),
    ("GET", f"/files/{'0' * 32}/events"),
    ("POST", f"/files/{'0' * 32}/links"),
    ("POST", f"/files/{'0' * 32}/retry"),
    ("GET", "/openapi.json"),
    ("GET", "/no/such/address"),
]


@pytest.fixture(scope="module")
def ferry(s3: Any, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ferry]:
    with redis_server.client as client:
        client.flushdb()
    env = {"CORS_ORIGINS": f"{ORIGIN}, {LOCAL}", "MAX_CONTENT_LENGTH": "100000"}
    with running_ferry(tmp_path_factory.mktemp("cors"), {**s3.settings, **redis_server.settings, **env}) as found:
        yield found


def preflight(web: Web, path: str, method: str, origin: str, headers: str = "authorization") -> requests.Response:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
        "Sec-Fetch-Site": "cross-site",
    }
    return requests.options(web.url + path, headers=asked, timeout=20)


def words(answer: requests.Response, name: str) -> set[str]:
    return {word.strip().lower() for word in answer.headers[name].split(",")}


@pytest.mark.parametrize("origin", [ORIGIN, LOCAL])
@pytest.mark.parametrize(("method", "path"), DOORS)
def test_every_door_is_open_to_a_listed_page(ferry: Ferry, method: str, path: str, origin: str) -> None:
    before = preflight(ferry.web, path, method, origin)
    assert before.status_code == 204
    assert before.headers["Access-Control-Allow-Origin"] == origin
    assert method.lower() in words(before, "Access-Control-Allow-Methods")
    sent = {"authorization", "idempotency-key", "prefer", "content-digest", "upload-offset", "tus-resumable"}
    assert sent <= words(before, "Access-Control-Allow-Headers")
    assert int(before.headers["Access-Control-Max-Age"]) > 0
    assert "Access-Control-Allow-Credentials" not in before.headers
    answer = requests.request(method, ferry.web.url + path, headers={"Origin": origin}, timeout=20)
    assert_readable(answer, origin)


def assert_readable(answer: requests.Response, origin: str) -> None:
    assert answer.headers["Access-Control-Allow-Origin"] == origin, answer.text
    assert "Origin" in answer.headers["Vary"]
    assert "Access-Control-Allow-Credentials" not in answer.headers
    read = {"location", "etag", "retry-after", "ratelimit-remaining", "upload-offset", "content-range"}
    assert read <= words(answer, "Access-Control-Expose-Headers")


STRANGE = [
    "https://evil.example.com",
    "https://app.example.com:8443",
    "http://app.example.com",
    "https://app.example.com.",
    "https://APP.example.com",
    "https://app.example.com.evil.example",
    "https://sub.app.example.com",
    "http://localhost:3001",
    "null",
    "",
]


@pytest.mark.parametrize("origin", STRANGE)
def test_no_other_page_reads_anything(ferry: Ferry, origin: str) -> None:
    for answer in (
        preflight(ferry.web, "/async_upload", "POST", origin),
        requests.get(f"{ferry.web.url}/files", headers={"Origin": origin, **ferry.bearer()}, timeout=20),
    ):
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        assert answer.headers["Vary"] == "Origin"  # or a cache would give one page what is another's


def test_a_preflight_with_unknown_headers_names_the_known_ones(ferry: Ferry) -> None:
    answer = preflight(
        ferry.web, "/async_upload", "POST", ORIGIN, "x-evil, authorization, \u00e9".encode().decode("latin-1")
    )
    assert answer.status_code == 204
    assert "x-evil" not in words(answer, "Access-Control-Allow-Headers")


def test_options_that_are_no_preflight_tell_the_verbs(ferry: Ferry) -> None:
    answer = requests.options(f"{ferry.web.url}/files", headers={"Origin": ORIGIN}, timeout=20)
    assert "GET" in answer.headers["Allow"]


def test_every_error_can_be_read(ferry: Ferry) -> None:
    headers = {"Origin": ORIGIN}
    url = ferry.web.url
    big = {"file": ("a.txt", b"x" * 200_000)}
    tooth = {**headers, **ferry.bearer(ferry.token(subject="1", max_bytes=1))}
    errors = {
        400: requests.post(
            f"{url}/async_upload", files={"other": b"x"}, headers={**headers, **ferry.bearer()}, timeout=20
        ),
        401: requests.get(f"{url}/files", headers=headers, timeout=20),
        403: requests.get(f"{url}/metrics", headers={**headers, **ferry.bearer()}, timeout=20),
        404: requests.get(f"{url}/nothing", headers=headers, timeout=20),
        405: requests.put(f"{url}/files", headers=headers, timeout=20),
        413: requests.post(f"{url}/async_upload", files=big, headers={**headers, **ferry.bearer()}, timeout=20),
        415: requests.post(f"{url}/async_upload", data=b"x", headers={**headers, **ferry.bearer()}, timeout=20),
    }
    for status, answer in errors.items():
        assert answer.status_code == status
        assert_readable(answer, ORIGIN)
    beyond = requests.post(f"{url}/async_upload", files={"file": b"xx"}, headers=tooth, timeout=20)
    assert beyond.status_code == 413
    assert_readable(beyond, ORIGIN)


def test_what_the_web_server_itself_refuses_can_be_read(ferry: Ferry) -> None:
    connection = http.client.HTTPConnection(urlsplit(ferry.web.url).netloc, timeout=20)
    connection.request("GET", "/files", headers={"Origin": ORIGIN, "Expect": "the impossible"})
    answer = connection.getresponse()
    assert answer.status == 417
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    connection.close()
    long = requests.get(f"{ferry.web.url}/files", headers={"Origin": ORIGIN, "X-Long": "x" * 10_000}, timeout=20)
    assert (long.status_code, long.headers["Access-Control-Allow-Origin"]) == (431, "*")


def test_503_can_be_read(env: dict[str, str]) -> None:
    sick = {**env, "SQLALCHEMY_DATABASE_URI": "postgresql+psycopg://u@127.0.0.1:9/x", "CORS_ORIGINS": ORIGIN}
    answer: Any = create_app(sick).test_client().get("/files/x", headers={"Origin": ORIGIN})
    assert answer.status_code == 503
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]


def test_a_star_is_for_every_page(env: dict[str, str]) -> None:
    with running_app({**env, "CORS_ORIGINS": "*"}) as app:
        for origin in ("https://any.example", "null"):
            answer: Any = app.test_client().get(
                "/files", headers={"Origin": origin, "Sec-Fetch-Site": "cross-site"}
            )
            assert answer.status_code == 200
            assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_an_open_service_lets_in_listed_pages_alone(env: dict[str, str]) -> None:
    with running_app({**env, "CORS_ORIGINS": LOCAL}) as app:
        client = app.test_client()
        for origin, status in ((LOCAL, 200), ("http://localhost:3001", 403), ("null", 403)):
            headers = {"Origin": origin, "Sec-Fetch-Site": "same-site"}
            assert client.get("/files", headers=headers).status_code == status
        # What comes without the page's name, as for an image or a form, is not by CORS.
        assert client.get("/files", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        evil = {"Origin": LOCAL, "Host": "evil.example"}
        assert client.get("/files", headers=evil).status_code == 403


def test_without_origins_nothing_changes(env: dict[str, str]) -> None:
    with running_app(env) as app:
        answer: Any = app.test_client().options(
            "/files", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
        )
        assert not [name for name in dict(answer.headers) if name.startswith("Access-Control")]
