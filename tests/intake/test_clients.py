"""Uploads by clients that we did not write, and by the bytes that others send: what they name arrives."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import subprocess
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import requests
from playwright.sync_api import Browser

from tests.kit.browser import CHROMIUM, MISSING
from tests.kit.stack import ROOT, RedisServer, S3Server, Web

CONTENT = "it arrives\r\n--as it is"
NODE = shutil.which("node")
CURL = shutil.which("curl")
NAMES = [
    "plain.txt",
    "two words.txt",
    "\u5831\u544a\u66f8.txt",
    unicodedata.normalize("NFD", "r\u00e9sum\u00e9.txt"),
    "\U0001f469\u200d\U0001f4bb party.txt",
    "it's; a=b, (c) & d.txt",
    'a "quoted" name.txt',
    "50%20off 100%.txt",
    "Makefile",
    "\u5831" * 83 + "a.txt",  # 254 bytes
    "x" * 251 + ".txt",
]
Answer = tuple[int, dict[str, Any]]
Client = Callable[[str, str, Path], Answer]

FORM_DATA = """([name, content]) => {
  const form = new FormData();
  form.append("avatar", new File([], ""));
  form.append("file", new File([content], name, { type: "text/plain" }));
  return fetch("/async_upload", { method: "POST", body: form }).then(async (it) => [it.status, await it.json()]);
}"""


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("clients")
    settings = {
        **s3.settings,
        **redis_server.settings,
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
    }
    server = Web(folder, settings)
    try:
        server.start()
        server.wait()
        yield server
    finally:
        server.stop()


def by_requests(url: str, name: str, folder: Path) -> Answer:
    answer = requests.post(url, files={"file": (name, CONTENT)}, data={"note": "x"}, timeout=20)
    return answer.status_code, answer.json()


def by_httpx(url: str, name: str, folder: Path) -> Answer:
    answer = httpx.post(url, files={"file": (name, CONTENT.encode())}, data={"note": "x"}, timeout=20)
    return answer.status_code, answer.json()


def by_aiohttp(url: str, name: str, folder: Path) -> Answer:
    """By itself aiohttp percent-encodes every name, which nobody can tell from a name that has such signs."""

    async def post() -> Answer:
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("note", "x")
        form.add_field("file", CONTENT.encode(), filename=name)
        async with aiohttp.ClientSession() as session, session.post(url, data=form) as answer:
            return answer.status, await answer.json()

    return asyncio.run(post())


def by_curl(url: str, name: str, folder: Path) -> Answer:
    path = folder / name
    path.write_bytes(CONTENT.encode())
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    command = [str(CURL), "-sS", "-w", "\n%{http_code}", "-F", "note=x", "-F", f'file=@"{folder}/{quoted}"', url]
    body, _, status = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rpartition("\n")
    return int(status), json.loads(body)


def by_curl_with_escapes(url: str, name: str, folder: Path) -> Answer:
    """As curl did before 7.81, and does with --form-escape."""
    path = folder / name
    path.write_bytes(CONTENT.encode())
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    command = [str(CURL), "-sS", "--form-escape", "-w", "\n%{http_code}", "-F", f'file=@"{folder}/{quoted}"', url]
    body, _, status = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rpartition("\n")
    return int(status), json.loads(body)


def by_node(way: str) -> Client:
    def post(url: str, name: str, folder: Path) -> Answer:
        job = json.dumps({"url": url, "way": way, "name": name, "content": CONTENT})
        command = [str(NODE), str(ROOT / "tests" / "kit" / "clients.mjs"), job]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert result.returncode == 0, result.stderr
        status, body = json.loads(result.stdout)
        return status, body

    return post


has_curl = pytest.mark.skipif(not CURL, reason="CURL IS NOT INSTALLED: apt-get install curl")
has_node = pytest.mark.skipif(not NODE, reason="NODE IS NOT INSTALLED: apt-get install nodejs")
CLIENTS = [
    pytest.param(by_requests, id="requests"),
    pytest.param(by_httpx, id="httpx"),
    pytest.param(by_aiohttp, id="aiohttp"),
    pytest.param(by_curl, id="curl", marks=has_curl),
    pytest.param(by_curl_with_escapes, id="curl-escapes", marks=has_curl),
    pytest.param(by_node("fetch"), id="node-fetch", marks=has_node),
    pytest.param(by_node("http"), id="node-http", marks=has_node),
]


def assert_arrived(web: Web, answer: Answer, name: str, content: bytes = CONTENT.encode()) -> None:
    status, file = answer
    assert status == 202, file
    assert file["name"] == name
    assert file["size"] == len(content)
    again = requests.get(f"{web.url}/files/{file['id']}", timeout=20).json()
    assert again["name"] == name


@pytest.mark.parametrize("client", CLIENTS)
def test_every_name_arrives_as_it_is(web: Web, client: Client, tmp_path: Path) -> None:
    for name in NAMES:
        assert_arrived(web, client(f"{web.url}/async_upload", name, tmp_path), name)


@pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
def test_chromium_names_what_it_sends(web: Web, browser: Browser) -> None:
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(f"{web.url}/")
        for name in NAMES:
            status, file = page.evaluate(FORM_DATA, [name, CONTENT])
            assert_arrived(web, (status, file), name)
    finally:
        context.close()


JAPANESE = "\u5831\u544a\u66f8.txt"
RAW = JAPANESE.encode()
PERCENT = b"%E5%A0%B1%E5%91%8A%E6%9B%B8.txt"
WORD = b'"=?utf-8?B?5aCx5ZGK5pu4LnR4dA==?="'
# What they write, byte by byte: the header of the part, and the boundary as the request names it.
RECORDED: dict[str, tuple[str, bytes, str, bytes]] = {
    # client: name, header of the part, boundary in Content-Type, boundary
    ".NET HttpClient": (
        JAPANESE,
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Disposition: form-data; name=file; filename=" + WORD + b"; filename*=utf-8''" + PERCENT,
        '"7ee4a1b5-5a0b-4a2c-9c0a-1a2b3c4d5e6f"',
        b"7ee4a1b5-5a0b-4a2c-9c0a-1a2b3c4d5e6f",
    ),
    ".NET HttpClient, ASCII": (
        "plain.txt",
        b"Content-Disposition: form-data; name=file; filename=plain.txt; filename*=utf-8''plain.txt",
        '"7ee4a1b5-5a0b-4a2c-9c0a-1a2b3c4d5e6f"',
        b"7ee4a1b5-5a0b-4a2c-9c0a-1a2b3c4d5e6f",
    ),
    ".NET with FileName only": (
        JAPANESE,
        b"Content-Disposition: form-data; name=file; filename=" + WORD,
        '"b"',
        b"b",
    ),
    "PowerShell Invoke-RestMethod -Form": (
        JAPANESE,
        b"Content-Disposition: form-data; name=file; filename=" + WORD + b"; filename*=utf-8''" + PERCENT + b"\r\n"
        b"Content-Type: application/octet-stream",
        '"1d2c3b4a-0000-4000-8000-000000000000"',
        b"1d2c3b4a-0000-4000-8000-000000000000",
    ),
    "requests with urllib3 1.24": (
        JAPANESE,
        b"Content-Disposition: form-data; name=\"file\"; filename*=utf-8''" + PERCENT,
        "0123456789abcdef0123456789abcdef",
        b"0123456789abcdef0123456789abcdef",
    ),
    "OkHttp on Android": (
        JAPANESE,
        b'Content-Disposition: form-data; name="file"; filename="' + RAW + b'"\r\n'
        b"Content-Type: image/*\r\nContent-Length: 22",
        "0f8fad5b-d9cb-469f-a165-70867728950e",
        b"0f8fad5b-d9cb-469f-a165-70867728950e",
    ),
    "Retrofit, with its transfer encoding": (
        "plain.txt",
        b'Content-Disposition: form-data; name="file"; filename="plain.txt"\r\n'
        b"Content-Transfer-Encoding: binary\r\nContent-Type: multipart/form-data\r\nContent-Length: 22",
        "0f8fad5b",
        b"0f8fad5b",
    ),
    "Safari": (
        unicodedata.normalize("NFD", "\u304c\u30d5.txt"),
        b'Content-Disposition: form-data; name="file"; filename="'
        + unicodedata.normalize("NFD", "\u304c\u30d5.txt").encode()
        + b'"\r\nContent-Type: text/plain',
        "----WebKitFormBoundaryAbCdEfGhIjKlMnOp",
        b"----WebKitFormBoundaryAbCdEfGhIjKlMnOp",
    ),
    "Firefox": (
        'a "quoted" name.txt',
        b'Content-Disposition: form-data; name="file"; filename="a %22quoted%22 name.txt"',
        "----geckoformboundary0123456789abcdef",
        b"----geckoformboundary0123456789abcdef",
    ),
    "Internet Explorer, with the path": (
        "plain.txt",
        b'Content-Disposition: form-data; name="file"; filename="C:\\Users\\me\\plain.txt"',
        "---------------------------7e13d",
        b"---------------------------7e13d",
    ),
    "a boundary that is quoted for a reason": (
        "plain.txt",
        b'Content-Disposition: form-data; name="file"; filename="plain.txt"',
        '"=_Part:1 of (2)/3?"',
        b"=_Part:1 of (2)/3?",
    ),
}


def post(web: Web, body: bytes, content_type: str, path: str = "/async_upload", **headers: str) -> Answer:
    port = int(web.url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", path, body, {"Content-Type": content_type, **headers})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("client", RECORDED)
def test_what_others_send_arrives(web: Web, client: str) -> None:
    name, header, named, boundary = RECORDED[client]
    body = b"--" + boundary + b"\r\n" + header + b"\r\n\r\n" + CONTENT.encode() + b"\r\n--" + boundary + b"--\r\n"
    assert_arrived(web, post(web, body, f"multipart/form-data; boundary={named}"), name)


FILE = b'Content-Disposition: form-data; name="file"; filename="a.txt"'
KINDS = [
    # the part's Content-Type -> what is kept
    (b"video/webm;codecs=vp8,opus", "video/webm"),
    (b"video/x-matroska;codecs=avc1,opus", "video/x-matroska"),
    (b"video/mp4; codecs=avc1.42E01E,mp4a.40.2", "video/mp4"),
    (b"text/plain; charset=", "text/plain"),
    (b"text/plain;", "text/plain"),
    (b"image/png ", "image/png"),
    (b"text/plain; name=" + RAW, "text/plain"),
    (b"text/plain; charset=utf-8", "text/plain; charset=utf-8"),
    (b"image/*", "text/plain"),
    (b"*/*", "text/plain"),
    (b"", "text/plain"),
]


def one(header: bytes, content: bytes = b"x") -> bytes:
    return b"--b\r\n" + header + b"\r\n\r\n" + content + b"\r\n"


END = b"--b--\r\n"
FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(("declared", "kept"), KINDS)
def test_a_declared_type_loses_only_what_it_may_not_have(web: Web, declared: bytes, kept: str) -> None:
    status, file = post(web, one(FILE + b"\r\nContent-Type: " + declared) + END, FORM)
    assert (status, file.get("content_type")) == (202, kept), file


INPUT = b'Content-Disposition: form-data; name="%s"; filename=""\r\nContent-Type: application/octet-stream'
TEXT = b'Content-Disposition: form-data; name="%s"'
TAKEN = {
    "an input left empty": one(INPUT % b"avatar", b"") + one(FILE),
    "one left empty behind it": one(FILE) + one(INPUT % b"avatar", b""),
    "a second input of the same name left empty": one(FILE) + one(INPUT % b"file", b""),
    "FilePond's text in front": one(TEXT % b"file", b"{}") + one(FILE),
    "blanks after a boundary": one(FILE).replace(b"--b\r\n", b"--b \t\r\n", 1),
    "blanks after another boundary": one(TEXT % b"note") + one(FILE).replace(b"--b\r\n", b"--b  \r\n", 1),
    "a wrong length of the part": one(FILE + b"\r\nContent-Length: 9"),
    "an odd length of the part": one(FILE + b"\r\nContent-Length: 01 "),
    "two lengths of the part": one(FILE + b"\r\nContent-Length: 1\r\nContent-Length: 1"),
    "many headers": one(FILE + b"".join(b"\r\nX-%d: y" % number for number in range(30))),
    "a header's odd name": one(FILE + b"\r\nX.Y: z"),
    "Latin-1 in another header": one(FILE + b"\r\nX-Note: caf\xe9"),
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_does_not_matter_is_passed_over(web: Web, case: str) -> None:
    status, file = post(web, TAKEN[case] + END, FORM)
    assert status == 202, file
    assert (file["name"], file["size"]) == ("a.txt", 1)


DISPOSITION = b"Content-Disposition: form-data; name=file; "
CUT = [
    b"filename=my.report final.txt",
    b'filename="re.port "final".txt"',
    b'filename="a.txt',
    b'filename="a.txt"; filename="b.txt"',
    b"filename*=utf-8''%E5%A0",
    b"filename*=utf-8''%zz.txt",
    b"filename*=a.txt",
    b"filename*=no-such-charset''a.txt",
]


@pytest.mark.parametrize("names", CUT)
def test_no_name_is_cut(web: Web, names: bytes) -> None:
    status, file = post(web, one(DISPOSITION + names) + END, FORM)
    if status == 202:  # the whole value is right too
        assert names.partition(b"=")[2].decode() == file["name"]
    else:
        assert (status, "malformed" in file["detail"]) == (400, True), file


@pytest.mark.parametrize("field", [b"dz", b"resumable", b"flow", b"qq", b"", b"range", b"query"])
@pytest.mark.parametrize("is_first", [True, False])
def test_chunks_that_are_not_joined_are_refused(web: Web, field: bytes, is_first: bool) -> None:
    names = {
        b"dz": (b"dzchunkindex", b"dztotalchunkcount"),
        b"resumable": (b"resumableChunkNumber", b"resumableTotalChunks"),
        b"flow": (b"flowChunkNumber", b"flowTotalChunks"),
        b"qq": (b"qqpartindex", b"qqtotalparts"),
        b"": (b"chunk", b"chunks"),
    }
    for total in (4, 1):
        fields, path, headers = b"", "/async_upload", {}
        if field == b"range":
            headers = {"Content-Range": f"bytes 0-0/{total}"}
        elif field == b"query":
            path += f"?resumableChunkNumber=1&resumableTotalChunks={total}"
        else:
            number, count = names[field]
            fields = one(TEXT % number, b"0") + one(TEXT % count, b"%d" % total)
        body = fields + one(FILE) if is_first else one(FILE) + fields
        status, file = post(web, body + END, FORM, path, **headers)
        if total > 1:
            assert (status, "not joined" in file["detail"]) == (422, True), file
        elif field != b"range":  # of a range that is all of the file either may be said
            assert status == 202, file


def test_half_a_character_is_no_name(web: Web) -> None:
    status, file = post(web, one(DISPOSITION + b'filename="=?utf-7?Q?+2AA-?=.txt"') + END, FORM)
    assert status in (202, 400), file
    status, file = post(web, one(DISPOSITION + b'filename="=?utf-7?Q?+2AA-?="') + END, FORM)
    assert status in (202, 400), file
