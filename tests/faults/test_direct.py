"""kill -9 at every step of a direct upload, S3 away, clients that never return: one file, or nothing."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from tests.faults.conftest import started
from tests.faults.kit import NO_ANSWER, Kit, Strike, arm_at_commit, is_probe
from tests.kit.direct import Direct, post, put
from tests.kit.proxy import Link
from tests.kit.stack import PostgresServer, RedisServer, S3Server, wait_for

NAME = "a direct upload.bin"
SIZE = 200_000
SECONDS = 60


@pytest.fixture(params=["postgresql", "sqlite"])
def kit(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server, redis_server: RedisServer) -> Iterator[Kit]:
    """A service with direct uploads, on both databases."""
    postgres: PostgresServer | None = None
    if request.param == "postgresql":
        postgres = request.getfixturevalue("postgres")
    yield from started(Kit(tmp_path, s3, redis_server, postgres, {"DIRECT": "true"}))


class Sent:
    """A client whose bytes are all in S3."""

    def __init__(self, kit: Kit, in_parts: bool) -> None:
        self.content = random.randbytes(SIZE)
        self.direct = Direct(kit.web.url)
        begun = self.direct.begin(NAME, SIZE, multipart=in_parts)
        self.id = begun["id"]
        if in_parts:
            self.direct.send_parts(begun, self.content)
        else:
            assert put(begun["put"], self.content).ok

    def finish(self) -> None:
        """Finish, again and again until there is an answer that ends it."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            with suppress(*NO_ANSWER):
                if self.direct.finish(self.id).status_code in (201, 202):
                    return
            time.sleep(0.2)
        raise AssertionError("the upload did not come to its end")


def check(kit: Kit, *clients: Sent) -> None:
    accepted = {client.id: client.content for client in clients}
    kit.settle(accepted, SECONDS)
    result = kit.count("kill", "direct", accepted, time.monotonic())
    assert (result.lost, result.duplicated) == (0, 0), result
    kit.assert_nothing_is_left()


def restart(kit: Kit) -> None:
    for proxy in (kit.db_proxy, kit.s3_proxy):
        if proxy:
            proxy.on_request = proxy.on_response = lambda link, data: False
    kit.restart(kit.web)
    kit.web.wait()


def is_insert(data: bytes) -> bool:
    return b"INSERT INTO files" in data or NAME.encode() in data


def at(is_request: Callable[[bytes], bool]) -> Callable[[Kit, Strike], None]:
    """When S3 has answered a request of the service."""

    def arm(kit: Kit, strike: Strike) -> None:
        kit.s3_proxy.on_response = lambda link, data: (
            is_request(link.request) and not is_probe(link) and b" 20" in data[:14] and strike()
        )

    return arm


def before_row(kit: Kit, strike: Strike) -> None:
    assert kit.db_proxy
    kit.db_proxy.on_request = lambda link, data: is_insert(data) and strike()


MOMENTS: dict[str, Callable[[Kit, Strike], None]] = {
    "when S3 has completed it": at(lambda head: head.startswith(b"POST ") and b"uploadId=" in head),
    "when it was looked at": at(lambda head: head.startswith(b"HEAD ")),
    "before the file's row": before_row,
    "after the file's row": lambda kit, strike: arm_at_commit(kit, strike, is_insert),
}
STEPS = [
    (moment, in_parts) for moment in MOMENTS for in_parts in (True, False) if in_parts or "completed" not in moment
]


@pytest.mark.parametrize("kit", ["postgresql"], indirect=True)  # whose connection can be seen
@pytest.mark.parametrize(("moment", "in_parts"), STEPS)
def test_killed_at_a_step(kit: Kit, moment: str, in_parts: bool) -> None:
    client = Sent(kit, in_parts)
    strike = Strike(lambda: kit.web.signal(signal.SIGKILL))
    MOMENTS[moment](kit, strike)
    finishing = threading.Thread(target=client.finish)
    finishing.start()
    assert strike.done.wait(30), "the fault did not strike"
    restart(kit)
    finishing.join()
    check(kit, client)


def test_killed_before_the_end_and_the_client_never_returns(kit: Kit) -> None:
    form = requests.get(f"{kit.web.url}/direct/s3/params?filename=a.bin&type=", timeout=20).json()
    client = Sent(kit, in_parts=False)
    assert post(form, b"hello").ok
    kit.web.kill()
    kit.web.start()
    kit.web.wait()
    form_id = form["fields"]["key"].rpartition("/")[2]
    wait_for(lambda: {row.id for row in kit.rows()} == {client.id, form_id}, SECONDS, "both files")
    kit.settle({client.id: client.content, form_id: b"hello"})
    assert client.direct.content(form_id) == b"hello"
    check(kit, client)


@pytest.mark.parametrize("in_parts", [False, True])
def test_s3_is_away_at_the_end(kit: Kit, in_parts: bool) -> None:
    client = Sent(kit, in_parts)
    kit.s3_proxy.refuse()
    answer = client.direct.finish(client.id)
    assert (answer.status_code, answer.json()["upload_status"]) == (202, "PENDING")
    kit.web.kill()
    kit.web.start()
    kit.web.wait()
    assert client.direct.ask("GET", f"/files/{client.id}").json()["upload_status"] in ("PENDING", "PROCESSING")
    kit.s3_proxy.recover()
    check(kit, client)


def test_killed_again_and_again(kit: Kit) -> None:
    clients = [Sent(kit, in_parts=bool(number % 2)) for number in range(6)]
    threads = [threading.Thread(target=client.finish) for client in clients]
    for thread in threads:
        thread.start()
    for _ in range(5):
        time.sleep(random.uniform(0.01, 0.2))
        kit.web.kill()
        kit.web.start()
        kit.web.wait()
    for thread in threads:
        thread.join()
    check(kit, *clients)


def test_s3_breaks_the_connection_at_every_request(kit: Kit) -> None:
    """Each of the first requests of the end is cut; the next try finds what there is."""
    for nth in range(1, 5):
        client, cut = Sent(kit, in_parts=True), Strike(lambda: None, nth)

        def on_response(link: Link, data: bytes, cut: Strike = cut) -> bool:
            return not is_probe(link) and cut()

        kit.s3_proxy.on_response = on_response
        client.finish()
        kit.s3_proxy.on_response = lambda link, data: False
        kit.settle({client.id: client.content}, SECONDS)
        assert client.direct.content(client.id) == client.content
