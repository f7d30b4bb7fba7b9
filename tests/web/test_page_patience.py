"""The page before a service that is full, limited or silent: it waits as it is told, and goes on by itself."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from uuid import uuid4

import pytest
import requests
from playwright.sync_api import Browser, Request, expect

from access.keys import create_key
from app import create_app
from core.database import db
from tests.kit.browser import CHROMIUM, MISSING, Visit, visiting
from tests.kit.proxy import Link, Proxy, nothing
from tests.kit.stack import RedisServer, S3Server, Web, wait_for

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)

REQUESTS_PER_MINUTE = 60
IN_FLIGHT = 3
BUSY_SECONDS = 5  # of Retry-After
SPOOL_BYTES = 1_000_000
COUNTED_MS = 600  # the service counts what is in its spool every half second
SILENCE_MS = 45_000
HEALED_MS = 30_000


@pytest.fixture(scope="module")
def web(
    s3: S3Server, s3_link: Proxy, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    """A service that takes little."""
    folder = tmp_path_factory.mktemp("limited")
    settings = {
        **s3.settings,
        **redis_server.settings,
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{s3_link.port}",
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
        "SPOOL_MAX_BYTES": str(SPOOL_BYTES),
        "AUTH": "required",
        "KEY_REQUESTS_PER_MINUTE": str(REQUESTS_PER_MINUTE),
        "KEY_FILES_IN_FLIGHT": str(IN_FLIGHT),
    }
    server = Web(folder, settings)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        assert server.stop() == 0


@pytest.fixture
def owner() -> str:
    return f"reader-{uuid4().hex}"


@pytest.fixture
def key(web: Web, owner: str) -> str:
    """The key of an owner who has used up nothing yet."""
    app = create_app(web.env)
    with app.app_context():
        made = create_key(owner)
        db.engine.dispose()
    return made


@pytest.fixture
def visit(browser: Browser, web: Web, key: str) -> Iterator[Visit]:
    with visiting(browser, web.url) as visit:
        enter(visit, key)
        yield visit


def enter(visit: Visit, key: str) -> None:
    visit.page.goto(visit.url)
    visit.enter_key(key)
    expect(visit.page.get_by_text("Nothing here yet.")).to_be_visible()
    visit.expect("401")


def send_elsewhere(web: Web, key: str, name: str) -> str:
    """Send a file past the page, and wait until it is in S3."""
    bearer = {"Authorization": f"Bearer {key}"}
    files = {"file": (name, b"x")}
    answer = requests.post(f"{web.url}/normal_upload", files=files, headers=bearer, timeout=20)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def upload_times(visit: Visit) -> list[float]:
    """When the page sends a file, from now on."""
    times: list[float] = []

    def note(request: Request) -> None:
        if request.method == "POST":
            times.append(time.monotonic())

    visit.page.on("request", note)
    return times


@pytest.mark.parametrize(
    ("sizes", "status", "reason"),
    [
        ([10] * IN_FLIGHT, 429, f"Quota exceeded: {IN_FLIGHT} files in flight."),
        ([SPOOL_BYTES - 100_000], 503, "The spool is full; try again later."),
    ],
)
def test_a_full_service_is_given_the_time_it_asks_for(
    visit: Visit, s3_link: Proxy, sizes: list[int], status: int, reason: str
) -> None:
    s3_link.refuse()
    try:
        visit.drop([(f"early-{number}.bin", size) for number, size in enumerate(sizes)])
        for number in range(len(sizes)):
            expect(visit.card(f"early-{number}.bin")).to_contain_text("tried again")
        visit.page.wait_for_timeout(COUNTED_MS)
        times = upload_times(visit)
        visit.drop([("late.bin", 500_000)])
        late = visit.card("late.bin")
        expect(late.locator(".status")).to_have_text("Waiting")
        expect(late.locator(".detail")).to_have_text(re.compile(rf"^{reason} Sending it again in [45]\ss\.$"))
    finally:
        s3_link.recover()
    expect(late.locator(".status")).to_have_text("Complete", timeout=HEALED_MS)
    assert all(later - earlier > BUSY_SECONDS - 1 for earlier, later in pairwise(times))
    assert len(times) > 1
    visit.expect(str(status))


def test_a_waiting_file_can_be_taken_back_and_is_not_sent(visit: Visit, s3_link: Proxy) -> None:
    s3_link.refuse()
    try:
        visit.drop([("large.bin", SPOOL_BYTES - 100_000)])
        expect(visit.card("large.bin")).to_contain_text("tried again")
        visit.page.wait_for_timeout(COUNTED_MS)
        visit.drop([("late.bin", 500_000)])
        expect(visit.card("late.bin").locator(".status")).to_have_text("Waiting")
        times = upload_times(visit)
        visit.card("late.bin").get_by_role("button", name="Cancel late.bin").click()
        expect(visit.card("late.bin")).to_have_count(0)
    finally:
        s3_link.recover()
    expect(visit.card("large.bin").locator(".status")).to_have_text("Complete", timeout=HEALED_MS)
    visit.page.wait_for_timeout(BUSY_SECONDS * 1000)
    assert times == []
    visit.expect("503")


def test_a_reader_who_asked_too_much_waits_for_the_next_minute(
    browser: Browser, web: Web, redis_server: RedisServer, key: str, owner: str
) -> None:
    with visiting(browser, web.url) as visit:
        visit.page.clock.install()
        enter(visit, key)
        send_elsewhere(web, key, "listed.bin")
        expect(visit.row("listed.bin").locator(".status")).to_have_text("Complete")
        use_up(web, key)
        visit.page.get_by_role("searchbox", name="Name").fill("list")
        expect(visit.page.locator("#recent-note")).to_have_text(
            f"Rate limit exceeded: {REQUESTS_PER_MINUTE} requests per minute."
        )
        visit.drop([("limited.bin", 10)])
        card = visit.card("limited.bin")
        expect(card.locator(".detail")).to_have_text(
            re.compile(rf"^Rate limit exceeded: {REQUESTS_PER_MINUTE} [a-z ]+\. Sending it again in \d+\ss\.$")
        )
        next_minute(redis_server, owner)
        visit.page.clock.fast_forward(60_000)
        expect(card.locator(".status")).to_have_text("Complete")
        expect(visit.page.locator("#recent-note")).to_be_hidden()
        expect(visit.row("limited.bin")).to_have_count(0)
        expect(visit.row("listed.bin")).to_be_visible()
        visit.expect("429")


def use_up(web: Web, key: str) -> None:
    """Ask until the key's owner may ask no more in this minute, which is not nearly over."""
    wait_for(lambda: time.time() % 60 < 45)
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {key}"
        wait_for(lambda: session.get(f"{web.url}/files?limit=1", timeout=20).status_code == 429)


def next_minute(redis_server: RedisServer, owner: str) -> None:
    """Let the service's minute be over, for its counters are of whole minutes."""
    with redis_server.client as redis:
        for name in redis.scan_iter(f"*ferryman:requests:{owner}:*"):
            redis.delete(name)


class SilentEvents(Proxy):
    """Passes everything on, but lets the events fall silent while nobody notices a broken connection."""

    def __init__(self, upstream: int) -> None:
        super().__init__(upstream)
        self.asked: list[bytes] = []
        self._over = threading.Event()
        self.on_request = self._note

    def fall_silent(self) -> None:
        self.on_response = self._hold

    def speak_again(self) -> None:
        """Let new connections be whole; those that fell silent stay so."""
        self.on_response = nothing

    def close(self) -> None:
        self._over.set()
        super().close()

    def _note(self, link: Link, data: bytes) -> bool:
        if data.startswith(b"GET /events "):
            self.asked.append(data)
        return False

    def _hold(self, link: Link, data: bytes) -> bool:
        return link.request.startswith(b"GET /events ") and self._over.wait()


@pytest.fixture
def way(web: Web) -> Iterator[SilentEvents]:
    """The way between the browser and the service."""
    proxy = SilentEvents(int(web.url.rpartition(":")[2]))
    yield proxy
    proxy.close()


@pytest.mark.parametrize("answered", [True, False], ids=["in its middle", "before its answer"])
def test_a_silent_stream_is_noticed_and_taken_up_again(
    browser: Browser, web: Web, way: SilentEvents, key: str, answered: bool
) -> None:
    with visiting(browser, f"http://127.0.0.1:{way.port}") as visit:
        visit.page.clock.install()
        live = visit.page.get_by_text("Live", exact=True)
        if not answered:
            way.fall_silent()
        enter(visit, key)
        if answered:
            expect(live).to_be_visible()
            send_elsewhere(web, key, "heard.bin")
            expect(visit.row("heard.bin").locator(".status")).to_have_text("Complete")
            way.fall_silent()
        send_elsewhere(web, key, "missed.bin")
        visit.page.wait_for_timeout(2000)
        expect(visit.row("missed.bin")).to_have_count(0)
        asked = len(way.asked)
        way.speak_again()
        visit.page.clock.fast_forward(SILENCE_MS)
        expect(visit.row("missed.bin").locator(".status")).to_have_text("Complete")
        expect(live).to_be_visible()
        assert len(way.asked) == asked + 1
        assert (b"last-event-id:" in way.asked[-1].lower()) is answered
        send_elsewhere(web, key, "live.bin")
        expect(visit.row("live.bin").locator(".status")).to_have_text("Complete")


def test_a_lost_connection_is_told_until_it_is_back(
    browser: Browser, web: Web, way: SilentEvents, key: str
) -> None:
    with visiting(browser, f"http://127.0.0.1:{way.port}") as visit:
        enter(visit, key)
        live = visit.page.get_by_text("Live", exact=True)
        lost = visit.page.get_by_text("Disconnected. Reconnecting…")
        expect(live).to_be_visible()
        expect(lost).to_be_hidden()
        way.refuse()
        expect(lost).to_be_visible()
        expect(live).to_be_hidden()
        way.recover()
        expect(live).to_be_visible()
        expect(lost).to_be_hidden()
        visit.complaints.clear()  # how a browser words it depends on the moment of the cut


def test_a_stream_that_says_that_it_lives_is_kept(browser: Browser, web: Web, way: SilentEvents, key: str) -> None:
    with visiting(browser, f"http://127.0.0.1:{way.port}") as visit:
        visit.page.clock.install()
        enter(visit, key)
        expect(visit.page.get_by_text("Live", exact=True)).to_be_visible()
        for number in range(3):
            visit.page.clock.fast_forward(SILENCE_MS * 2 // 3)
            send_elsewhere(web, key, f"word-{number}.bin")
            expect(visit.row(f"word-{number}.bin").locator(".status")).to_have_text("Complete")
        assert len(way.asked) == 2  # without a key, and with it
