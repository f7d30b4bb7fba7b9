"""Resumable uploads by clients that we did not write, unchanged, through the real server."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Page, Route, expect
from tusclient.client import TusClient

from tests.kit.browser import CHROMIUM, MISSING
from tests.kit.programs import NPM, npm_clients
from tests.kit.stack import RedisServer, S3Server, Web, serving

MIB = 1024 * 1024
SIZE = 5 * MIB + 17
NAME = "Bericht für 報告.bin"
needs_npm = pytest.mark.skipif(NPM is None, reason="NPM IS NOT INSTALLED, so no client from npm is tried")


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("tus-clients"), s3, redis_server, workers=2) as web:
        yield web


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to send."""
    path = tmp_path_factory.mktemp("source") / NAME
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clients from npm, installed."""
    return npm_clients("resumable", tmp_path_factory.mktemp("resumable"))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@needs_npm
def test_tus_js_client_in_node(web: Web, node_folder: Path, path: Path) -> None:
    job = json.dumps({"service": web.url, "path": str(path)})
    command = ["node", "tus.mjs", job]
    result = subprocess.run(command, cwd=node_folder, capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found.pop("terminated") == 410
    whole: dict[str, Any] = {"name": NAME, "size": SIZE, "sha256": sha256(path.read_bytes())}
    expected = dict.fromkeys(found, whole) | {
        "without metadata": {**whole, "name": "upload.bin"},
        "empty": {**whole, "size": 0, "sha256": sha256(b"")},
        "by a worker": {**whole, "sha256": None},
    }
    for case in found:
        if "IETF" in case:
            expected[case] = {**whole, "name": "rufh.bin"}
    assert found == expected


@pytest.mark.parametrize(("chunk_bytes", "with_checksum"), [(1_000_000, False), (2**30, False), (700_000, True)])
def test_tuspy(web: Web, path: Path, chunk_bytes: int, with_checksum: bool) -> None:
    client = TusClient(f"{web.url}/uploads/")
    named = {"filename": NAME}
    with path.open("rb") as file:
        uploader = client.uploader(
            file_stream=file, chunk_size=chunk_bytes, metadata=named, upload_checksum=with_checksum
        )
        uploader.upload()
    file_id = str(uploader.url).rpartition("/")[2]
    shown = web.settled(file_id)
    assert (shown["name"], shown["size"], shown["sha256"]) == (NAME, SIZE, sha256(path.read_bytes()))


def test_tuspy_without_metadata_and_with_nothing_in_it(web: Web) -> None:
    uploader = TusClient(f"{web.url}/uploads/").uploader(file_stream=BytesIO(b""))
    uploader.upload()
    assert web.settled(str(uploader.url).rpartition("/")[2])["size"] == 0


UPPY = """<!doctype html><meta charset="utf-8"><title>Uppy</title><p role="status"></p>
<script src="/uppy.min.js"></script>
<script>
  const uppy = new Uppy.Uppy({ id: "one" }).use(Uppy.Tus, { endpoint: "/uploads", chunkSize: 1048576, limit: 3 });
  window.uppy = uppy;
  uppy.on("upload-progress", (file, progress) => { window.sent = progress.bytesUploaded; });
  uppy.on("complete", ({ successful, failed }) => {
    window.urls = successful.map(({ name, uploadURL }) => [name, uploadURL]);
    document.querySelector("p").textContent = `${successful.length} done, ${failed.length} failed`;
  });
</script>"""


@pytest.mark.skipif(CHROMIUM is None or NPM is None, reason=MISSING)
def test_uppy_goes_on_after_a_reload(browser: Browser, web: Web, node_folder: Path, path: Path) -> None:
    script = (node_folder / "node_modules" / "uppy" / "dist" / "uppy.min.js").read_text()
    context = browser.new_context(base_url=web.url)
    page = context.new_page()
    page.route("**/uppy.html", lambda route: route.fulfill(body=UPPY, content_type="text/html"))
    page.route("**/uppy.min.js", lambda route: route.fulfill(body=script, content_type="text/javascript"))
    held = Held()
    page.route("**/uploads/*", held)
    page.goto("/uppy.html")
    add(page, path)
    page.evaluate("void uppy.upload()")
    while held.count < 3:
        page.wait_for_timeout(20)
    page.reload()
    held.is_over = True
    assert [offset(web, path) for path in started(web)] == [2 * MIB]
    offsets: list[int] = []
    page.on("request", lambda one: offsets.append(int(one.headers.get("upload-offset", -1))))
    add(page, path)
    page.evaluate("void uppy.upload()")
    expect(page.get_by_role("status")).to_have_text("1 done, 0 failed", timeout=20_000)
    assert min(offset for offset in offsets if offset >= 0) == 2 * MIB
    [[name, url]] = page.evaluate("urls")
    shown = web.settled(url.rpartition("/")[2])
    assert (name, shown["sha256"]) == (path.name, sha256(path.read_bytes()))
    context.close()


class Held:
    """Lets two pieces through; the third stays on its way, until its page is gone."""

    def __init__(self) -> None:
        self.count = 0
        self.is_over = False

    def __call__(self, route: Route) -> None:
        self.count += route.request.method == "PATCH"
        if self.is_over or self.count < 3:
            route.continue_()


def add(page: Page, path: Path) -> None:
    """Add the file as its user would: after a reload it is the same for the browser."""
    script = """async ([name, content, time]) => {
      const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
      const data = new File([bytes], name, { lastModified: time, type: "application/octet-stream" });
      uppy.addFile({ name, data, source: "test", type: data.type });
    }"""
    page.evaluate(script, [path.name, base64.b64encode(path.read_bytes()).decode(), 1_700_000_000_000])


def started(web: Web) -> list[str]:
    """The addresses of the uploads in progress."""
    return [f"/uploads/{one.stem}" for one in Path(web.env["SPOOL_DIR"]).glob("*.up")]


def offset(web: Web, path: str) -> int:
    answer = requests.head(web.url + path, headers={"Tus-Resumable": "1.0.0"}, timeout=20)
    return int(answer.headers["Upload-Offset"])
