"""A page of another origin, in a real Chromium: it uploads, follows, lists, downloads, and reads its errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from app import create_app
from tests.kit.browser import CHROMIUM, MISSING
from tests.kit.stack import RedisServer, S3Server, Worker
from tests.kit.team_pages import team_server
from tests.kit.tokens import Ferry, running_ferry
from tests.kit.zoo import PNG

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)

UPLOAD = """([service, token, mode, size]) => new Promise((resolve) => {
  const form = new FormData();
  form.append("metadata", JSON.stringify({ album: "7" }));
  form.append("file", new File([new Uint8Array(size)], "größe.bin"));
  const xhr = new XMLHttpRequest();
  const seen = [];
  xhr.open("POST", `${service}/${mode}_upload`);
  xhr.setRequestHeader("Authorization", `Bearer ${token}`);
  xhr.setRequestHeader("Idempotency-Key", crypto.randomUUID());
  xhr.upload.onprogress = (event) => seen.push(event.loaded / event.total);
  const location = () => xhr.getResponseHeader("Location");
  xhr.onloadend = () => resolve({ status: xhr.status, text: xhr.responseText, location: location(), seen });
  xhr.send(form);
})"""
ASK = """async ([address, token, method, body]) => {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(address, { method, headers, body: body && JSON.stringify(body) });
  return { status: answer.status, text: await answer.text(), retryAfter: answer.headers.get("Retry-After") };
}"""
FOLLOW = """async ([service, token, path]) => {
  const answer = await fetch(service + path, { headers: { Authorization: `Bearer ${token}` } });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return text;
    text += value;
  }
}"""
IMAGE = """(address) => new Promise((resolve) => {
  const image = new Image();
  image.onload = () => resolve(image.naturalWidth);
  image.onerror = () => resolve(0);
  image.src = address;
})"""
LATE = """async ([service, token]) => {
  try {
    return (await fetch(`${service}/files`, { headers: { Authorization: `Bearer ${token}` } })).status;
  } catch {
    return "network error";
  }
}"""
BLANK = {"/": "<!doctype html><title>A team's own page</title>"}


@pytest.fixture(scope="module")
def team_origin() -> Iterator[str]:
    """The origin of the team's own page."""
    with team_server(BLANK) as origin:
        yield origin


@pytest.fixture(scope="module")
def ferry(
    s3: S3Server, redis_server: RedisServer, team_origin: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ferry]:
    folder = tmp_path_factory.mktemp("other-origin")
    env = {**s3.settings, **redis_server.settings, "CORS_ORIGINS": team_origin, "MAX_CONTENT_LENGTH": "3000000"}
    with running_ferry(folder, env) as found:
        worker = Worker(folder, found.web.env)
        worker.start()
        worker.wait()
        yield found
        worker.stop()


@pytest.fixture
def page(browser: Browser, team_origin: str) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.goto(team_origin)
    yield page
    context.close()


@pytest.mark.parametrize("mode", ["normal", "async", "celery"])
def test_the_page_uploads_follows_lists_and_downloads(page: Page, ferry: Ferry, mode: str) -> None:
    service, token = ferry.web.url, ferry.token(subject=f"user-{mode}")
    sent: Any = page.evaluate(UPLOAD, [service, token, mode, 2_000_000])
    assert sent["status"] in (201, 202), sent
    assert sent["seen"][-1] == 1
    assert '"album":"7"' in sent["text"]
    events: str = page.evaluate(FOLLOW, [service, token, f"{sent['location']}/events"])
    assert '"upload_status": "COMPLETE"' in events
    listed: Any = page.evaluate(ASK, [f"{service}/files?metadata.album=7", token, "GET", None])
    assert listed["text"].count('"id"') == 1
    for proxy in ("?proxy=1", ""):  # through the service, and by its redirect to the bucket
        got: Any = page.evaluate(ASK, [f"{service}{sent['location']}/content{proxy}", token, "GET", None])
        assert (got["status"], len(got["text"])) == (200, 2_000_000)
    changed: Any = page.evaluate(ASK, [service + sent["location"], token, "PATCH", {"metadata": {"album": "8"}}])
    assert changed["status"] == 200


@pytest.fixture(autouse=True, scope="module")
def bucket_cors(ferry: Ferry) -> None:
    result = create_app(ferry.web.env).test_cli_runner().invoke(args=["set-cors"])
    assert result.exit_code == 0, result.output


def test_errors_are_readable_in_the_page(page: Page, ferry: Ferry) -> None:
    service, token = ferry.web.url, ferry.token(subject="errors", max_bytes=10)
    beyond: Any = page.evaluate(UPLOAD, [service, token, "async", 1000])
    assert (beyond["status"], "must not exceed 10 bytes" in beyond["text"]) == (413, True)
    too_large: Any = page.evaluate(UPLOAD, [service, ferry.token(subject="errors"), "async", 4_000_000])
    assert (too_large["status"], "3000000 bytes" in too_large["text"]) == (413, True)
    unknown: Any = page.evaluate(ASK, [f"{service}/files", "fmu_a.b.c", "GET", None])
    assert (unknown["status"], "not valid" in unknown["text"]) == (401, True)
    missing: Any = page.evaluate(ASK, [f"{service}/files/{'0' * 32}", token, "GET", None])
    assert (missing["status"], "File not found." in missing["text"]) == (404, True)


def test_a_link_is_shown_in_an_image(page: Page, ferry: Ferry) -> None:
    token = ferry.token(subject="pictures")
    row = ferry.upload(token, part=("a.png", PNG, "image/png"), mode="normal").json()
    link: Any = page.evaluate(
        ASK, [f"{ferry.web.url}/files/{row['id']}/links", token, "POST", {"disposition": "inline"}]
    )
    assert link["status"] == 201
    address = json.loads(link["text"])["url"]
    assert page.evaluate(IMAGE, address) == 1


def test_a_page_that_is_not_listed_reads_nothing(browser: Browser, ferry: Ferry) -> None:
    with team_server(BLANK) as origin:
        page = browser.new_page()
        page.goto(origin)
        assert page.evaluate(LATE, [ferry.web.url, ferry.token(subject="1")]) == "network error"
        page.close()
