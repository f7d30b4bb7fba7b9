"""Whatever dies while derivatives are made, and whenever: each is there once, or in ERROR with a reason."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.faults.conftest import started
from tests.faults.kit import Kit, Strike, arm_at_commit, is_probe
from tests.kit import made as made_kit
from tests.kit.bucket import keys_of
from tests.kit.lanes import FILES
from tests.kit.made import PHOTO, by_preset, made, upload
from tests.kit.proxy import Link
from tests.kit.stack import BUCKET, PostgresServer, RedisServer, S3Server, wait_for

TABLE = FILES / "duckdb--issue_811.csv"
OUTPUTS = {"thumb variant", "small variant"}

Arm = Callable[[Kit, Strike], None]


@pytest.fixture
def kit(tmp_path: Path, s3: S3Server, redis_server: RedisServer, postgres: PostgresServer) -> Iterator[Kit]:
    """A service with presets on PostgreSQL."""
    yield from started(Kit(tmp_path, s3, redis_server, postgres, made_kit.presets(tmp_path)))


def at_the_making(kit: Kit, strike: Strike) -> None:
    """The row is claimed, the child works: its scratch folder is there."""

    def look() -> bool:
        return any((kit.spool / "work").glob("*/out")) and strike()

    assert kit.db_proxy
    wait_for(lambda: look() or strike.done.is_set(), 20, "work")


def is_made(data: bytes) -> bool:
    return b"UPDATE files" in data and b"made_at" in data and b"summary" in data


def before_it_is_recorded(kit: Kit, strike: Strike) -> None:
    """The bytes are in the spool, the row does not know."""
    assert kit.db_proxy
    kit.db_proxy.on_request = lambda link, data: is_made(data) and strike()


def when_it_is_recorded(kit: Kit, strike: Strike) -> None:
    """The row is committed, nothing is on its way to S3."""
    arm_at_commit(kit, strike, is_made)


def is_derived(link: Link) -> bool:
    wanted = b"derived/" in link.request or b"lake/" in link.request
    return link.request.startswith(b"PUT ") and wanted and not is_probe(link)


def at_the_put(kit: Kit, strike: Strike) -> None:
    """The request is on its way to S3."""
    kit.s3_proxy.on_request = lambda link, data: is_derived(link) and strike()


def when_s3_has_it(kit: Kit, strike: Strike) -> None:
    """S3 has the object, the row does not know."""
    kit.s3_proxy.on_response = lambda link, data: is_derived(link) and b" 200 OK" in data[:20] and strike()


MOMENTS: dict[str, Arm] = {
    "before it is recorded": before_it_is_recorded,
    "when it is recorded": when_it_is_recorded,
    "at the put": at_the_put,
    "when S3 has it": when_s3_has_it,
}


def calm(kit: Kit) -> None:
    for proxy in (kit.db_proxy, kit.s3_proxy):
        if proxy:
            proxy.on_request = proxy.on_response = lambda link, data: False


def check(kit: Kit, file_id: str, source: Path, outputs: set[str]) -> None:
    """All is there once, the original is untouched, and nothing else is left."""
    file = made(kit.web, file_id, 90)
    assert set(by_preset(file)) == outputs
    assert {one["upload_status"] for one in file["derivatives"]} == {"COMPLETE"}
    held = keys_of(kit.s3_client, BUCKET, kit.prefix)
    assert sorted(held) == sorted([file["key"], *(one["key"] for one in file["derivatives"])])
    assert kit.s3_client.get_object(Bucket=BUCKET, Key=file["key"])["Body"].read() == source.read_bytes()
    for one in file["derivatives"]:
        found = requests.get(f"{kit.web.url}/files/{one['id']}/content?proxy=1", timeout=20)
        assert len(found.content) == one["size"] > 0
    kit.assert_nothing_is_left()
    wait_for(lambda: not list((kit.spool / "work").glob("*.*")), 40, "empty work folder")


def strike_the_web(kit: Kit, arm: Arm, source: Path, *wanted: str) -> str:
    strike = Strike(lambda: kit.web.signal(signal.SIGKILL))
    if arm is not at_the_making:
        arm(kit, strike)
    file_id: str = upload(kit.web, "async", source, *wanted).json()["id"]
    if arm is at_the_making:
        arm(kit, strike)
    assert strike.done.wait(20), "the fault did not strike"
    calm(kit)
    kit.restart(kit.web)
    kit.web.wait()
    return file_id


@pytest.mark.parametrize("moment", ["when it is recorded"])
def test_a_quick_choice(kit: Kit, moment: str) -> None:
    check(kit, strike_the_web(kit, MOMENTS[moment], PHOTO, "thumb", "small"), PHOTO, OUTPUTS)


@pytest.mark.faults
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_web_killed_while_images_are_made(kit: Kit, moment: str) -> None:
    check(kit, strike_the_web(kit, MOMENTS[moment], PHOTO, "thumb", "small"), PHOTO, OUTPUTS)


@pytest.mark.faults
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_web_killed_while_a_table_is_made(kit: Kit, moment: str) -> None:
    outputs = {"orders part", "orders report"}
    check(kit, strike_the_web(kit, MOMENTS[moment], TABLE, "orders"), TABLE, outputs)


@pytest.mark.faults
def test_the_web_killed_while_the_child_works(kit: Kit, tmp_path: Path) -> None:
    rows = "".join(f"{number},{number * 7},text {number}\n" for number in range(400_000))
    source = tmp_path / "long.csv"
    source.write_text(f"a,b,c\n{rows}")
    file_id = strike_the_web(kit, at_the_making, source, "orders")
    time.sleep(1)
    working = [one for one in psutil.process_iter(["cmdline"]) if "sandbox/child.py" in str(one.info["cmdline"])]
    assert len(working) <= 1  # that of the service as it is now
    check(kit, file_id, source, {"orders part", "orders report"})


@pytest.mark.faults
def test_the_child_killed_is_made_again(kit: Kit, tmp_path: Path) -> None:
    rows = "".join(f"{number},text {number}\n" for number in range(400_000))
    source = tmp_path / "long.csv"
    source.write_text(f"a,b\n{rows}")
    file_id = upload(kit.web, "async", source, "orders").json()["id"]

    def kill() -> bool:
        working = [
            one for one in psutil.Process(kit.web.pid).children(recursive=True) if "child.py" in str(one.cmdline())
        ]
        for one in working:
            one.kill()
        return bool(working)

    wait_for(kill, 20, "child")
    check(kit, file_id, source, {"orders part", "orders report"})


@pytest.mark.faults
def test_deleted_while_it_is_made(kit: Kit, tmp_path: Path) -> None:
    rows = "".join(f"{number},text {number}\n" for number in range(400_000))
    source = tmp_path / "long.csv"
    source.write_text(f"a,b\n{rows}")
    file_id = upload(kit.web, "async", source, "orders").json()["id"]
    wait_for(lambda: any((kit.spool / "work").glob("*/out")), 20, "work")
    assert requests.delete(f"{kit.web.url}/files/{file_id}", timeout=20).status_code == 204
    wait_for(lambda: not kit.rows(), 60, "removal of all rows")
    assert not keys_of(kit.s3_client, BUCKET, kit.prefix)
    wait_for(lambda: not list((kit.spool / "work").glob("*.*")), 40, "empty work folder")


@pytest.mark.faults
def test_without_a_broker_they_are_made_all_the_same(kit: Kit) -> None:
    kit.redis_proxy.refuse()
    try:
        file_id = upload(kit.web, "celery", PHOTO, "thumb", "small").json()["id"]
        check(kit, file_id, PHOTO, OUTPUTS)
    finally:
        kit.redis_proxy.recover()


@pytest.mark.faults
def test_two_processes_with_two_slots_make_each_once(
    tmp_path: Path, s3: S3Server, redis_server: RedisServer, postgres: PostgresServer
) -> None:
    service = Kit(tmp_path, s3, redis_server, postgres, made_kit.presets(tmp_path) | {"PROCESS_SLOTS": "2"})
    service.web.env["WEB_CONCURRENCY"] = "2"
    for kit in started(service):
        ids = [upload(kit.web, "async", PHOTO, "thumb", "small").json()["id"] for _ in range(6)]
        files = [made(kit.web, file_id, 60) for file_id in ids]
        keys = [key for file in files for key in (file["key"], *(one["key"] for one in file["derivatives"]))]
        assert sorted(keys_of(kit.s3_client, BUCKET, kit.prefix)) == sorted(keys)
        assert len(keys) == 18


@pytest.mark.faults
def test_a_child_beyond_its_memory_ends_in_a_clear_error(
    tmp_path: Path, s3: S3Server, redis_server: RedisServer, postgres: PostgresServer
) -> None:
    more = made_kit.presets(tmp_path) | {"PROCESS_MEMORY_BYTES": str(256 * 1024 * 1024)}
    service = Kit(tmp_path, s3, redis_server, postgres, more)
    source = tmp_path / "long.csv"
    source.write_text("a,b\n" + "".join(f"{number},text {number}\n" for number in range(4_000_000)))
    for kit in started(service):
        file = made(kit.web, upload(kit.web, "async", source, "orders").json()["id"], 90)
        assert file["upload_status"] == "COMPLETE"
        assert "memory" in by_preset(file)["orders part"]["error"]
        assert made(kit.web, upload(kit.web, "async", TABLE, "none").json()["id"])["upload_status"] == "COMPLETE"
