"""A real Chromium for the tests of the page."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Playwright

PLAYWRIGHT = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
# Debian's, or the newest that `playwright install chromium` has left.
FOUND = map(str, PLAYWRIGHT.glob("chromium-*/chrome-linux*/chrome"))
CHROMIUM = shutil.which("chromium") or max(FOUND, default=None)
MISSING = "CHROMIUM IS NOT INSTALLED, so the page is not tested: apt-get install chromium"
QUIET = [
    "--no-sandbox",  # it refuses to run as root with one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP plain.test 127.0.0.1",
]
DROP = """([files, selector]) => {
  const dataTransfer = new DataTransfer();
  for (const [name, size] of files) dataTransfer.items.add(new File([new Uint8Array(size)], name));
  for (const type of ["dragenter", "dragover", "drop"]) {
    const event = new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer });
    document.querySelector(selector).dispatchEvent(event);
  }
}"""


def not_secure(url: str) -> str:
    """The same service where a browser allows a page less: neither https nor this machine's own name."""
    return url.replace("127.0.0.1", "plain.test")


def launch(playwright: Playwright) -> Browser:
    """Start Chromium."""
    return playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)


class Visit:
    """The page in a browser, as its reader uses it.

    Args:
        page: an empty tab.
        url: the service.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _heard(self, message: ConsoleMessage) -> None:
        address = message.location["url"]
        is_habit = address.endswith("/favicon.ico")  # a browser looks for it beside any answer that is no page
        if message.type in ("error", "warning") and not is_habit:
            self.complaints.append(f"{message.text} ({address})")

    def open(self, path: str = "/") -> None:
        """Go to the page, and wait until it has read the recent files."""
        self.page.goto(f"{self.url}{path}")
        self.page.locator("#recent-note", has_not_text="Loading").wait_for(state="attached")

    def choose_mode(self, mode: str) -> None:
        self.page.get_by_role("radio", name=mode).check()

    def send(self, *files: tuple[str, bytes]) -> None:
        """Choose files in the file chooser."""
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_text("Choose files").click()
        payloads: Any = [{"name": name, "mimeType": "", "buffer": content} for name, content in files]
        chooser.value.set_files(payloads)

    def drop(self, files: Iterable[tuple[str, int]], on: str = "#drop") -> None:
        """Drop files of these sizes on an element."""
        self.page.evaluate(DROP, [list(files), on])

    def drop_from_disk(self, *paths: Path) -> None:
        """Drop files and folders of the disk on the page, as a file manager does."""
        session = self.page.context.new_cdp_session(self.page)
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", {"type": kind, "x": 100, "y": 100, "data": data})

    def enter_key(self, key: str) -> None:
        """Give the key that the page asks for."""
        dialog = self.page.get_by_role("dialog", name="API key required")
        dialog.get_by_label("Key").fill(key)
        dialog.get_by_role("button", name="Use key").click()
        dialog.wait_for(state="hidden")

    def card(self, name: str) -> Locator:
        """A file of this visit."""
        return self.page.locator("#uploads > li").filter(has=self.page.get_by_text(name, exact=True))

    def row(self, name: str) -> Locator:
        """A file in the table of recent files."""
        return self.page.locator("#files tbody tr").filter(has=self.page.get_by_text(name, exact=True))

    def expect(self, *pattern: str) -> None:
        """Forget the complaints of the console that a test is about."""
        for wanted in pattern:
            found = [text for text in self.complaints if re.search(wanted, text)]
            assert found, f"the console did not say {wanted}, but {self.complaints}"
            self.complaints = [text for text in self.complaints if text not in found]


def throttle(visit: Visit, bytes_per_second: int) -> None:
    """Let the browser's bytes go up slowly."""
    session = visit.page.context.new_cdp_session(visit.page)
    conditions = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_per_second}
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", conditions)


@contextmanager
def visiting(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """Open a tab, and see at the end that its console has nothing to complain of, such as a broken policy."""
    context = browser.new_context(locale="en-GB", timezone_id="UTC", **options)
    context.set_default_timeout(20_000)
    try:
        visit = Visit(context.new_page(), url)
        yield visit
        assert not visit.complaints, visit.complaints
    finally:
        context.close()
