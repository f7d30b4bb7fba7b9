"""Whatever dies, and whenever: what was accepted is in S3 once, and nothing is left behind."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.faults.kit import (
    MODES,
    NAME,
    Kit,
    Result,
    Strike,
    arm_at_commit,
    finishes_object,
    kill_worker_child,
    starts_upload,
)
from tests.kit.proxy import Link
from tests.kit.stack import Service

MID_PART = 1_000_000

Arm = Callable[[Kit, Strike], None]
"""Sets the trap: what must pass a proxy for the fault to strike."""


def is_insert(data: bytes) -> bool:
    """Only the row's insert carries its name; its text may be a prepared statement's by then."""
    return NAME.encode() in data


def at_the_insert(kit: Kit, strike: Strike) -> None:
    """Bytes are in the spool, the row is not yet written."""
    assert kit.db_proxy
    kit.db_proxy.on_request = lambda link, data: is_insert(data) and strike()


def at_the_commit(kit: Kit, strike: Strike) -> None:
    """The row is committed, nobody knows it yet."""
    arm_at_commit(kit, strike, is_insert)


def at_the_hand_off(kit: Kit, strike: Strike) -> None:
    """The message is in Redis, the client has no answer yet."""
    kit.redis_proxy.on_response = lambda link, data: "push" in link.marks and strike()

    def note(link: Link, data: bytes) -> bool:
        if b"LPUSH" in data:
            link.marks.add("push")
        return False

    kit.redis_proxy.on_request = note


def in_mid_part(kit: Kit, strike: Strike) -> None:
    """Some of a part is at S3."""
    kit.s3_proxy.on_request = lambda link, data: starts_upload(link) and link.sent > MID_PART and strike()


def at_s3_done(kit: Kit, strike: Strike) -> None:
    """S3 has the object, the row does not know."""
    kit.s3_proxy.on_response = lambda link, data: finishes_object(link) and b" 200 OK" in data[:20] and strike()


class Fault(NamedTuple):
    """What strikes, at which moment, and what must be started again afterwards."""

    name: str
    mode: str
    arm: Arm
    strike: Callable[[Kit], object]
    dead: Callable[[Kit], Service | None]
    nth: int = 1


def kill_web(kit: Kit) -> None:
    kit.web.signal(signal.SIGKILL)


def kill_worker_parent(kit: Kit) -> None:
    psutil.Process(kit.worker.pid).kill()


def kill_worker(kit: Kit) -> None:
    kit.worker.signal(signal.SIGKILL)


def the_web(kit: Kit) -> Service:
    return kit.web


def the_worker(kit: Kit) -> Service:
    return kit.worker


def none(kit: Kit) -> None:
    return None


WEB_MOMENTS: list[tuple[str, Arm, int, list[str]]] = [
    ("after the spool", at_the_insert, 3, MODES),
    ("after the commit", at_the_commit, 3, MODES),
    ("after the hand-off", at_the_hand_off, 3, ["celery"]),
    ("in mid-part", in_mid_part, 1, ["normal", "async"]),
    ("when S3 is done", at_s3_done, 2, ["normal", "async"]),
]
WORKER_KILLS: list[tuple[str, Callable[[Kit], None], Callable[[Kit], Service | None]]] = [
    ("worker", kill_worker, the_worker),
    ("worker parent", kill_worker_parent, the_worker),
    ("worker child", kill_worker_child, none),
]
ALL = [
    *(
        Fault(f"web killed {moment}", mode, arm, kill_web, the_web, nth)
        for moment, arm, nth, modes in WEB_MOMENTS
        for mode in modes
    ),
    *(
        Fault(f"{who} killed {moment}", "celery", arm, kill, dead)
        for who, kill, dead in WORKER_KILLS
        for moment, arm in [("in mid-part", in_mid_part), ("when S3 is done", at_s3_done)]
    ),
]
QUICK = [
    fault
    for fault in ALL
    if (fault.name, fault.mode)
    in [
        ("web killed after the commit", "async"),
        ("web killed when S3 is done", "async"),
        ("worker child killed in mid-part", "celery"),
    ]
]


def strike_and_heal(kit: Kit, results: list[Result], fault: Fault) -> None:
    strike = Strike(lambda: fault.strike(kit), fault.nth)
    accepted = kit.upload_all(fault.mode)
    fault.arm(kit, strike)
    accepted |= kit.upload_all(fault.mode)
    assert strike.done.wait(20), "the fault did not strike"
    struck = time.monotonic()
    if dead := fault.dead(kit):
        kit.restart(dead)
    kit.web.wait()
    finish(kit, results, fault.name, fault.mode, accepted, struck)


def finish(
    kit: Kit, results: list[Result], name: str, mode: str, accepted: dict[str, bytes], since: float
) -> None:
    kit.settle(accepted)
    result = kit.count(name, mode, accepted, since)
    results.append(result)
    assert (result.lost, result.duplicated) == (0, 0)
    kit.assert_nothing_is_left()


def name_of(fault: Fault) -> str:
    return f"{fault.name}, {fault.mode}"


@pytest.mark.parametrize("fault", QUICK, ids=name_of)
def test_a_quick_choice(kit: Kit, results: list[Result], fault: Fault) -> None:
    strike_and_heal(kit, results, fault)


@pytest.mark.faults
@pytest.mark.parametrize("fault", [fault for fault in ALL if fault not in QUICK], ids=name_of)
def test_a_killed_process(kit: Kit, results: list[Result], fault: Fault) -> None:
    strike_and_heal(kit, results, fault)


@pytest.mark.faults
@pytest.mark.parametrize("empty", [False, True])
def test_redis_killed(kit: Kit, results: list[Result], empty: bool) -> None:
    """With files in its queues, since no worker takes them; started again with its data, or without."""
    kit.worker.stop()
    accepted = kit.upload_all("celery")
    assert len(accepted) == 6
    struck = time.monotonic()
    kit.redis.kill()
    if empty:
        shutil.rmtree(Path(kit.redis.log).parent / "redis")
        (Path(kit.redis.log).parent / "redis").mkdir()
    later = kit.upload_all("celery", 2)
    assert len(later) == 2
    kit.redis.start()
    kit.redis.wait()
    kit.worker.start()
    name = "Redis killed, back empty" if empty else "Redis killed, back with its data"
    finish(kit, results, name, "celery", accepted | later, struck)


@pytest.mark.faults
@pytest.mark.parametrize("mode", MODES[1:])
def test_s3_away(kit: Kit, results: list[Result], mode: str) -> None:
    kit.s3_proxy.refuse()
    accepted = kit.upload_all(mode)
    assert len(accepted) == 6
    time.sleep(30)
    kit.s3_proxy.recover()
    finish(kit, results, "S3 away for 30 s", mode, accepted, time.monotonic())


@pytest.mark.faults
@pytest.mark.parametrize("mode", MODES[1:])
def test_s3_cuts_connections(kit: Kit, results: list[Result], mode: str) -> None:
    cuts = iter(range(12))

    def cut(link: Link, data: bytes) -> bool:
        return starts_upload(link) and link.sent > 100_000 and next(cuts, None) is not None

    kit.s3_proxy.on_request = cut
    accepted = kit.upload_all(mode)
    assert len(accepted) == 6
    finish(kit, results, "S3 cuts 12 connections in mid-part", mode, accepted, time.monotonic())


@pytest.mark.faults
@pytest.mark.parametrize("mode", MODES[1:])
def test_the_database_away(kit: Kit, results: list[Result], mode: str) -> None:
    """After the files were accepted, before they are delivered."""
    kit.s3_proxy.refuse()
    accepted = kit.upload_all(mode)
    assert kit.db_proxy
    kit.db_proxy.refuse()
    kit.s3_proxy.recover()
    time.sleep(5)
    kit.db_proxy.recover()
    finish(kit, results, "database away for 5 s", mode, accepted, time.monotonic())


@pytest.mark.faults
def test_a_redelivered_message_and_a_paused_worker(kit: Kit, results: list[Result]) -> None:
    """A worker sleeps over its lease with a part in its hands, wakes up, and goes on."""
    strike = Strike(lambda: kit.worker.signal(signal.SIGSTOP))
    in_mid_part(kit, strike)
    accepted = kit.upload_all("celery")
    assert strike.done.wait(20)
    struck = time.monotonic()
    time.sleep(3 * 2)
    kit.worker.signal(signal.SIGCONT)
    finish(kit, results, "worker paused over its lease", "celery", accepted, struck)


@pytest.mark.faults
@pytest.mark.parametrize("mode", MODES[1:])
def test_sqlite_locked(sqlite_kit: Kit, results: list[Result], mode: str) -> None:
    """For longer than anyone waits for it, while files are delivered and more are sent."""
    kit = sqlite_kit
    kit.s3_proxy.refuse()
    accepted = kit.upload_all(mode)
    path = kit.env["SQLALCHEMY_DATABASE_URI"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        kit.s3_proxy.recover()
        refused = kit.upload_all(mode, 2)
        time.sleep(3)
        other.execute("ROLLBACK")
    assert not refused
    finish(kit, results, "SQLite locked for 8 s", mode, accepted, time.monotonic())


@pytest.mark.faults
@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("jump", [3600, -3600])
def test_the_clock_jumps(kit: Kit, results: list[Result], tmp_path: Path, mode: str, jump: int) -> None:
    """By an hour, while files are accepted, fail and wait; and back."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    services: list[Service] = [kit.web, kit.worker]
    for service in services:
        service.stop()
        service.env["CLOCK_OFFSET"] = str(clock)
        service.command[2] = "tests.faults.skewed"
        service.command.insert(3, "gunicorn" if service is kit.web else "celery")
        service.start()
    kit.web.wait()
    kit.s3_proxy.refuse()
    accepted = kit.upload_all(mode)
    clock.write_text(str(jump))
    accepted |= kit.upload_all(mode, 3)
    time.sleep(3)
    clock.write_text("0")
    kit.s3_proxy.recover()
    assert len(accepted) == 9
    finish(kit, results, f"clock jumps by {jump} s and back", mode, accepted, time.monotonic())


@pytest.mark.faults
@pytest.mark.parametrize("mode", MODES[1:])
def test_an_orderly_stop_of_everything(kit: Kit, results: list[Result], mode: str) -> None:
    strike = Strike(lambda: None)
    in_mid_part(kit, strike)
    accepted = kit.upload_all(mode)
    struck = time.monotonic()
    services: list[Service] = [kit.web, kit.worker]
    for service in services:
        service.stop(40)
    for service in services:
        service.start()
    finish(kit, results, "web and worker stopped in order", mode, accepted, struck)
