"""examples/avatars as its users have it: an app with logins, its page in Chromium, Ferryman beside it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from tests.kit.browser import CHROMIUM, MISSING
from tests.kit.ports import free_port
from tests.kit.receiver import SECRET as HOOK_SECRET
from tests.kit.stack import ROOT, RedisServer, S3Server, Service, wait_for
from tests.kit.tokens import Ferry, running_ferry
from tests.kit.zoo import HTML, PNG

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
NPM = shutil.which("npm")
PICTURE: Any = {"name": "me.png", "mimeType": "image/png", "buffer": PNG}


class Example(Service):
    """The example's own process, and the Ferryman beside it."""

    def __init__(self, folder: Path, ferry: Ferry, port: int, package: Path) -> None:
        self.url = f"http://localhost:{port}"
        self.ferry = ferry
        self.package = package
        env = {
            "FERRYMAN_URL": ferry.web.url,
            "FERRYMAN_KEY": ferry.key,
            "WEBHOOK_SECRET": HOOK_SECRET,
            "AVATARS_DATABASE": str(folder / "avatars.db"),
            "PYTHONPATH": f"{package.parent}:{ROOT}",
        }
        command = [sys.executable, "-m", "flask", "--app", "avatars.avatars", "run", "--port", str(port)]
        super().__init__("avatars", command, env, folder / "avatars.log")

    def answers(self) -> bool:
        try:
            return requests.get(self.url, timeout=5).ok
        except requests.ConnectionError:
            return False


@pytest.fixture(scope="module")
def example(
    s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Example]:
    folder, port = tmp_path_factory.mktemp("avatars"), free_port()
    package = folder / "package" / "avatars"
    shutil.copytree(ROOT / "examples" / "avatars", package)
    env = {
        **s3.settings,
        **redis_server.settings,
        "CORS_ORIGINS": f"http://localhost:{port}",
        "WEBHOOK_URL": f"http://localhost:{port}/webhook",
        "WEBHOOK_SECRET": HOOK_SECRET,
    }
    with running_ferry(folder, env) as ferry:
        found = Example(folder, ferry, port, package)
        found.start()
        wait_for(found.answers, what="the example")
        yield found
        found.kill()


def signed_in(browser: Browser, example: Example, name: str, password: str = "secret") -> Page:
    page = browser.new_context().new_page()
    page.set_default_timeout(20_000)
    page.goto(example.url)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text(f"You are {name}.").wait_for()
    page.wait_for_load_state()  # until then the form is a plain one
    return page


def uploads(page: Page, picture: Any = PICTURE) -> None:
    page.get_by_label("Another picture").set_input_files(picture)
    page.get_by_role("button", name="Upload").click()


def test_a_user_uploads_an_avatar_and_nobody_else_sees_or_replaces_it(browser: Browser, example: Example) -> None:
    alice = signed_in(browser, example, "alice")
    uploads(alice)
    expect(alice.get_by_role("status")).to_have_text("This is your avatar.", timeout=20_000)
    expect(alice.get_by_role("progressbar")).to_have_js_property("value", 1)
    picture = alice.get_by_role("img", name="Your avatar")
    expect(picture).to_be_visible()
    assert picture.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") == 1
    [row] = example.ferry.get("/files?metadata.purpose=avatar").json()["files"]

    bob = signed_in(browser, example, "bob")
    expect(bob.get_by_role("img", name="Your avatar")).to_be_hidden()
    token = bob.evaluate("async () => (await (await fetch('/upload-token', { method: 'POST' })).json()).token")
    theirs = example.ferry.token(subject=row["subject"] + "0")
    for credential, refusals in ((token, (403,)), (theirs, (404,))):
        assert example.ferry.get(f"/files/{row['id']}", credential).status_code in refusals
        assert example.ferry.delete(f"/files/{row['id']}", credential).status_code in (403, 404)
        assert example.ferry.patch(f"/files/{row['id']}", credential, {"name": "x"}).status_code in (403, 404)
    uploads(bob)
    expect(bob.get_by_role("status")).to_have_text("This is your avatar.", timeout=20_000)
    assert alice.evaluate("async () => (await (await fetch('/me')).json()).avatar") == row["id"]
    assert bob.evaluate("async () => (await (await fetch('/me')).json()).avatar") != row["id"]


def test_a_new_avatar_replaces_the_old_one(browser: Browser, example: Example) -> None:
    carol = signed_in(browser, example, "carol")
    uploads(carol)
    expect(carol.get_by_role("status")).to_have_text("This is your avatar.", timeout=20_000)
    first = carol.evaluate("async () => (await (await fetch('/me')).json()).avatar")
    uploads(carol)
    wait_for(lambda: example.ferry.get(f"/files/{first}").status_code == 404, 20)


def test_what_is_no_picture_is_refused_in_words(browser: Browser, example: Example) -> None:
    dave = signed_in(browser, example, "dave")
    uploads(dave, {"name": "me.png", "mimeType": "image/png", "buffer": HTML})
    expect(dave.get_by_role("status")).to_contain_text("text/html are not accepted")


def test_a_stranger_gets_nothing(browser: Browser, example: Example) -> None:
    for method, path in (("GET", "/me"), ("GET", "/avatar"), ("POST", "/upload-token")):
        assert requests.request(method, example.url + path, timeout=20).status_code == 401
    assert requests.post(f"{example.url}/webhook", json={"type": "file.complete"}, timeout=20).status_code == 401
    signed_in(browser, example, "erin")
    wrong = {"name": "erin", "password": "guess"}
    assert requests.post(f"{example.url}/login", data=wrong, timeout=20).status_code == 403


@pytest.mark.skipif(NPM is None, reason="NPM IS NOT INSTALLED, so Uppy is not tried")
def test_uppy_as_it_comes_from_npm(browser: Browser, example: Example) -> None:
    static = example.package / "static"
    subprocess.run([str(NPM), "install", "--silent", "--prefix", str(static)], check=True, timeout=110)
    frank = signed_in(browser, example, "frank")
    frank.get_by_role("link", name="The same with Uppy").click()
    frank.locator("input.uppy-Dashboard-input").first.set_input_files(PICTURE)
    frank.get_by_role("button", name="Upload 1 file").click()
    expect(frank.get_by_text("Complete", exact=True)).to_be_visible()
    wait_for(lambda: frank.evaluate("async () => (await (await fetch('/me')).json()).avatar"), 20)


def test_it_is_as_small_as_it_says() -> None:
    folder = ROOT / "examples" / "avatars"
    assert len((folder / "avatars.py").read_text().splitlines()) < 150
    scripts = [path.read_text() for path in (folder / "static").glob("*.js")]
    assert sum(len(script.splitlines()) for script in scripts) < 100
    assert json.loads((folder / "static" / "package.json").read_text())["dependencies"].keys() == {"uppy"}
