"""The page with a token in its address, and what it shows and changes beside a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.kit.browser import CHROMIUM, MISSING, Visit, visiting
from tests.kit.stack import RedisServer, wait_for
from tests.kit.tokens import Ferry, running_ferry
from tests.kit.zoo import PNG

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
COPY_TO_MEMORY = """() => {
  window.copied = "";
  navigator.clipboard.writeText = async (text) => { window.copied = text; };
}"""


@pytest.fixture(scope="module")
def ferry(s3: Any, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ferry]:
    folder = tmp_path_factory.mktemp("page-details")
    with running_ferry(folder, {**s3.settings, **redis_server.settings}) as found:
        yield found


@pytest.fixture
def visit(browser: Browser, ferry: Ferry) -> Iterator[Visit]:
    """A user's visit, with a token in the address."""
    with visiting(browser, ferry.web.url) as visit:
        token = ferry.token(subject="reader", grants=["upload", "read", "delete"], metadata={"album": "7"})
        visit.open(f"/#token={token}")
        visit.page.evaluate(COPY_TO_MEMORY)
        yield visit


def test_a_token_in_the_address_is_used_and_leaves_it(visit: Visit, ferry: Ferry) -> None:
    assert visit.page.url == f"{ferry.web.url}/"
    assert "token" not in visit.page.evaluate("JSON.stringify(history.state) + location.href + document.cookie")
    assert visit.page.evaluate("localStorage.length + sessionStorage.length") == 0
    visit.choose_mode("Normal")
    visit.send(("users.bin", b"x"))
    expect(visit.row("users.bin").locator(".status")).to_have_text("Complete")
    expect(visit.row("users.bin").locator(".metadata")).to_have_text("album: 7")
    assert ferry.get("/files?subject=reader&name=users.bin").json()["files"]
    assert "fmu_" not in ferry.web.text()


def details(visit: Visit, name: str) -> Any:
    visit.row(name).get_by_role("button", name="Details of").click()
    return visit.page.get_by_role("dialog", name="Details of")


def test_name_and_metadata_are_edited(visit: Visit, ferry: Ferry) -> None:
    visit.choose_mode("Normal")
    visit.send(("before.png", PNG))
    expect(visit.row("before.png").locator(".status")).to_have_text("Complete")
    dialog = details(visit, "before.png")
    assert Axe().run(visit.page).violations_count == 0
    dialog.get_by_label("Name", exact=True).fill("after.png")
    dialog.get_by_role("button", name="Add a name").click()
    dialog.get_by_label("Name of the metadata").last.fill("order")
    dialog.get_by_label("Value").last.fill("<b>17</b>")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_be_hidden()
    expect(visit.row("after.png").locator(".metadata")).to_have_text("album: 7 · order: <b>17</b>")
    [row] = ferry.get("/files?name=after.png").json()["files"]
    assert row["metadata"] == {"album": "7", "order": "<b>17</b>"}
    dialog = details(visit, "after.png")
    dialog.get_by_role("button", name="Remove this name").last.click()
    dialog.get_by_role("button", name="Save").click()
    expect(visit.row("after.png").locator(".metadata")).to_have_text("album: 7")


def test_what_the_token_fixes_is_told_as_refused(visit: Visit) -> None:
    visit.choose_mode("Normal")
    visit.send(("fixed.png", PNG))
    expect(visit.row("fixed.png").locator(".status")).to_have_text("Complete")
    dialog = details(visit, "fixed.png")
    dialog.get_by_label("Value").fill("8")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert").first).to_contain_text("album")
    visit.expect("403")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()


def test_links_are_made_and_refused_inline_for_what_may_run(visit: Visit) -> None:
    visit.choose_mode("Normal")
    for name, content in (("shown.png", PNG), ("runs.html", b"<html><script>1</script></html>")):
        visit.send((name, content))
        expect(visit.row(name).locator(".status")).to_have_text("Complete")
    dialog = details(visit, "shown.png")
    dialog.get_by_label("Show it in the browser").check()
    dialog.get_by_role("button", name="Copy link").click()
    address = wait_for(lambda: visit.page.evaluate("window.copied"), 20)
    got = requests.get(address, timeout=20)
    assert (got.content, got.headers["Content-Type"]) == (PNG, "image/png")
    assert got.headers["Content-Disposition"].startswith("inline")
    dialog.get_by_role("button", name="Cancel").click()
    dialog = details(visit, "runs.html")
    dialog.get_by_label("Show it in the browser").check()
    dialog.get_by_role("button", name="Copy link").click()
    expect(dialog.get_by_role("alert").last).to_contain_text("attachment")
    visit.expect("422")


def test_a_token_that_has_ended_lets_the_page_ask(browser: Browser, ferry: Ferry) -> None:
    with visiting(browser, ferry.web.url) as visit:
        visit.page.goto(f"{ferry.web.url}/#token=fmu_x.y.z")
        dialog = visit.page.get_by_role("dialog", name="API key required")
        expect(dialog.get_by_role("alert")).to_contain_text("no longer valid")
        dialog.get_by_label("Key").fill(ferry.token(subject="reader"))
        dialog.get_by_role("button", name="Use key").click()
        expect(dialog).to_be_hidden()
        visit.expect("401")


def test_the_viewer_of_the_api_lives_with_its_policy_and_makes_calls(browser: Browser, ferry: Ferry) -> None:
    row = ferry.upload().json()
    with visiting(browser, ferry.web.url) as visit:
        visit.page.goto(f"{ferry.web.url}/docs")
        visit.page.get_by_role("link", name="Try a call").click()
        visit.page.get_by_role("button", name="Authorize").click()
        visit.page.get_by_label("auth-bearer-value").fill(ferry.key)
        visit.page.get_by_role("button", name="Apply credentials").click()
        visit.page.get_by_role("button", name="Close").click()
        operation = visit.page.locator("#operations-Files-getFile")
        operation.get_by_role("button").first.click()
        operation.get_by_role("button", name="Try it out").click()
        operation.get_by_placeholder("file_id").fill(row["id"])
        operation.get_by_role("button", name="Execute").click()
        expect(operation.locator(".live-responses-table")).to_contain_text(row["key"])
