"""Without keys, no page of another origin uses the service, by whatever name it reaches it."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import Browser

from tests.kit.browser import CHROMIUM, MISSING, not_secure
from tests.kit.stack import RedisServer, S3Server, Web

FORM = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n'
    b"Content-Type: text/plain\r\n\r\nhello\r\n--x--\r\n"
)
FORM_TYPE = "multipart/form-data; boundary=x"
READS = (
    "/",
    "/files",
    "/events",
    "/docs",
    "/openapi.json",
    "/metrics",
    "/static/page.js",
    f"/files/{'0' * 32}/content",
)
TRY_ALL = """async service => {
  const tried = { fetch: "refused", stream: "refused" };
  const form = () => { const data = new FormData(); data.append("file", new Blob(["x"]), "a.txt"); return data; };
  await fetch(`${service}/files`).then(answer => { if (answer.ok) tried.fetch = "read"; }, () => {});
  await fetch(`${service}/async_upload`, { method: "POST", body: form(), mode: "no-cors" }).catch(() => {});
  tried.stream = await new Promise(done => {
    const source = new EventSource(`${service}/events`);
    source.onopen = () => done("read");
    source.onerror = () => done("refused");
  });
  return tried;
}"""


@pytest.fixture(scope="module", params=["", "files.example,192.0.2.7"], ids=["own names", "trusted names"])
def web(
    request: pytest.FixtureRequest,
    s3: S3Server,
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("origin")
    server = Web(
        folder,
        {
            **s3.settings,
            **redis_server.settings,
            "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
            "SPOOL_DIR": str(folder / "spool"),
            "TRUSTED_HOSTS": request.param,
            "TRUSTED_PROXIES": "1",
        },
    )
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def ask(web: Web, path: str, host: str | None, method: str = "GET", **headers: str) -> int:
    """Send exactly these headers; PORT in them stands for the service's."""
    port = urlsplit(web.url).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    body = FORM if method == "POST" else b""
    sent = {"Host": host, "Content-Type": FORM_TYPE, "Content-Length": str(len(body))}
    for name, value in {**sent, **{name.replace("_", "-"): value for name, value in headers.items()}}.items():
        if value is not None:
            connection.putheader(name, value.replace("PORT", str(port)))
    connection.endheaders(body)
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize(
    "host",
    ["localhost:PORT", "LOCALHOST", "localhost.", "a.localhost:PORT", "127.0.0.1:PORT", "127.8.8.8", "[::1]:PORT"],
)
def test_this_machine_is_asked_by_its_own_names(web: Web, host: str) -> None:
    assert ask(web, "/files", host) == 200
    assert ask(web, "/async_upload", host, "POST") == 202


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:PORT",
        "localhost.evil.example",
        "evillocalhost",
        "127.0.0.1.evil.example",
        "192.0.2.1",
        "0.0.0.0",
        "[2001:db8::1]:PORT",
        "localhost@evil.example",
        "evil.example@localhost",
        "localhost,evil.example",
        "",
    ],
)
def test_a_host_that_is_not_ours_is_refused(web: Web, host: str) -> None:
    refused = (400, 403)  # gunicorn itself refuses some
    assert ask(web, "/async_upload", host, "POST", Sec_Fetch_Site="same-origin") in refused
    assert ask(web, "/files", host, Sec_Fetch_Site="same-origin", X_Forwarded_Host="localhost") in refused


@pytest.mark.parametrize("path", READS)
def test_a_host_that_is_not_ours_reads_nothing(web: Web, path: str) -> None:
    assert ask(web, path, "evil.example:PORT", Sec_Fetch_Site="same-origin") == 403


def test_probes_ask_by_any_address(web: Web) -> None:
    assert ask(web, "/healthz", "10.1.2.3:PORT") == 200
    assert ask(web, "/readyz", "10.1.2.3:PORT") == 200


def test_trusted_hosts_are_answered(web: Web) -> None:
    expected = 200 if web.env["TRUSTED_HOSTS"] else 403
    for host in ("files.example", "Files.Example:PORT", "192.0.2.7:PORT"):
        assert ask(web, "/files", host) == expected, host
    assert ask(web, "/files", "other.files.example") == 403


@pytest.mark.parametrize(("trusted", "expected"), [("", 401), ("files.example", 403)])
def test_with_keys_a_strange_host_is_refused_only_if_hosts_are_named(
    s3: S3Server, redis_server: RedisServer, tmp_path: Path, trusted: str, expected: int
) -> None:
    database = f"sqlite:///{tmp_path / 'files.db'}"
    env = {"SQLALCHEMY_DATABASE_URI": database, "SPOOL_DIR": str(tmp_path / "spool"), "AUTH": "required"}
    server = Web(tmp_path, {**s3.settings, **redis_server.settings, **env, "TRUSTED_HOSTS": trusted})
    server.start()
    try:
        server.wait()
        assert ask(server, "/files", "evil.example") == expected
        assert ask(server, "/files", "files.example") == 401
        assert ask(server, "/healthz", "evil.example") == 200
    finally:
        server.stop()


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "",
        "http://localhost:1",
        "http://localhost",
        "https://localhost.evil.example:PORT",
    ],
)
def test_a_page_of_another_origin_is_refused_without_fetch_metadata(web: Web, origin: str) -> None:
    assert ask(web, "/async_upload", "localhost:PORT", "POST", Origin=origin) == 403
    assert ask(web, "/files", "localhost:PORT", Origin=origin) == 403
    assert ask(web, "/events", "localhost:PORT", Origin=origin) == 403


def test_the_own_page_is_served(web: Web) -> None:
    assert ask(web, "/async_upload", "localhost:PORT", "POST", Origin="http://localhost:PORT") == 202
    own = {"Origin": "http://localhost:PORT", "Sec_Fetch_Site": "same-origin"}
    assert ask(web, "/async_upload", "localhost:PORT", "POST", **own) == 202


class AnyPage(http.server.BaseHTTPRequestHandler):
    """A page with nothing but a form."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<form method=post enctype=multipart/form-data></form>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def strange_page() -> Iterator[str]:
    """The address of a page on another port, so of another origin."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), AnyPage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def ids(web: Web) -> list[str]:
    """The ids of the newest files; what an earlier test has sent may still be on its way."""
    return [file["id"] for file in requests.get(f"{web.url}/files", timeout=20).json()["files"]]


@pytest.mark.skipif(not CHROMIUM, reason=MISSING)
def test_a_page_of_another_origin_in_a_browser_gets_nothing(web: Web, browser: Browser, strange_page: str) -> None:
    """By this machine's name, and by a name that resolves to it, where Chromium sends no fetch metadata."""
    page = browser.new_page()
    before = ids(web)
    for address in (strange_page, not_secure(strange_page)):
        for service in (web.url, not_secure(web.url)):
            page.goto(address)
            assert page.evaluate(TRY_ALL, service) == {"fetch": "refused", "stream": "refused"}
            with page.expect_navigation() as navigation:
                page.evaluate(f"document.forms[0].action='{service}/async_upload'; document.forms[0].submit()")
            assert navigation.value.status == 403
    page.close()
    assert ids(web) == before
