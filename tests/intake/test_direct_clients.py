"""Direct uploads by an unchanged @uppy/aws-s3 in a browser, and by plain fetch from another origin."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from sqlalchemy import update

from access.keys import DIRECT, ApiKey
from core.database import transaction, utcnow
from tests.conftest import running_app
from tests.kit.browser import CHROMIUM, MISSING
from tests.kit.bucket import set_cors
from tests.kit.direct import Direct, crc64nvme
from tests.kit.programs import NPM, npm_clients
from tests.kit.stack import ROOT, RedisServer, S3Server, wait_for
from tests.kit.team_pages import team_server
from tests.kit.tokens import Ferry, running_ferry

NODE = shutil.which("node")
MIB = 1024 * 1024
NAME = "Bericht für 報告.bin"
pytestmark = pytest.mark.skipif(CHROMIUM is None or NPM is None, reason=MISSING)

PAGE = """<!doctype html><meta charset="utf-8"><title>Uppy</title><p role="status"></p>
<script src="/uppy.js"></script>
<script>
  const { Uppy, AwsS3, GoldenRetriever } = Uploads;
  const uppy = new Uppy({ id: "one" });
  window.start = (companionEndpoint, shouldUseMultipart) => {
    uppy.use(AwsS3, { companionEndpoint, shouldUseMultipart, limit: 2 });
    uppy.use(GoldenRetriever, { indexedDB: { maxFileSize: 1e9, maxTotalSize: 1e10 } });
  };
  window.uppy = uppy;
  window.add = (name, size, type) => {
    const bytes = new Uint8Array(size).map((_, place) => (place * 7) % 251);
    const data = new File([bytes], name, { type, lastModified: 1700000000000 });
    uppy.addFile({ name, type, data, source: "test" });
  };
  const tell = (text) => { document.querySelector("p").textContent = text; };
  uppy.on("restored", () => tell("restored"));
  uppy.on("upload-error", (file, error) => { window.failure = error.message; });
  uppy.on("complete", ({ successful, failed }) => {
    window.keys = successful.map((file) => file.response.body?.key ?? file.response.key ?? "");
    tell(`${successful.length} done, ${failed.length} failed`);
  });
</script>"""


def content_of(size: int) -> bytes:
    """What the page sends."""
    pattern = bytes(place * 7 % 251 for place in range(251))
    return (pattern * (size // 251 + 1))[:size]


@pytest.fixture(scope="module")
def ferry(
    s3: S3Server, redis_server: RedisServer, origin: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ferry]:
    settings = {"DIRECT": "true", "CORS_ORIGINS": origin, "S3_KEY_PREFIX": "uppy/"}
    folder = tmp_path_factory.mktemp("uppy")
    with running_ferry(folder, {**s3.settings, **redis_server.settings, **settings}, workers=2) as ferry:
        set_cors(ferry.web.env)
        yield ferry


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The packages from npm, unchanged, bundled for a browser."""
    folder = npm_clients("direct", tmp_path_factory.mktemp("direct-npm"))
    subprocess.run([str(NODE), "bundle.mjs", "uppy.js"], cwd=folder, check=True, timeout=60)
    return (folder / "uppy.js").read_text()


@pytest.fixture(scope="module")
def origin(script: str) -> Iterator[str]:
    """A server of its own for the page, as a team has it."""
    with team_server({"/": PAGE, "/uppy.js": script}) as origin:
        yield origin


@pytest.fixture
def page(browser: Browser, origin: str) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{origin}/")
    yield page
    context.close()


def endpoint(ferry: Ferry, credential: str | None = None) -> str:
    return f"{ferry.web.url}{ferry.post('/direct/tickets', credential).json()['companionEndpoint']}"


def send(page: Page, address: str, size: int, in_parts: bool, name: str = NAME) -> None:
    page.evaluate("([address, inParts]) => start(address, inParts)", [address, in_parts])
    page.evaluate("([name, size]) => add(name, size, 'application/octet-stream')", [name, size])
    page.evaluate("void uppy.upload().catch(() => {})")


def newest(ferry: Ferry, count: int = 1) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = ferry.get("/files").json()["files"]
    return files[:count]


def check(ferry: Ferry, file: dict[str, Any], size: int) -> None:
    assert (file["name"], file["size"], file["upload_status"]) == (NAME, size, "COMPLETE")
    assert Direct(ferry.web.url, ferry.key).content(file["id"]) == content_of(size)


@pytest.mark.parametrize(("size", "in_parts"), [(0, False), (5 * MIB + 17, False), (11 * MIB + 3, True)])
def test_uppy(page: Page, ferry: Ferry, size: int, in_parts: bool) -> None:
    before = len(ferry.get("/files").json()["files"])
    send(page, endpoint(ferry), size, in_parts)
    expect(page.get_by_role("status")).to_have_text("1 done, 0 failed", timeout=20_000)
    wait_for(lambda: len(ferry.get("/files").json()["files"]) > before, 20, "file, without a word from Uppy")
    check(ferry, newest(ferry)[0], size)


class Held:
    """Holds the third part back."""

    def __init__(self, page: Page) -> None:
        self.parts: list[str] = []
        self.is_over = False
        page.route("**/*partNumber=*", self)

    def __call__(self, route: Route) -> None:
        if route.request.method == "PUT":
            self.parts.append(route.request.url)
        if self.is_over or len(self.parts) < 3 or route.request.method != "PUT":
            route.continue_()

    def wait(self, page: Page) -> None:
        deadline = time.monotonic() + 20
        while len(self.parts) < 3:
            assert time.monotonic() < deadline
            page.wait_for_timeout(20)


def test_a_reload_in_the_middle(page: Page, ferry: Ferry) -> None:
    size, address, held = 26 * MIB, endpoint(ferry), Held(page)
    send(page, address, size, True)
    held.wait(page)
    page.wait_for_timeout(1000)  # the retriever saves what it knows now and then
    page.reload()
    held.is_over, held.parts = True, []
    page.evaluate("([address]) => start(address, true)", [address])
    expect(page.get_by_role("status")).to_have_text("restored", timeout=20_000)
    page.evaluate("uppy.emit('restore-confirmed')")
    expect(page.get_by_role("status")).to_have_text("1 done, 0 failed", timeout=20_000)
    assert 0 < len({url.partition("partNumber=")[2].partition("&")[0] for url in held.parts}) < 6
    check(ferry, newest(ferry)[0], size)


def test_pause(page: Page, ferry: Ferry) -> None:
    size, held = 26 * MIB, Held(page)
    send(page, endpoint(ferry), size, True)
    held.wait(page)
    page.evaluate("uppy.pauseAll()")
    held.is_over = True
    page.wait_for_timeout(300)
    page.evaluate("uppy.resumeAll()")
    expect(page.get_by_role("status")).to_have_text("1 done, 0 failed", timeout=20_000)
    check(ferry, newest(ferry)[0], size)


def unfinished(ferry: Ferry) -> int:
    with running_app(ferry.web.env) as app:
        text: str = app.test_cli_runner().invoke(args=["uploads", "list"]).output
    return int(text.rpartition("; ")[2].partition(" ")[0])


def test_cancel(page: Page, ferry: Ferry) -> None:
    wait_for(lambda: unfinished(ferry) == 0, what="end of others")
    held = Held(page)
    send(page, endpoint(ferry), 26 * MIB, True)
    held.wait(page)
    assert unfinished(ferry) == 1
    page.evaluate("uppy.cancelAll()")
    wait_for(lambda: unfinished(ferry) == 0, what="abort")


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("what", ["wrong", "expired"])
def test_wrong_tickets(page: Page, ferry: Ferry, what: str, in_parts: bool) -> None:
    address = f"{ferry.web.url}/direct/fm_none"
    if what == "expired":
        address = endpoint(ferry)
        with running_app(ferry.web.env) as app, app.app_context(), transaction() as connection:
            connection.execute(update(ApiKey).where(ApiKey.role == DIRECT).values(expires_at=utcnow()))
    send(page, address, 6 * MIB, in_parts)
    expect(page.get_by_role("status")).to_have_text("0 done, 1 failed", timeout=20_000)
    assert "UNAUTHORIZED" in page.evaluate("failure").upper()


def test_another_owners_ticket(page: Page, ferry: Ferry) -> None:
    """It ends up with the other's files, and cannot go on with an upload of the first."""
    other = ferry.key_of("bob")
    before = len(ferry.get("/files").json()["files"])
    send(page, endpoint(ferry, other), 11 * MIB, True)
    expect(page.get_by_role("status")).to_have_text("1 done, 0 failed", timeout=20_000)
    assert len(ferry.get("/files").json()["files"]) == before
    assert ferry.get("/files", other).json()["files"][0]["name"] == NAME


FETCH = """async ([url, key, type, digest]) => {
  const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };
  const content = new TextEncoder().encode("hello");
  const wanted = { name: "a.txt", size: content.length, content_type: type, crc64nvme: digest };
  const asked = await fetch(`${url}/direct`, { method: "POST", headers, body: JSON.stringify(wanted) });
  const begun = await asked.json();
  const sent = await fetch(begun.put.url, { method: "PUT", headers: begun.put.headers, body: content });
  const again = await fetch(begun.put.url, { method: "PUT", headers: begun.put.headers, body: content });
  const finished = await fetch(`${url}/direct/${begun.id}/finish`, { method: "POST", headers });
  return [sent.status, again.status, finished.status, finished.headers.get("Location"), await finished.json()];
}"""


def test_plain_fetch_from_another_origin(page: Page, ferry: Ferry) -> None:
    token = ferry.token(subject="42")
    found = page.evaluate(FETCH, [ferry.web.url, token, "text/plain", crc64nvme(b"hello")])
    assert found[:3] == [200, 412, 201]
    assert found[3] == f"/files/{found[4]['id']}"
    assert (found[4]["upload_status"], found[4]["size"], found[4]["subject"]) == ("COMPLETE", 5, "42")


def test_the_commands_of_the_document(ferry: Ferry, tmp_path: Path) -> None:
    [script] = re.findall(r"```sh no-test[^\n]*\n(.*?)```", (ROOT / "docs" / "direct.md").read_text(), re.DOTALL)
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7\nhello")
    bearer = f"-H 'Authorization: Bearer {ferry.key}'"
    script = script.replace('"http://localhost:5000', f'{bearer} "{ferry.web.url}')
    script = script.replace(" http://localhost:5000", f" {bearer} {ferry.web.url}")
    run = ["bash", "-euc", script]
    answer = subprocess.run(run, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert json.loads(answer.stdout)["upload_status"] == "COMPLETE"
