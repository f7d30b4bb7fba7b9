"""The page with presets, in a real browser: thumbnails, a table's report, the preview before a table is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.kit import made as kit
from tests.kit.browser import CHROMIUM, MISSING, Visit, visiting
from tests.kit.lanes import FILES
from tests.kit.made import PHOTO
from tests.kit.stack import RedisServer, S3Server, Web
from tests.web.test_page import fine

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)

TABLE = "id,zip\n" + "".join(f"{number},{number:05}\n" for number in range(30)) + "31\n"


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, server_dir: Path) -> Iterator[Web]:
    folder = server_dir / "page-derivatives"
    folder.mkdir()
    env = {
        **s3.settings,
        **redis_server.settings,
        **kit.presets(folder),
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
        "AUTH": "open",
    }
    web = Web(folder, env)
    web.start()
    web.wait()
    yield web
    web.stop()


@pytest.fixture
def visit(browser: Browser, web: Web) -> Iterator[Visit]:
    with visiting(browser, web.url) as visit:
        visit.open()
        yield visit


def test_a_photo_shows_its_thumbnails(visit: Visit) -> None:
    visit.page.get_by_label("Make of it").select_option("thumb")
    visit.send(("photo.jpg", PHOTO.read_bytes()))
    thumbnail = visit.row("photo.jpg").get_by_role("img", name="thumb, 128 \u00d7 96")
    expect(thumbnail).to_be_visible(timeout=20_000)
    expect(thumbnail).to_have_js_property("naturalWidth", 128)
    fine(visit)


def test_a_table_is_previewed_and_its_report_says_what_and_why(visit: Visit) -> None:
    visit.page.get_by_label("Make of it").select_option("orders")
    visit.send(("orders.csv", TABLE.encode()))
    preview = visit.page.get_by_role("dialog", name="First rows of orders.csv")
    expect(preview.get_by_role("columnheader")).to_have_text(["id", "zip"])
    fine(visit)
    preview.get_by_label("Delimiter").select_option("Semicolon")
    expect(preview.get_by_role("columnheader")).to_have_text(["id,zip"])
    preview.get_by_label("Delimiter").select_option("Comma")
    preview.get_by_role("button", name="Send").click()
    row = visit.row("orders.csv")
    expect(row.get_by_text("orders: 30 rows, 2 columns, 1 rejected")).to_be_visible(timeout=20_000)
    row.get_by_role("button", name="Report of orders of orders.csv").click()
    report = visit.page.get_by_role("dialog", name="Table of orders.csv")
    expect(report.get_by_role("row", name="zip text leading zeros (row 1) 0")).to_be_visible()
    expect(report.get_by_text("60 cells read back, all equal")).to_be_visible()
    expect(report.get_by_role("link", name="Rejected rows")).to_be_visible()
    fine(visit)
    with visit.page.expect_download() as download:
        report.get_by_role("link", name="Rejected rows").click()
    assert download.value.path().read_text().startswith("line,reason,raw\n32,1 cells instead of 2,31")


def test_what_is_cancelled_in_the_preview_is_not_sent(visit: Visit) -> None:
    visit.page.get_by_label("Make of it").select_option("orders")
    visit.send(("cancelled.csv", TABLE.encode()))
    preview = visit.page.get_by_role("dialog", name="First rows of cancelled.csv")
    preview.get_by_role("button", name="Cancel").click()
    expect(preview).to_be_hidden()
    expect(visit.page.locator("#uploads").get_by_text("cancelled.csv")).to_have_count(0)


def test_a_workbook_needs_no_preview_and_names_its_sheets(visit: Visit) -> None:
    visit.page.get_by_label("Make of it").select_option("orders")
    visit.send(("sheets.xlsx", (FILES / "calamine--any_sheets.xlsx").read_bytes()))
    row = visit.row("sheets.xlsx")
    row.get_by_role("button", name="Report of orders").click(timeout=20_000)
    report = visit.page.get_by_role("dialog", name="Table of sheets.xlsx")
    expect(report.get_by_text("Hidden (left out)")).to_be_visible()


def test_why_nothing_could_be_made_is_told(visit: Visit) -> None:
    visit.page.get_by_label("Make of it").select_option("thumb")
    visit.send(("cut.jpg", (FILES / "sharp--truncated.jpg").read_bytes()))
    told = visit.row("cut.jpg").get_by_text("thumb: failed: The image is damaged or cut off.")
    expect(told).to_be_visible(timeout=20_000)
