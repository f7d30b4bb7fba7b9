"""The page with large files, in a real browser: pause, a reload, a lost network, a restart of the service."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, Request, expect

from tests.kit.browser import CHROMIUM, MISSING, Visit, throttle, visiting
from tests.kit.proxy import Proxy
from tests.kit.stack import RedisServer, S3Server, Web, serving, wait_for
from tests.web.test_page import fine

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)

MIB = 1024 * 1024
SIZE = 24 * MIB
SLOW = 6 * MIB
NAME = "Film für 東京.bin"


@pytest.fixture
def web(s3: S3Server, redis_server: RedisServer, tmp_path: Path) -> Iterator[Web]:
    with serving(tmp_path, s3, redis_server, workers=2) as web:
        yield web


@pytest.fixture
def visit(browser: Browser, web: Web) -> Iterator[Visit]:
    with visiting(browser, web.url) as visit:
        visit.open()
        yield visit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    path.write_bytes(os.urandom(SIZE))
    return path


def choose(visit: Visit, *paths: Path) -> None:
    with visit.page.expect_file_chooser() as chooser:
        visit.page.get_by_text("Choose files").click()
    chooser.value.set_files([str(path) for path in paths])


def growing(web: Web) -> int:
    """How many bytes of uploads in progress the service has."""
    return sum(path.stat().st_size for path in Path(web.env["SPOOL_DIR"]).glob("*.up"))


def some_are_sent(web: Web) -> None:
    wait_for(lambda: growing(web) > 4 * MIB, what="first bytes")


def check(visit: Visit, web: Web, path: Path) -> None:
    """The file is there once, with its bytes."""
    expect(visit.card(NAME).locator(".status")).to_have_text("Complete", timeout=40_000)
    [shown] = requests.get(f"{web.url}/files", timeout=20).json()["files"]
    assert (shown["name"], shown["size"]) == (NAME, SIZE)
    content = requests.get(f"{web.url}/files/{shown['id']}/content?proxy=1", timeout=30).content
    assert content == path.read_bytes()


class Offsets:
    """Where the requests of a page go on."""

    def __init__(self, visit: Visit) -> None:
        self.found: list[int] = []
        visit.page.on("request", self._note)

    def _note(self, request: Request) -> None:
        if request.method == "PATCH" and "/uploads/" in request.url:
            self.found.append(int(request.headers["upload-offset"]))


def test_a_large_file_can_be_paused(visit: Visit, web: Web, path: Path) -> None:
    offsets = Offsets(visit)
    throttle(visit, SLOW)
    choose(visit, path)
    some_are_sent(web)
    card = visit.card(NAME)
    card.get_by_role("button", name=f"Pause {NAME}").click()
    expect(card.locator(".status")).to_have_text("Paused")
    fine(visit)
    visit.page.wait_for_timeout(500)
    before = growing(web)
    visit.page.wait_for_timeout(1000)
    assert growing(web) == before < SIZE
    throttle(visit, 100 * MIB)
    card.get_by_role("button", name=f"Go on with {NAME}").click()
    check(visit, web, path)
    assert offsets.found[0] == 0
    assert offsets.found[1] == before


def test_after_a_reload_it_goes_on(visit: Visit, web: Web, path: Path) -> None:
    throttle(visit, SLOW)
    choose(visit, path)
    some_are_sent(web)
    visit.page.once("dialog", lambda dialog: dialog.accept())
    visit.open()
    expect(visit.page.get_by_text(f"{NAME} can go on where an earlier visit stopped")).to_be_visible()
    throttle(visit, 100 * MIB)
    offsets = Offsets(visit)
    choose(visit, path)
    check(visit, web, path)
    assert min(offsets.found) > 4 * MIB
    visit.open()
    expect(visit.page.get_by_text("can go on where")).to_be_hidden()


def test_after_a_lost_network_it_goes_on_by_itself(browser: Browser, web: Web, path: Path) -> None:
    proxy = Proxy(int(web.url.rpartition(":")[2]))
    with visiting(browser, f"http://127.0.0.1:{proxy.port}") as visit:
        visit.open()
        offsets = Offsets(visit)
        throttle(visit, SLOW)
        choose(visit, path)
        some_are_sent(web)
        proxy.refuse()
        expect(visit.card(NAME).locator(".detail")).to_contain_text("Going on in")
        proxy.recover()
        throttle(visit, 100 * MIB)
        check(visit, web, path)
        assert offsets.found[-1] > 4 * MIB
        visit.complaints = [text for text in visit.complaints if "ERR_" not in text]
    proxy.close()


def test_after_a_restart_of_the_service_it_goes_on_by_itself(visit: Visit, web: Web, path: Path) -> None:
    offsets = Offsets(visit)
    throttle(visit, SLOW)
    choose(visit, path)
    some_are_sent(web)
    web.kill()
    expect(visit.card(NAME).locator(".detail")).to_contain_text("Going on in")
    web.start()
    web.wait()
    throttle(visit, 100 * MIB)
    check(visit, web, path)
    assert offsets.found[-1] > 4 * MIB
    visit.complaints = [text for text in visit.complaints if not re.search("ERR_|Failed to load", text)]


def test_a_cancelled_one_leaves_nothing(visit: Visit, web: Web, path: Path) -> None:
    throttle(visit, SLOW)
    choose(visit, path)
    some_are_sent(web)
    throttle(visit, 100 * MIB)
    visit.card(NAME).get_by_role("button", name=f"Cancel {NAME}").click()
    wait_for(lambda: growing(web) == 0, what="ended upload")
    assert requests.get(f"{web.url}/files", timeout=20).json()["files"] == []


def test_the_total_of_several_files(visit: Visit, web: Web, path: Path) -> None:
    other = path.with_name("other.bin")
    other.write_bytes(os.urandom(SIZE))
    throttle(visit, SLOW)
    choose(visit, path, other)
    some_are_sent(web)
    total = visit.page.get_by_role("progressbar", name="All files of this visit")
    expect(total).to_be_visible()
    assert 0 < float(total.evaluate("bar => bar.value")) < 1
    throttle(visit, 100 * MIB)
    expect(visit.card("other.bin").locator(".status")).to_have_text("Complete", timeout=40_000)
    expect(visit.card(NAME).locator(".status")).to_have_text("Complete", timeout=40_000)
    expect(total).to_be_hidden()
    [digest] = {one["sha256"] for one in requests.get(f"{web.url}/files?name=Film", timeout=20).json()["files"]}
    assert digest in (None, hashlib.sha256(path.read_bytes()).hexdigest())
