"""The page in a real browser, on a real service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from flask.testing import FlaskClient
from playwright.sync_api import Browser, Dialog, Locator, Page, Request, expect

from tests.kit.browser import CHROMIUM, MISSING, Visit, not_secure, throttle, visiting
from tests.kit.proxy import Link, Proxy, nothing
from tests.kit.stack import ROOT, RedisServer, S3Server, Web, Worker, wait_for

MODES = {"Normal": "normal", "Async": "async", "Celery": "celery"}
SLOW = 300_000
MANY = 120  # a browser reads a folder by a hundred entries
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
UPLOAD = re.compile(r"_upload$")
HOSTILE = (
    "<img src=x onerror=alert(1)>.txt",
    "<b>bold</b>.txt",
    "${7*7}{{7*7}}.txt",
    "\u202egpj.txt",
    "x" * 200 + ".txt",
)
HEALED_MS = 30_000
IS_FOCUS_SEEN = """() => {
  const focused = document.activeElement;
  const seen = focused.id === "choose" ? focused.nextElementSibling : focused.closest(".modes label") ?? focused;
  return getComputedStyle(seen).outlineStyle !== "none";
}"""

in_browser = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)


@pytest.fixture(scope="module")
def settings(
    s3: S3Server, s3_link: Proxy, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("page")
    return {
        **s3.settings,
        **redis_server.settings,
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{s3_link.port}",
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
        "AUTH": "open",
        "TRUSTED_HOSTS": "plain.test",
    }


@pytest.fixture(scope="module")
def web(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A web server and a worker; everyone may send."""
    folder = tmp_path_factory.mktemp("page-web")
    server, worker = Web(folder, settings), Worker(folder, settings)
    try:
        server.start()
        worker.start()
        server.wait()
        worker.wait()
        yield server
    finally:
        codes = (server.stop(), worker.stop())
    assert codes == (0, 0)


@pytest.fixture
def visit(browser: Browser, web: Web) -> Iterator[Visit]:
    with visiting(browser, web.url) as visit:
        visit.open()
        yield visit


@pytest.fixture
def plain_visit(browser: Browser, web: Web) -> Iterator[Visit]:
    """A visit without https: such a page may not copy."""
    with visiting(browser, not_secure(web.url)) as visit:
        visit.open()
        yield visit


@pytest.fixture
def files(web: Web) -> None:
    """No file of an earlier test is left."""
    for row in requests.get(f"{web.url}/files?limit=200", timeout=20).json()["files"]:
        requests.delete(f"{web.url}/files/{row['id']}", timeout=20)


def status_of(element: Locator) -> Locator:
    return element.locator(".status")


def named(web: Web, name: str) -> list[dict[str, Any]]:
    """The Files with this name."""
    found: list[dict[str, Any]] = requests.get(f"{web.url}/files", params={"name": name}, timeout=20).json()[
        "files"
    ]
    return found


def test_a_browser_gets_the_page_and_others_json(client: FlaskClient) -> None:
    for accept in ("*/*", "application/json", "text/html;q=0.5, application/json"):
        assert client.get("/", headers={"Accept": accept}).is_json
    page = client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.mimetype == "text/html"
    assert "Accept" in page.headers["Vary"]
    policy = page.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    for rule in ("default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"):
        assert rule in policy


@pytest.mark.parametrize("mode", MODES.values())
def test_a_look_at_an_upload_address_helps(client: FlaskClient, mode: str) -> None:
    help_text: Any = client.get(f"/{mode}_upload").json
    assert f"curl -F file=@report.pdf http://localhost/{mode}_upload" in help_text["example"]
    page = client.get(f"/{mode}_upload", headers={"Accept": "text/html"})
    assert re.findall(r'value="(\w+)" checked', page.text) == [mode]
    assert f'action="/{mode}_upload"' in page.text


@in_browser
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", ["choose", "drop"])
def test_a_file_goes_to_s3(visit: Visit, web: Web, how: str, mode: str) -> None:
    name = f"{how}-{mode}.bin"
    visit.choose_mode(mode)
    if how == "choose":
        visit.send((name, bytes(200_000)))
    else:
        visit.drop([(name, 200_000)], on="h1")
    expect(status_of(visit.card(name))).to_have_text("Complete")
    expect(status_of(visit.row(name))).to_have_text("Complete")
    [row] = named(web, name)
    assert (row["mode"], row["size"], row["upload_status"]) == (MODES[mode], 200_000, "COMPLETE")
    times = visit.page.locator(f"#times [data-mode={MODES[mode]}]")
    expect(times.locator("td b")).to_have_text([re.compile(r"^\d+\sms$|^\d+\.\d\ss$")] * 2)
    assert float(times.locator("rect.total").get_attribute("width")[:-1]) == 100  # type: ignore[index]


@in_browser
def test_ten_files_go_three_at_a_time(visit: Visit) -> None:
    running: set[Request] = set()
    most = 0

    def begun(request: Request) -> None:
        nonlocal most
        if UPLOAD.search(request.url):
            running.add(request)
            most = max(most, len(running))

    visit.page.on("request", begun)
    visit.page.on("requestfinished", lambda request: running.discard(request))
    names = [f"ten-{number}.bin" for number in range(10)]
    visit.drop([(name, 300_000) for name in names])
    for name in names:
        expect(status_of(visit.card(name))).to_have_text("Complete")
        expect(status_of(visit.row(name))).to_have_text("Complete")
    assert most == 3
    expect(visit.page.get_by_text("10 of 10 in S3")).to_be_visible()
    visit.page.get_by_role("button", name="Clear finished").click()
    expect(visit.page.locator("#uploads > li")).to_have_count(0)


@in_browser
def test_a_dropped_folder_is_sent_with_all_folders_in_it(visit: Visit, web: Web, tmp_path: Path) -> None:
    folder, beside = tmp_path / "folder", tmp_path / "beside.txt"
    (folder / "inner" / "innermost").mkdir(parents=True)
    (folder / "inner" / "empty").mkdir()
    names = {"outer.txt", "beside.txt", "innermost.txt", *(f"inner-{number:03}.txt" for number in range(MANY))}
    for path in (beside, folder / "outer.txt", folder / "inner" / "innermost" / "innermost.txt"):
        path.write_text(path.name)
    for number in range(MANY):
        (folder / "inner" / f"inner-{number:03}.txt").write_text(str(number))
    visit.drop_from_disk(folder, beside)
    expect(visit.page.locator("#uploads bdi")).to_have_count(len(names))
    assert set(visit.page.locator("#uploads bdi").all_text_contents()) == names
    expect(visit.page.get_by_text(f"{len(names)} of {len(names)} in S3")).to_be_visible(timeout=HEALED_MS)
    [innermost] = named(web, "innermost")
    content = requests.get(f"{web.url}/files/{innermost['id']}/content", timeout=20).content
    assert content == b"innermost.txt"


@in_browser
def test_a_folder_without_files_is_told(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    visit.drop_from_disk(tmp_path)
    expect(visit.page.locator("#drop-note")).to_have_text("There is no file in this folder.")
    visit.drop([("after.txt", 1)])
    expect(visit.page.locator("#drop-note")).to_be_empty()
    expect(status_of(visit.card("after.txt"))).to_have_text("Complete")


@in_browser
def test_the_bytes_are_seen_going_up_and_can_be_taken_back(visit: Visit, web: Web) -> None:
    throttle(visit, SLOW)
    visit.send(("slow.bin", bytes(3_000_000)))
    card = visit.card("slow.bin")
    expect(card.locator(".detail")).to_have_text(re.compile(r"\d+\skB of 3\.0\sMB"))
    wait_for(lambda: 0.02 < float(card.locator("progress").get_attribute("value") or 0) < 1)
    card.get_by_role("button", name="Cancel slow.bin").click()
    expect(visit.card("slow.bin")).to_have_count(0)
    assert named(web, "slow.bin") == []


@in_browser
def test_a_reload_asks_first_and_goes_on_with_what_was_accepted(visit: Visit) -> None:
    visit.choose_mode("Celery")
    visit.send(("accepted.bin", bytes(10)))
    expect(status_of(visit.card("accepted.bin"))).to_have_text("Complete")
    throttle(visit, SLOW)
    visit.send(("unsent.bin", bytes(5_000_000)))
    expect(status_of(visit.card("unsent.bin"))).to_have_text("Sending")
    asked: list[str] = []

    def agree(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.accept()

    visit.page.on("dialog", agree)
    visit.page.reload()
    expect(status_of(visit.row("accepted.bin"))).to_have_text("Complete")
    expect(visit.row("unsent.bin")).to_have_count(0)
    assert asked == ["beforeunload"]


@in_browser
def test_a_cut_connection_makes_no_second_file(browser: Browser, web: Web) -> None:
    proxy = Proxy(int(web.url.rpartition(":")[2]))
    cuts: list[bytes] = []

    def cut(link: Link, data: bytes) -> bool:
        if link.request.startswith(b"POST"):
            cuts.append(data)
            return True
        return False

    proxy.on_response = cut
    try:
        with visiting(browser, f"http://127.0.0.1:{proxy.port}") as visit:
            visit.open()
            visit.send(("cut.bin", bytes(1000)))
            card = visit.card("cut.bin")
            expect(status_of(card)).to_have_text("Not sent")
            assert b"202" in cuts[0]  # the file was accepted, and the page could not know
            proxy.on_response = nothing
            card.get_by_role("button", name="Try again").click()
            expect(status_of(card)).to_have_text("Complete")
            visit.expect("ERR_EMPTY_RESPONSE")
    finally:
        proxy.close()
    assert len(named(web, "cut.bin")) == 1


@in_browser
def test_an_outage_of_s3_is_told_and_heals(visit: Visit, s3_link: Proxy) -> None:
    s3_link.refuse()
    visit.choose_mode("Async")
    visit.send(("patient.bin", bytes(1000)))
    visit.choose_mode("Normal")
    visit.send(("impatient.bin", bytes(1000)))
    patient, impatient = visit.card("patient.bin"), visit.card("impatient.bin")
    expect(patient.locator(".detail")).to_contain_text("S3 does not answer. It will be tried again.")
    expect(status_of(impatient)).to_have_text("Error")
    expect(impatient.locator(".detail")).to_have_text("S3 does not answer.")
    expect(visit.row("impatient.bin")).to_contain_text("S3 does not answer.")
    visit.expect("502")
    s3_link.recover()
    impatient.get_by_role("button", name="Try again").click()
    expect(status_of(impatient)).to_have_text("Complete", timeout=HEALED_MS)
    expect(status_of(patient)).to_have_text("Complete", timeout=HEALED_MS)
    expect(status_of(visit.row("patient.bin"))).to_have_text("Complete")


@in_browser
def test_a_refusal_is_told_in_the_services_words(visit: Visit) -> None:
    visit.send(("...", b"x"))
    expect(visit.card("...")).to_contain_text("The file has no name.")
    visit.expect("400")


@in_browser
def test_a_hostile_name_is_only_text(visit: Visit) -> None:
    visit.send(*((name, b"x") for name in HOSTILE))
    for name in HOSTILE:
        for place in (visit.card(name), visit.row(name)):
            expect(status_of(place)).to_have_text("Complete")
            assert place.locator("bdi").text_content() == name
            assert place.locator("img, b").count() == 0
        visit.row(name).get_by_role("button", name="Delete").click()
        expect(visit.page.locator("#ask-delete bdi")).to_have_text(name)
        visit.page.get_by_role("button", name="Keep it").click()


@in_browser
def test_the_recent_files_can_be_filtered_continued_and_deleted(visit: Visit, web: Web, files: None) -> None:
    for number in range(25):
        web.upload("async" if number else "celery", f"many-{number:02}.txt", b"x")
    rows = visit.page.locator("#files tbody tr")
    visit.page.reload()
    expect(rows).to_have_count(20)
    expect(rows.first).to_contain_text("many-24.txt")
    visit.page.get_by_role("button", name="Show more").click()
    expect(rows).to_have_count(25)
    expect(visit.page.get_by_role("button", name="Show more")).to_be_hidden()
    visit.page.get_by_role("combobox", name="Mode").select_option("celery")
    expect(rows).to_have_count(1)
    visit.page.get_by_role("combobox", name="Mode").select_option("")
    visit.page.get_by_role("searchbox", name="Name").fill("MANY-1")
    expect(rows).to_have_count(10)
    visit.row("many-12.txt").get_by_role("button", name="Delete many-12.txt").click()
    visit.page.get_by_role("button", name="Keep it").click()
    expect(rows).to_have_count(10)
    visit.row("many-12.txt").get_by_role("button", name="Delete many-12.txt").click()
    visit.page.get_by_role("button", name="Delete", exact=True).click()
    expect(rows).to_have_count(9)
    expect(visit.row("many-11.txt").get_by_role("button", name="Delete")).to_be_focused()
    assert named(web, "many-12") == []
    visit.page.get_by_role("searchbox", name="Name").fill("nothing like this")
    expect(visit.page.get_by_text("No file matches.")).to_be_visible()


@in_browser
def test_what_others_do_is_seen_live(visit: Visit, web: Web) -> None:
    expect(visit.page.get_by_text("Live", exact=True)).to_be_visible()
    answer = web.upload("async", "from-elsewhere.txt", b"x")
    expect(status_of(visit.row("from-elsewhere.txt"))).to_have_text("Complete")
    web.file(answer.json()["id"])


@in_browser
def test_a_file_is_downloaded_and_its_link_copied(visit: Visit, web: Web) -> None:
    content = os.urandom(5000)
    visit.send(("back.bin", content))
    expect(status_of(visit.row("back.bin"))).to_have_text("Complete")
    for place in (visit.card("back.bin"), visit.row("back.bin")):
        with visit.page.expect_download() as download:
            place.get_by_role("link", name="Download back.bin").click()
        assert download.value.path().read_bytes() == content
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.row("back.bin").get_by_role("button", name="Copy the link of back.bin").click()
    wait_for(lambda: visit.page.evaluate("navigator.clipboard.readText()") == named(web, "back.bin")[0]["url"])


@in_browser
def test_it_works_by_keyboard_alone(visit: Visit, files: None) -> None:
    page, press = visit.page, visit.page.keyboard.press
    page.on("filechooser", lambda chooser: None)  # so that the browser's own chooser is off before a key opens it
    page.reload()
    press("Tab")
    expect(page.get_by_role("link", name="API")).to_be_focused()
    press("Tab")
    press("ArrowRight")
    expect(page.get_by_role("radio", name="Celery")).to_be_checked()
    press("Tab")
    expect(page.locator("#choose")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        press("Enter")
    chooser.value.set_files({"name": "keys.txt", "mimeType": "", "buffer": b"x"})
    expect(status_of(visit.row("keys.txt"))).to_have_text("Complete")
    expect(page.get_by_role("status")).to_contain_text("keys.txt is in S3.")
    delete = visit.row("keys.txt").get_by_role("button", name="Delete")
    for _ in range(20):
        press("Tab")
        assert page.evaluate(IS_FOCUS_SEEN)
        if delete.evaluate("(button) => button === document.activeElement"):
            break
    press("Enter")
    expect(page.get_by_role("button", name="Keep it")).to_be_focused()
    press("Tab")
    press("Enter")
    expect(visit.row("keys.txt")).to_have_count(0)
    expect(page.get_by_role("heading", name="Recent files")).to_be_focused()


@in_browser
def test_what_failed_is_tried_again_found_and_shared_by_keyboard_alone(
    plain_visit: Visit, s3_link: Proxy, files: None
) -> None:
    visit = plain_visit
    page, press = visit.page, visit.page.keyboard.press
    fail(visit, s3_link, "keys-1.bin", "keys-2.bin")
    first, second = visit.card("keys-1.bin"), visit.row("keys-2.bin")
    tab_to(page, first.get_by_role("button", name="Try again"))
    press("Enter")
    expect(first).to_be_focused()
    expect(status_of(first)).to_have_text("Complete")
    tab_to(page, first.get_by_role("button", name="Copy the link"))
    press("Enter")
    shown = page.get_by_role("dialog", name="Copy this link").get_by_role("textbox")
    expect(shown).to_be_focused()
    expect(shown).to_have_value(re.compile("keys-1"))
    assert page.evaluate("getSelection().toString()") == shown.input_value()
    press("Escape")
    expect(first.get_by_role("button", name="Copy the link")).to_be_focused()
    tab_to(page, second.get_by_role("button", name="Try again"))
    press("Space")
    expect(status_of(second)).to_have_text("Complete")
    expect(second.get_by_role("button", name="Delete")).to_be_focused()
    tab_to(page, page.get_by_role("searchbox", name="Name"), "Shift+Tab")
    page.keyboard.type("keys-2")
    expect(visit.row("keys-1.bin")).to_have_count(0)
    tab_to(page, page.get_by_role("combobox", name="Status"))
    page.keyboard.type("Err")
    expect(page.get_by_text("No file matches.")).to_be_visible()
    tab_to(page, page.get_by_role("button", name="Clear finished"), "Shift+Tab")
    press("Enter")
    expect(page.get_by_role("heading", name="Upload")).to_be_focused()


@in_browser
def test_the_focus_is_not_lost_with_what_is_taken_back(visit: Visit) -> None:
    visit.send(("...", b"x"), ("....", b"x"))
    for name, next_one in (
        ("...", visit.card("....")),
        ("....", visit.page.get_by_role("heading", name="Upload")),
    ):
        expect(status_of(visit.card(name))).to_have_text("Not sent")
        tab_to(visit.page, visit.card(name).get_by_role("button", name="Cancel"))
        visit.page.keyboard.press("Enter")
        expect(visit.card(name)).to_have_count(0)
        expect(next_one).to_be_focused()
    visit.expect("400")


def tab_to(page: Page, wanted: Locator, key: str = "Tab") -> None:
    """Go on by keyboard until it has the focus, which is seen all the way."""
    for _ in range(30):
        page.keyboard.press(key)
        assert page.evaluate(IS_FOCUS_SEEN)
        if wanted.evaluate("(element) => element === document.activeElement"):
            return
    pytest.fail(f"{wanted} cannot be reached")


def fail(visit: Visit, s3_link: Proxy, *names: str) -> None:
    """Let files end in ERROR."""
    s3_link.refuse()
    try:
        visit.choose_mode("Normal")
        visit.send(*((name, b"x") for name in names))
        for name in names:
            expect(status_of(visit.card(name))).to_have_text("Error")
            expect(status_of(visit.row(name))).to_have_text("Error")
    finally:
        s3_link.recover()
    visit.expect("502")


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["desk", "phone"])
def test_anyone_can_read_it_in_every_state(
    browser: Browser, web: Web, s3_link: Proxy, files: None, device: str, scheme: str
) -> None:
    options = PHONE if device == "phone" else {}
    with visiting(browser, not_secure(web.url), color_scheme=scheme, reduced_motion="reduce", **options) as visit:
        visit.open()
        expect(visit.page.get_by_text("Nothing here yet.")).to_be_visible()
        fine(visit)
        throttle(visit, SLOW)
        visit.send(("slow.bin", bytes(3_000_000)))
        expect(visit.card("slow.bin").locator(".detail")).to_have_text(re.compile(r"of 3\.0\sMB"))
        fine(visit)
        visit.card("slow.bin").get_by_role("button", name="Cancel").click()
        throttle(visit, -1)
        fail(visit, s3_link, "failed.bin")
        visit.send(("...", b"x"))
        expect(status_of(visit.card("..."))).to_have_text("Not sent")
        fine(visit)
        name = "a-file-with-a-very-long-name-" * 5 + ".txt"
        visit.send((name, b"x"))
        expect(status_of(visit.row(name))).to_have_text("Complete")
        fine(visit)
        visit.row(name).get_by_role("button", name="Delete").click()
        fine(visit)
        visit.page.get_by_role("button", name="Keep it").click()
        visit.row(name).get_by_role("button", name="Copy the link").click()
        expect(visit.page.get_by_role("dialog", name="Copy this link")).to_be_visible()
        fine(visit)
        visit.expect("400")


def fine(visit: Visit) -> None:
    """The page breaks no rule of axe-core, and does not scroll sideways."""
    found = Axe().run(visit.page)
    assert found.violations_count == 0, found.generate_report()
    width = visit.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width == 0


@in_browser
def test_without_javascript_it_is_a_plain_form(browser: Browser, web: Web) -> None:
    with visiting(browser, web.url, java_script_enabled=False) as visit:
        visit.page.goto(f"{web.url}/normal_upload")
        visit.page.set_input_files("#choose", {"name": "plain.txt", "mimeType": "text/plain", "buffer": b"x"})
        visit.page.get_by_role("button", name="Upload by normal mode").click()
        visit.page.wait_for_url("**/normal_upload")
        expect(visit.page.locator("body")).to_contain_text('"upload_status":"COMPLETE"')


@pytest.fixture(scope="module")
def guarded(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    server = Web(tmp_path_factory.mktemp("page-guarded"), {**settings, "AUTH": "required"})
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def key(guarded: Web) -> str:
    command = [sys.executable, "-m", "flask", "--app", "app", "keys", "create", "reader"]
    made = subprocess.run(command, env=guarded.env, cwd=ROOT, capture_output=True, text=True, check=True)
    found = re.search(r"fm_[\w-]+", made.stdout)
    assert found, made.stdout
    return found.group()


@in_browser
def test_a_key_is_asked_for_and_kept_in_memory_only(browser: Browser, guarded: Web, key: str) -> None:
    with visiting(browser, guarded.url) as visit:
        visit.page.goto(guarded.url)
        dialog = visit.page.get_by_role("dialog", name="API key required")
        expect(dialog).to_be_visible()
        fine(visit)
        dialog.get_by_label("Key").fill(key[:-1])
        dialog.get_by_role("button", name="Use key").click()
        expect(dialog.get_by_role("alert")).to_contain_text("not known here")
        dialog.get_by_label("Key").fill(key)
        dialog.get_by_role("button", name="Use key").click()
        expect(dialog).to_be_hidden()
        visit.expect("401")
        content = os.urandom(5000)
        visit.choose_mode("Normal")
        visit.send(("guarded.bin", content))
        expect(status_of(visit.row("guarded.bin"))).to_have_text("Complete")
        with visit.page.expect_download() as download:
            visit.row("guarded.bin").get_by_role("link", name="Download").click()
        assert download.value.path().read_bytes() == content
        assert visit.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [
            0,
            0,
            "",
        ]
        visit.page.reload()
        expect(dialog).to_be_visible()
        visit.expect("401")


@in_browser
def test_who_gives_no_key_is_told_and_may_come_back(browser: Browser, guarded: Web, key: str) -> None:
    with visiting(browser, guarded.url) as visit:
        visit.page.goto(guarded.url)
        visit.page.get_by_role("button", name="Not now").click()
        expect(visit.page.locator("#recent-note")).to_contain_text("key")
        visit.page.get_by_role("button", name="Enter key").click()
        dialog = visit.page.get_by_role("dialog", name="API key required")
        dialog.get_by_label("Key").fill(key)
        dialog.get_by_label("Key").press("Enter")
        expect(visit.page.get_by_role("button", name="Forget key")).to_be_visible()
        expect(visit.page.locator("#recent-note")).not_to_contain_text("key")
        visit.expect("401")
