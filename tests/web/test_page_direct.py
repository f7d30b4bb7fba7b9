"""The page with direct uploads, in a real browser: straight to the bucket, a reload, and a lost bucket."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, Route, expect

from tests.kit.browser import CHROMIUM, MISSING, Visit, visiting
from tests.kit.bucket import set_cors
from tests.kit.proxy import Proxy
from tests.kit.stack import RedisServer, S3Server, Web, serving

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)

MIB = 1024 * 1024
NAME = "Film für 東京.bin"


@pytest.fixture
def bucket_link(s3: S3Server) -> Iterator[Proxy]:
    """The way of the browser to the bucket, to be broken."""
    proxy = Proxy(s3.port)
    yield proxy
    proxy.close()


@pytest.fixture
def web(s3: S3Server, redis_server: RedisServer, bucket_link: Proxy, tmp_path: Path) -> Iterator[Web]:
    public = f"http://127.0.0.1:{bucket_link.port}"
    with serving(tmp_path, s3, redis_server, workers=2, DIRECT="true", S3_PUBLIC_ENDPOINT_URL=public) as web:
        set_cors(web.env)
        yield web


@pytest.fixture
def visit(browser: Browser, web: Web) -> Iterator[Visit]:
    with visiting(browser, web.url) as visit:
        visit.open()
        yield visit


def path_of(folder: Path, size: int) -> Path:
    path = folder / NAME
    path.write_bytes(os.urandom(size))
    return path


def choose(visit: Visit, path: Path) -> None:
    with visit.page.expect_file_chooser() as chooser:
        visit.page.get_by_text("Choose files").click()
    chooser.value.set_files([str(path)])


def check(visit: Visit, web: Web, path: Path, mode: str) -> None:
    expect(visit.card(NAME).locator(".status")).to_have_text("Complete", timeout=40_000)
    [shown] = requests.get(f"{web.url}/files", timeout=20).json()["files"]
    assert (shown["name"], shown["mode"], shown["size"]) == (NAME, mode, path.stat().st_size)
    content = requests.get(f"{web.url}/files/{shown['id']}/content?proxy=1", timeout=30).content
    assert content == path.read_bytes()


@pytest.mark.parametrize("size", [0, 3 * MIB, 40 * MIB])
def test_bytes_go_straight_to_the_bucket(visit: Visit, web: Web, tmp_path: Path, size: int) -> None:
    path, sent = path_of(tmp_path, size), list[tuple[str, str]]()
    visit.page.on("request", lambda one: sent.append((one.method, one.url)))
    expect(visit.page.get_by_role("radio", name="Direct")).to_be_checked()
    choose(visit, path)
    check(visit, web, path, "direct")
    assert not [url for method, url in sent if method == "PUT" and url.startswith(web.url)]
    assert [url for method, url in sent if method == "PUT"]


def test_another_mode_can_be_chosen(visit: Visit, web: Web, tmp_path: Path) -> None:
    path = path_of(tmp_path, 5)
    visit.page.get_by_role("radio", name="Normal").check()
    choose(visit, path)
    check(visit, web, path, "normal")


def test_it_goes_on_after_a_reload(visit: Visit, web: Web, tmp_path: Path) -> None:
    path, parts, is_held = path_of(tmp_path, 40 * MIB), list[str](), [True]

    def hold(route: Route) -> None:
        if route.request.method == "PUT":
            parts.append(route.request.url.partition("partNumber=")[2][0])
        if not is_held[0] or "partNumber=2" not in route.request.url:
            route.continue_()

    visit.page.route("**/*partNumber=*", hold)
    choose(visit, path)
    expect(visit.card(NAME).locator(".detail")).to_contain_text("17 MB", timeout=20_000)
    while parts != ["1", "2"]:
        visit.page.wait_for_timeout(20)
    visit.page.once("dialog", lambda dialog: dialog.accept())
    visit.page.reload()
    is_held[0] = False
    choose(visit, path)
    check(visit, web, path, "direct")
    assert parts == ["1", "2", "2", "3"]


def test_around_a_bucket_that_cannot_be_reached(
    visit: Visit, web: Web, bucket_link: Proxy, tmp_path: Path
) -> None:
    path = path_of(tmp_path, 20 * MIB)
    bucket_link.refuse()
    choose(visit, path)
    check(visit, web, path, "async")
    expect(visit.card(NAME)).to_contain_text("async")
    visit.expect("ERR_CONNECTION_REFUSED")


def test_where_it_is_off_nothing_tells_of_it(
    browser: Browser, s3: S3Server, redis_server: RedisServer, tmp_path: Path
) -> None:
    with serving(tmp_path, s3, redis_server) as web, visiting(browser, web.url) as visit:
        visit.open()
        expect(visit.page.get_by_role("radio", name="Direct")).to_have_count(0)
        assert (
            "connect-src 'self';"
            in requests.get(web.url, headers={"Accept": "text/html"}, timeout=20).headers[
                "Content-Security-Policy"
            ]
        )
