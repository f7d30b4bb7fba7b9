"""Files go up and come down again by one and the same client that we did not write: bytes and names are kept."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import shutil
import socket
import subprocess
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import httpx
import pytest
import requests
from playwright.sync_api import Browser, Page, Response

from tests.kit.browser import CHROMIUM, MISSING
from tests.kit.downloads import ask, named
from tests.kit.programs import NPM, npm_clients
from tests.kit.stack import RedisServer, S3Server, Web

CONTENT = bytes(range(256)) * 40 + b"\r\n--b\r\n"
CURL = shutil.which("curl")
QUOTED = 'a "quoted" name.txt'
BACKSLASH = "back\\slash.txt"
NAMES = [
    "\u5831\u544a\u66f8.txt",
    unicodedata.normalize("NFD", "r\u00e9sum\u00e9 \u304c.txt"),
    "\U0001f469\u200d\U0001f4bb party.txt",
    "50%20off 100%.txt",
    "Screenshot 9.41\u202fAM.txt",
    "\u5831" * 83 + "ab.txt",  # 255 bytes
    QUOTED,
    BACKSLASH,
]
in_browser = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)


class Trip(NamedTuple):
    """What a client got: the upload's answer, and the downloads by proxy and by link."""

    status: int
    name: str
    downloads: list[tuple[bytes, str]]


Send = Callable[[str, str, Path], tuple[int, dict[str, Any]]]
Get = Callable[[str, Path], tuple[bytes, str]]


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("trips")
    settings = {"SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}", "SPOOL_DIR": str(folder / "spool")}
    server = Web(folder, {**s3.settings, **redis_server.settings, **settings})
    try:
        server.start()
        server.wait()
        yield server
    finally:
        server.stop()


def assert_kept(trip: Trip, name: str) -> None:
    assert (trip.status, trip.name) == (201, name)
    assert [content for content, _ in trip.downloads] == [CONTENT, CONTENT]
    assert [named(disposition) for _, disposition in trip.downloads] == [name, name]


def contents(web: Web, file_id: str) -> list[str]:
    """The addresses of a content, by proxy and by link."""
    return [f"{web.url}/files/{file_id}/content{query}" for query in ("?proxy=1", "")]


# --- Python and curl


def send_by_http_client(url: str, name: str, folder: Path) -> tuple[int, dict[str, Any]]:
    quoted = name.replace('"', "%22")
    body = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n\r\n'.encode()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        connection.request("POST", urlsplit(url).path, body + CONTENT + b"\r\n--x--\r\n", form)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def get_by_http_client(url: str, folder: Path) -> tuple[bytes, str]:
    got = ask(url)
    if got.status == 302:
        got = ask(got.headers["Location"])
    return got.body, got.headers["Content-Disposition"]


def send_by_requests(url: str, name: str, folder: Path) -> tuple[int, dict[str, Any]]:
    answer = requests.post(url, files={"file": (name, CONTENT)}, timeout=20)
    return answer.status_code, answer.json()


def get_by_requests(url: str, folder: Path) -> tuple[bytes, str]:
    answer = requests.get(url, timeout=20)
    return answer.content, answer.headers["Content-Disposition"]


def send_by_httpx(url: str, name: str, folder: Path) -> tuple[int, dict[str, Any]]:
    answer = httpx.post(url, files={"file": (name, CONTENT)}, timeout=20)
    return answer.status_code, answer.json()


def get_by_httpx(url: str, folder: Path) -> tuple[bytes, str]:
    answer = httpx.get(url, follow_redirects=True, timeout=20)
    return answer.content, answer.headers["Content-Disposition"]


def send_by_aiohttp(url: str, name: str, folder: Path) -> tuple[int, dict[str, Any]]:
    async def post() -> tuple[int, dict[str, Any]]:
        form = aiohttp.FormData(quote_fields=False)  # else every name is percent-encoded
        form.add_field("file", CONTENT, filename=name)
        async with aiohttp.ClientSession() as session, session.post(url, data=form) as answer:
            return answer.status, await answer.json()

    return asyncio.run(post())


def get_by_aiohttp(url: str, folder: Path) -> tuple[bytes, str]:
    async def get() -> tuple[bytes, str]:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return await answer.read(), answer.headers["Content-Disposition"]

    return asyncio.run(get())


def send_by_curl(url: str, name: str, folder: Path) -> tuple[int, dict[str, Any]]:
    (folder / name).write_bytes(CONTENT)
    path = f"{folder}/{name}".replace("\\", "\\\\").replace('"', '\\"')
    command = [str(CURL), "-sS", "-w", "\n%{http_code}", "-F", f'file=@"{path}"', url]
    body, _, status = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rpartition("\n")
    return int(status), json.loads(body)


def get_by_curl(url: str, folder: Path) -> tuple[bytes, str]:
    saved = folder / "saved"
    command = [str(CURL), "-sSfL", "-o", str(saved), "-w", "%header{content-disposition}", url]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return saved.read_bytes(), told


def sent(send: Send, name: str) -> str:
    """A name as it is on the wire: these two double a backslash, which browsers, curl and requests do not."""
    return name.replace("\\", "\\\\") if send in (send_by_httpx, send_by_aiohttp) else name


@pytest.mark.parametrize(
    ("send", "get"),
    [
        pytest.param(send_by_http_client, get_by_http_client, id="http.client"),
        pytest.param(send_by_requests, get_by_requests, id="requests"),
        pytest.param(send_by_httpx, get_by_httpx, id="httpx"),
        pytest.param(send_by_aiohttp, get_by_aiohttp, id="aiohttp"),
        pytest.param(
            send_by_curl,
            get_by_curl,
            id="curl",
            marks=pytest.mark.skipif(not CURL, reason="CURL IS NOT INSTALLED: apt-get install curl"),
        ),
    ],
)
def test_a_file_goes_up_and_comes_down(web: Web, send: Send, get: Get, tmp_path: Path) -> None:
    for name in NAMES:
        status, file = send(f"{web.url}/normal_upload", name, tmp_path)
        assert status == 201, (name, file)
        downloads = [get(url, tmp_path) for url in contents(web, file["id"])]
        assert_kept(Trip(status, file["name"], downloads), sent(send, name))


# --- Node


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clients from npm, installed."""
    return npm_clients("clients", tmp_path_factory.mktemp("node"))


@pytest.mark.skipif(NPM is None, reason="NPM IS NOT INSTALLED, so no client from npm is tried")
@pytest.mark.parametrize("way", ["fetch", "axios"])
def test_a_file_goes_up_and_comes_down_by_node(web: Web, node_folder: Path, way: str) -> None:
    content = base64.b64encode(CONTENT).decode()
    job = json.dumps({"service": web.url, "way": way, "names": NAMES, "content": content})
    command = ["node", "round_trip.mjs", job]
    result = subprocess.run(command, cwd=node_folder, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    for name, (status, kept, downloads) in zip(NAMES, json.loads(result.stdout), strict=True):
        assert_kept(Trip(status, kept, [(base64.b64decode(body), told) for body, told in downloads]), name)


# --- Chromium

XHR = """([name, content]) => new Promise((resolve, reject) => {
  const form = new FormData(), request = new XMLHttpRequest();
  form.append("file", new File([new Uint8Array(content)], name));
  request.open("POST", "/normal_upload");
  request.onload = () => resolve([request.status, JSON.parse(request.responseText)]);
  request.onerror = reject;
  request.send(form);
})"""
FETCH = """async ([name, content]) => {
  const body = new FormData();
  body.append("file", new File([new Uint8Array(content)], name));
  const answer = await fetch("/normal_upload", { method: "POST", body });
  return [answer.status, await answer.json()];
}"""
PLAIN_FORM = """<!doctype html><meta charset="utf-8">
<form method="post" enctype="multipart/form-data" action="/normal_upload">
<input type="file" name="file"><button>Send</button></form>"""


def send_by_plain_form(page: Page, name: str) -> tuple[int, dict[str, Any]]:
    """By a page without any script, whose origin is the service's own."""
    page.goto("/plain.html")
    page.locator("input").set_input_files({"name": name, "mimeType": "", "buffer": CONTENT})
    with page.expect_response("**/normal_upload") as answer, page.expect_navigation():
        page.get_by_role("button", name="Send").click()
    return answer.value.status, json.loads(page.evaluate("document.body.innerText"))


def send_by_script(page: Page, script: str, name: str) -> tuple[int, dict[str, Any]]:
    page.goto("/")
    status, file = page.evaluate(script, [name, list(CONTENT)])
    return status, file


def is_content(answer: Response) -> bool:
    return answer.status == 200 and "content-disposition" in answer.headers


@in_browser
@pytest.mark.parametrize("way", ["fetch", "XHR", "plain form"])
def test_a_file_goes_up_from_chromium_and_comes_down(web: Web, browser: Browser, way: str) -> None:
    """What Chromium saves a download as is in test_downloads.py."""
    context = browser.new_context(base_url=web.url)
    try:
        page = context.new_page()
        page.route("**/plain.html", lambda route: route.fulfill(body=PLAIN_FORM, content_type="text/html"))
        for name in NAMES:
            if way == "plain form":
                status, file = send_by_plain_form(page, name)
            else:
                status, file = send_by_script(page, {"fetch": FETCH, "XHR": XHR}[way], name)
            assert status == 201, (name, file)
            downloads = []
            for url in contents(web, file["id"]):
                with page.expect_response(is_content) as answered, page.expect_download() as download:
                    page.evaluate("url => { location.href = url }", url)
                body, told = download.value.path().read_bytes(), answered.value.headers["content-disposition"]
                downloads.append((body, told))
            assert_kept(Trip(status, file["name"], downloads), name)
    finally:
        context.close()


# --- what others send, in the framing that they choose

WORD = b'"=?utf-8?B?' + base64.b64encode("\u5831\u544a\u66f8.txt".encode()) + b'?="'
SENDERS = {
    # client: name, Content-Disposition's parameters, boundary in Content-Type, boundary, expects, in chunks
    ".NET HttpClient with Expect": (
        "\u5831\u544a\u66f8.txt",
        b"name=file; filename=" + WORD + b"; filename*=utf-8''%E5%A0%B1%E5%91%8A%E6%9B%B8.txt",
        b'"7ee4a1b5-5a0b"',
        b"7ee4a1b5-5a0b",
        True,
        False,
    ),
    ".NET HttpClient of a stream": (
        "plain.txt",
        b"name=file; filename=plain.txt",
        b'"7ee4"',
        b"7ee4",
        False,
        True,
    ),
    "PowerShell, Expect and chunks": (
        "plain.txt",
        b"name=file; filename=plain.txt; filename*=utf-8''plain.txt",
        b'"1d2c3b4a"',
        b"1d2c3b4a",
        True,
        True,
    ),
    "OkHttp of a stream": (
        QUOTED,
        b'name="file"; filename="a %22quoted%22 name.txt"',
        b"0f8f",
        b"0f8f",
        False,
        True,
    ),
}


def chunked(body: bytes, size: int = 1000) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])


@pytest.mark.parametrize("client", SENDERS)
def test_a_recorded_form_arrives_in_its_framing(web: Web, client: str) -> None:
    name, parameters, boundary_told, boundary, expects, in_chunks = SENDERS[client]
    start = b"--" + boundary + b"\r\nContent-Disposition: form-data; " + parameters + b"\r\n\r\n"
    body = start + CONTENT + b"\r\n--" + boundary + b"--\r\n"
    head = [
        b"POST /normal_upload HTTP/1.1",
        b"Host: " + urlsplit(web.url).netloc.encode(),
        b"Content-Type: multipart/form-data; boundary=" + boundary_told,
        b"Transfer-Encoding: chunked" if in_chunks else b"Content-Length: %d" % len(body),
        *([b"Expect: 100-continue"] if expects else []),
    ]
    address = urlsplit(web.url)
    with socket.create_connection((str(address.hostname), address.port or 80), timeout=20) as wire:
        wire.sendall(b"\r\n".join([*head, b"", b""]))
        if expects:
            assert wire.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.sendall(chunked(body) if in_chunks else body)
        answer = http.client.HTTPResponse(wire)
        answer.begin()
        file = json.loads(answer.read())
    downloads = [get_by_http_client(url, Path()) for url in contents(web, file.get("id", ""))]
    assert_kept(Trip(answer.status, file.get("name", ""), downloads), name)
