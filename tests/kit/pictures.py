"""The pictures of the page in docs/, taken of a real service with files in every state.

python -m tests.kit.pictures
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from playwright.sync_api import ViewportSize, expect, sync_playwright

from tests.kit.browser import CHROMIUM, MISSING, Visit, launch, throttle, visiting
from tests.kit.ports import free_port
from tests.kit.stack import ROOT, RedisServer, S3Server, Service, Web, Worker

DOCS = ROOT / "docs"
LINK_BYTES_PER_SECOND = 4_000_000  # to S3, so that there is something to wait for
MB = 1_000_000
DESK: ViewportSize = {"width": 1180, "height": 1560}
PHONE: ViewportSize = {"width": 390, "height": 1500}
DELIVERED = (
    ("Normal", "invoice-0417.pdf", 2.1),
    ("Normal", "floor plan, second draft.png", 3.4),
    ("Async", "annual-report-2026.pdf", 2.6),
    ("Async", "measurements.csv", 1.2),
    ("Celery", "Übersicht Größen.xlsx", 0.8),
    ("Celery", "team-photo.jpg", 3.2),
)
PATIENCE_MS = 60_000


@contextmanager
def service(folder: Path) -> Iterator[tuple[Web, Service]]:
    """A whole service, and its slow link to S3."""
    folder.mkdir(exist_ok=True)
    s3, redis = S3Server(folder), RedisServer(folder)
    port = free_port()
    rate = str(LINK_BYTES_PER_SECOND)
    link = Service(
        "link", [sys.executable, "-m", "bench.link", str(port), str(s3.port), rate], {}, folder / "link.log"
    )
    settings = {
        **s3.settings,
        **redis.settings,
        "AUTH": "open",
        "UPLOAD_THREADS": "1",
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    web, worker = Web(folder, settings), Worker(folder, settings)
    with ExitStack() as stack:
        for part in (s3, redis, link, web, worker):
            stack.callback(part.kill)
            part.start()
        for waited in (s3, redis, web, worker):
            waited.wait()
        yield web, link


def deliver(visit: Visit) -> None:
    """Bring some files to S3 by each mode."""
    for mode, name, megabytes in DELIVERED:
        visit.choose_mode(mode)
        visit.drop([(name, round(megabytes * MB))])
        expect(visit.card(name).locator(".status")).to_have_text("Complete", timeout=PATIENCE_MS)


def set_out(visit: Visit) -> None:
    """Leave some files on their way."""
    visit.choose_mode("Async")
    for name, megabytes, status in (
        ("backup-2026-11-24.tar.gz", 90, "Processing 1"),
        ("photos-october.zip", 20, "Pending"),
    ):
        visit.drop([(name, megabytes * MB)])
        expect(visit.card(name).locator(".status")).to_contain_text(status, timeout=PATIENCE_MS)
    throttle(visit, 2 * MB)
    visit.choose_mode("Celery")
    visit.drop([("interview at the harbour, uncut.mp4", 30 * MB)])
    sending = visit.card("interview at the harbour, uncut.mp4").locator(".detail")
    expect(sending).to_have_text(re.compile(r"^[4-9][\d.]*\sMB of|^1\d\sMB of"), timeout=PATIENCE_MS)


def fail(visit: Visit) -> None:
    """Let files fail, and wait, because S3 is away; and one that could never be taken."""
    visit.choose_mode("Async")
    visit.drop([("board-minutes.docx", 200_000)])
    expect(visit.card("board-minutes.docx")).to_contain_text("tried again", timeout=PATIENCE_MS)
    visit.drop([("...", 1100)])
    expect(visit.card("...")).to_contain_text("no name", timeout=PATIENCE_MS)
    visit.choose_mode("Normal")
    visit.drop([("contract-signed.pdf", 900_000)])
    expect(visit.card("contract-signed.pdf").locator(".status")).to_have_text("Error", timeout=PATIENCE_MS)
    expect(visit.row("contract-signed.pdf").locator(".status")).to_have_text("Error", timeout=PATIENCE_MS)


def main() -> None:
    """Take them all."""
    if CHROMIUM is None:
        sys.exit(MISSING)
    with tempfile.TemporaryDirectory(prefix="ferryman-pictures-") as name, sync_playwright() as playwright:
        browser = launch(playwright)
        with service(Path(name)) as (web, link), visiting(browser, web.url, viewport=DESK) as visit:
            visit.open()
            deliver(visit)
            set_out(visit)
            visit.page.screenshot(path=DOCS / "page-light.png")
            visit.page.emulate_media(color_scheme="dark")
            visit.page.screenshot(path=DOCS / "page-dark.png")
            visit.page.emulate_media(color_scheme="light")
            visit.page.set_viewport_size(PHONE)
            visit.page.screenshot(path=DOCS / "page-phone.png")
        with service(Path(name) / "away") as (web, link), visiting(browser, web.url, viewport=DESK) as visit:
            visit.open()
            deliver(visit)
            visit.page.get_by_role("button", name="Clear finished").click()
            link.kill()
            fail(visit)
            visit.page.screenshot(path=DOCS / "page-error.png")
            visit.expect("502", "400")
        browser.close()


if __name__ == "__main__":
    main()
