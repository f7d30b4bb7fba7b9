"""Downloads by clients that we did not write: names, ranges, preconditions, HEAD; through gunicorn and by link."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import Browser

from tests.kit.browser import CHROMIUM, MISSING
from tests.kit.downloads import ask, named
from tests.kit.stack import RedisServer, S3Server, Web
from web.disposition import disposition

TEN = b"0123456789"
LONG = "\u5831" * 83 + ".txt"  # 253 bytes
NAMES = [
    "report.pdf",
    "two words.txt",
    "\u5831\u544a\u66f8.txt",
    "r\u00e9sum\u00e9.txt",
    unicodedata.normalize("NFD", "r\u00e9sum\u00e9.txt"),
    "caf\u00e9 menu.txt",
    "\u043e\u0442\u0447\u0451\u0442.txt",
    "\u0130stanbul.txt",
    "\uff46\uff55\uff4c\uff4c.txt",
    "\u2013\u2019\u2026.txt",
    "\U0001f469\u200d\U0001f4bb party.txt",
    "Screenshot 9.41\u202fAM.txt",
    "50%20off.txt",
    "100%.txt",
    "it's; a=b, (c).txt",
    'a "quoted" name.txt',
    "private \ue000 unassigned \u0378.txt",
    "\u05e9\u05dc\u05d5\u05dd\u200f.txt",
    LONG,
    "x" * 251 + ".txt",
]
FETCH_HEAD = """
const answer = await fetch(process.argv[1], { method: "HEAD" });
console.log(JSON.stringify([answer.status, Object.fromEntries(answer.headers)]));
"""
REORDERING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

in_browser = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("downloads")
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


@pytest.fixture(scope="module")
def ten(web: Web) -> str:
    """The address of a content of ten bytes."""
    return send(web, "ten.bin", TEN)


@pytest.fixture(scope="module")
def empty(web: Web) -> str:
    return send(web, "empty.bin", b"")


def send(web: Web, name: str, content: bytes, content_type: str = "application/octet-stream") -> str:
    """Upload as a browser does, which writes a quotation mark as %22; the answer is the content's address."""
    head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name.replace(chr(34), "%22")}"\r\n'
    body = f"{head}Content-Type: {content_type}\r\n\r\n".encode() + content + b"\r\n--b--\r\n"
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = requests.post(f"{web.url}/normal_upload", data=body, headers=form, timeout=20)
    assert answer.status_code == 201, answer.text
    assert answer.json()["name"] == name
    return f"{web.url}/files/{answer.json()['id']}/content"


def run(*command: str, cwd: Path | None = None) -> str:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=True).stdout


# --- names


def test_a_name_that_is_not_latin_1_is_encoded() -> None:
    expected = "attachment; filename=\"___.txt\"; filename*=UTF-8''%E5%A0%B1%E5%91%8A%E6%9B%B8.txt"
    assert disposition("attachment", "\u5831\u544a\u66f8.txt") == expected


@pytest.mark.parametrize(
    ("name", "fallback", "whole"),
    [
        ("report.pdf", "report.pdf", None),
        (".env.txt", ".env.txt", None),
        ("two words.txt", '"two words.txt"', None),
        (" a.txt ", '" a.txt "', "%20a.txt%20"),
        ("50%20off.txt", '"50_20off.txt"', "50%2520off.txt"),
        ('a"b\\c.txt', '"a_b_c.txt"', "a%22b%5Cc.txt"),
        ("../../etc/passwd.txt", '".._.._etc_passwd.txt"', ".._.._etc_passwd.txt"),
        ("a\r\nSet-Cookie: b.txt", '"a__Set-Cookie: b.txt"', "a__Set-Cookie%3A%20b.txt"),
        ("\x00\x1b[2J\x7f\x85.txt", '"__[2J__.txt"', "__%5B2J__.txt"),
        ("exe\u202egpj.txt", '"exe_gpj.txt"', "exe_gpj.txt"),
        ("\ud83d.txt", '"_.txt"', "_.txt"),
        ("\ue000\u0378\uffff.txt", '"___.txt"', "%EE%80%80%CD%B8%EF%BF%BF.txt"),
    ],
)
def test_what_a_header_says_of_a_name(name: str, fallback: str, whole: str | None) -> None:
    extended = f"; filename*=UTF-8''{whole}" if whole else ""
    assert disposition("attachment", name) == f"attachment; filename={fallback}{extended}"


def test_every_character_can_be_in_a_name() -> None:
    for first in range(0, sys.maxunicode, 64):
        letters = [chr(number) for number in range(first, first + 64)]
        name = named(disposition("attachment", "".join(letters)))
        assert [*name] == ["_" if is_unsafe(letter) else letter for letter in letters]


def is_unsafe(letter: str) -> bool:
    return letter in f"/{REORDERING}" or unicodedata.category(letter) in ("Cc", "Cs")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_comes_back_as_it_was_sent(web: Web, name: str) -> None:
    url = send(web, name, TEN)
    proxied, redirected = ask(f"{url}?proxy=1"), ask(url)
    assert (proxied.status, proxied.body) == (200, TEN)
    assert named(proxied.headers["Content-Disposition"]) == name
    assert (
        ask(f"{url}?proxy=1", method="HEAD").headers["Content-Disposition"]
        == proxied.headers["Content-Disposition"]
    )
    assert redirected.status == 302
    assert redirected.headers["Location"].isascii()
    assert len(redirected.headers["Location"]) < 4096
    linked = ask(redirected.headers["Location"])
    assert (linked.status, linked.body) == (200, TEN)
    assert linked.headers["Content-Disposition"] == proxied.headers["Content-Disposition"]


@in_browser
def test_chromium_saves_downloads_under_their_names(web: Web, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(f"{web.url}/docs")
    for name in [*NAMES, "\u202egpj.txt"]:
        url = send(web, name, TEN)
        for address in (url, f"{url}?proxy=1"):
            with page.expect_download() as download:
                page.evaluate("url => { location.href = url }", address)
            assert download.value.suggested_filename == saved(name)
            assert download.value.path().read_bytes() == TEN
    page.close()


def saved(name: str) -> str:
    """A name as Chromium saves it whoever sends it: in NFC, without format characters and quotation marks."""
    letters = unicodedata.normalize("NFC", name)
    return "".join("_" if one == '"' or unicodedata.category(one) == "Cf" else one for one in letters)


def test_curl_and_wget_save_a_download_under_a_name(web: Web, tmp_path: Path) -> None:
    url = send(web, "\u5831\u544a\u66f8.txt", TEN)
    run("curl", "-sSfOJL", url, cwd=tmp_path)
    assert (tmp_path / "___.txt").read_bytes() == TEN  # curl reads `filename` only
    (tmp_path / "___.txt").unlink()
    run("wget", "-q", "--content-disposition", "--restrict-file-names=nocontrol", url, cwd=tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [TEN]


# --- ranges and preconditions


def row(url: str) -> str:
    return urlsplit(url).path.split("/")[2]


RANGES = [
    ("bytes=0-3", 206, b"0123"),
    ("bytes=3-", 206, b"3456789"),
    ("bytes=9-9", 206, b"9"),
    ("bytes=9-99999999999999999999999999", 206, b"9"),
    ("bytes=0-" + "9" * 5000, 206, TEN),
    ("bytes=-3", 206, b"789"),
    ("bytes=-10", 206, TEN),
    ("bytes=-11", 206, TEN),
    ("bytes=-" + "9" * 5000, 206, TEN),
    ("Bytes=0-3", 206, b"0123"),
    ("bytes= 0-3 ", 206, b"0123"),
    ("bytes=0-3,", 206, b"0123"),
    ("bytes=0000000000000000000000000-3", 206, b"0123"),
    ("bytes=10-", 416, b""),
    ("bytes=" + "9" * 5000 + "-", 416, b""),
    ("bytes=-0", 416, b""),
    ("bytes=10-,50-60", 416, b""),
    ("bytes=0-1,3-4", 200, TEN),
    ("bytes=0-5,3-7", 200, TEN),
    ("bytes=0-1,50-", 200, TEN),
    ("bytes=", 200, TEN),
    ("bytes=-", 200, TEN),
    ("bytes=5-2", 200, TEN),
    ("bytes=0-3,x", 200, TEN),
    ("bytes=0-3-5", 200, TEN),
    ("bytes=0x1-3", 200, TEN),
    ("bytes=\u0661-3".encode().decode("latin-1"), 200, TEN),
    ("bytes 0-3", 200, TEN),
    ("lines=0-3", 200, TEN),
    ("", 200, TEN),
]


@pytest.mark.parametrize(("asked", "status", "body"), RANGES, ids=[asked[:24] for asked, *_ in RANGES])
def test_a_range(ten: str, asked: str, status: int, body: bytes) -> None:
    got = ask(f"{ten}?proxy=1", {"Range": asked})
    assert got.status == status
    if status == 416:
        assert got.headers["Content-Type"] == "application/problem+json"
        assert got.headers["Content-Range"] == "bytes */10"
        return
    assert got.body == body
    assert got.headers["Content-Length"] == str(len(body))
    start = TEN.find(body)
    assert got.headers.get("Content-Range") == (
        f"bytes {start}-{start + len(body) - 1}/10" if status == 206 else None
    )


@pytest.mark.parametrize(
    ("asked", "status"), [("bytes=0-", 416), ("bytes=0-0", 416), ("bytes=-0", 416), ("bytes=-5", 200), ("", 200)]
)
def test_a_range_of_nothing(empty: str, asked: str, status: int) -> None:
    got = ask(f"{empty}?proxy=1", {"Range": asked})
    assert got.status == status
    if status == 200:
        assert (got.body, got.headers["Content-Length"]) == (b"", "0")
    else:
        assert got.headers["Content-Range"] == "bytes */0"


PAST, FUTURE = "Mon, 01 Jan 2024 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": "*"}, 200),
        ({"If-Match": "{etag}"}, 200),
        ({"If-Match": '"other", {etag}'}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": "W/{etag}"}, 412),
        ({"If-Match": '"other"', "Range": "bytes=50-"}, 412),
        ({"If-Match": '"other"', "If-None-Match": "{etag}"}, 412),
        ({"If-Match": "{etag}", "If-None-Match": "{etag}"}, 304),
        ({"If-Match": "{etag}", "If-Unmodified-Since": PAST}, 200),
        ({"If-Unmodified-Since": PAST}, 412),
        ({"If-Unmodified-Since": PAST, "If-None-Match": "{etag}"}, 412),
        ({"If-Unmodified-Since": "{modified}"}, 200),
        ({"If-Unmodified-Since": FUTURE}, 200),
        ({"If-Unmodified-Since": "yesterday"}, 200),
        ({"If-None-Match": "{etag}"}, 304),
        ({"If-None-Match": "W/{etag}"}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-None-Match": "{etag}", "Range": "bytes=50-"}, 304),
        ({"If-None-Match": '"other"', "If-Modified-Since": FUTURE}, 200),
        ({"If-Modified-Since": "{modified}"}, 304),
        ({"If-Modified-Since": PAST}, 200),
        ({"If-Modified-Since": "yesterday"}, 200),
        ({"If-Modified-Since": "{modified}", "Range": "bytes=50-"}, 304),
    ],
)
def test_a_precondition(ten: str, headers: dict[str, str], status: int, method: str) -> None:
    modified = ask(f"{ten}?proxy=1").headers["Last-Modified"]
    asked = {name: value.format(etag=f'"{row(ten)}"', modified=modified) for name, value in headers.items()}
    got = ask(f"{ten}?proxy=1", asked, method)
    assert got.status == status
    if method == "HEAD" or status == 304:
        assert got.body == b""
    elif status == 412:
        assert got.headers["Content-Type"] == "application/problem+json"
        assert json.loads(got.body)["status"] == 412
    else:
        assert got.body == TEN
    if status != 412:
        assert got.headers["ETag"] == f'"{row(ten)}"'


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("{etag}", 206),
        ("{modified}", 206),
        ("W/{etag}", 200),
        ('"other"', 200),
        (PAST, 200),
        (FUTURE, 200),
        ("nonsense", 200),
    ],
)
def test_a_range_of_bytes_that_may_have_changed(ten: str, condition: str, status: int) -> None:
    modified = ask(f"{ten}?proxy=1").headers["Last-Modified"]
    named = condition.format(etag=f'"{row(ten)}"', modified=modified)
    got = ask(f"{ten}?proxy=1", {"Range": "bytes=0-3", "If-Range": named})
    assert (got.status, got.body) == (status, b"0123" if status == 206 else TEN)
    if status == 200:  # and then a range that cannot be is not asked for either
        assert ask(f"{ten}?proxy=1", {"Range": "bytes=50-", "If-Range": named}).status == 200


@pytest.mark.parametrize("tool", ["curl", "wget"])
@pytest.mark.parametrize("query", ["", "?proxy=1"])
def test_a_download_is_resumed(web: Web, tmp_path: Path, tool: str, query: str) -> None:
    content = bytes(range(256)) * 2000
    url = send(web, "large.bin", content) + query
    (half := tmp_path / "half.bin").write_bytes(content[:200_000])
    resume = {"curl": ("curl", "-sSfL", "-C", "-", "-o"), "wget": ("wget", "-q", "-c", "-O")}[tool]
    run(*resume, str(half), url)
    assert half.read_bytes() == content


# --- HEAD


@pytest.mark.parametrize("query", ["", "?proxy=1"])
@pytest.mark.parametrize("asked", [None, "bytes=0-1", "bytes=50-", "bytes=-11"])
def test_head_tells_of_the_whole_file(ten: str, query: str, asked: str | None) -> None:
    got = ask(f"{ten}{query}", {"Range": asked} if asked else None, "HEAD")
    assert (got.status, got.body) == (200, b"")
    assert got.headers["Content-Length"] == "10"
    assert got.headers["Content-Type"] == "application/octet-stream"
    assert got.headers["Accept-Ranges"] == "bytes"
    assert "Content-Range" not in got.headers
    assert named(got.headers["Content-Disposition"]) == "ten.bin"


def test_head_of_a_content_that_is_not_there(web: Web) -> None:
    assert ask(f"{web.url}/files/{'0' * 32}/content", method="HEAD").status == 404


@pytest.mark.parametrize("query", ["", "?proxy=1"])
def test_link_checkers_find_the_content(ten: str, query: str) -> None:
    url = ten + query
    assert run("curl", "-sSIL", url).startswith("HTTP/1.1 200")
    run("wget", "-q", "--spider", url)
    assert requests.head(url, allow_redirects=True, timeout=20).headers["Content-Length"] == "10"


@pytest.mark.skipif(shutil.which("node") is None, reason="NODE IS NOT INSTALLED: apt-get install nodejs")
@pytest.mark.parametrize("query", ["", "?proxy=1"])
def test_fetch_reads_the_head(web: Web, query: str) -> None:
    url = send(web, "\u5831\u544a\u66f8.txt", TEN) + query
    status, headers = json.loads(run("node", "--input-type=module", "-e", FETCH_HEAD, url))
    assert (status, headers["content-length"]) == (200, "10")
    assert named(headers["content-disposition"]) == "\u5831\u544a\u66f8.txt"
