"""The spool's disk goes, comes back, or cannot be written: files wait, uploads get 503, all heals by itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import requests

from tests.kit.proxy import Proxy
from tests.kit.stack import ROOT, RedisServer, S3Server, Web, wait_for

MODES = {"normal": 201, "async": 202, "celery": 202}


def mount(*arguments: str | Path) -> None:
    """Mount, or skip the test where that is not allowed."""
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"mounting needs root: {done.stderr.strip()}")


def umount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", folder], check=True)


class Disk(NamedTuple):
    """A file system, which is mounted as the spool or not."""

    device: Path
    spool: Path

    def mount(self) -> None:
        mount("--bind", self.device, self.spool)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    folder = tmp_path_factory.mktemp("disk")
    disk = Disk(folder / "device", folder / "spool")
    disk.device.mkdir()
    disk.spool.mkdir()
    mount("-t", "tmpfs", "-o", "size=8m", "ferryman-test", disk.device)
    disk.mount()
    try:
        yield disk
    finally:
        for place in (disk.spool, disk.device):
            subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)


@pytest.fixture(scope="module")
def settings(s3: S3Server, redis_server: RedisServer, s3_link: Proxy, disk: Disk) -> dict[str, str]:
    return {
        **s3.settings,
        **redis_server.settings,
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{s3_link.port}",
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{disk.spool.parent / 'files.db'}",
        "SPOOL_DIR": str(disk.spool),
    }


@pytest.fixture(scope="module")
def web(settings: dict[str, str], disk: Disk) -> Iterator[Web]:
    web = Web(disk.spool.parent, settings)
    try:
        web.start()
        web.wait()
        yield web
    finally:
        web.stop()


def unmount(disk: Disk) -> Callable[[], None]:
    umount(disk.spool)
    return disk.mount


def mount_over(disk: Disk) -> Callable[[], None]:
    mount("-t", "tmpfs", "ferryman-test", disk.spool)
    return lambda: umount(disk.spool)


def mount_another_spool(disk: Disk) -> Callable[[], None]:
    mount("-t", "tmpfs", "ferryman-test", disk.spool)
    (disk.spool / "spool-id").write_text("0123456789abcdef")
    return lambda: umount(disk.spool)


def lose_the_folder(disk: Disk) -> Callable[[], None]:
    umount(disk.spool)
    disk.spool.rmdir()

    def restore() -> None:
        disk.spool.mkdir()
        disk.mount()

    return restore


def make_read_only(disk: Disk) -> Callable[[], None]:
    mount("-o", "remount,bind,ro", disk.spool)
    return lambda: mount("-o", "remount,bind,rw", disk.spool)


GONE = [unmount, mount_over, mount_another_spool, lose_the_folder]


def spool_state(web: Web) -> str:
    state: str = requests.get(f"{web.url}/readyz", timeout=10).json()["checks"]["spool"]
    return state


def assert_unavailable(web: Web) -> None:
    """Every mode is refused with 503, and readiness names the spool."""
    for mode in MODES:
        answer = web.upload(mode, "a.txt", b"refused")
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) > 0
        assert "spool" in answer.json()["detail"].lower()
    assert requests.get(f"{web.url}/readyz", timeout=10).status_code == 503
    assert spool_state(web) == "failed"


def assert_well(web: Web) -> None:
    for mode, status in MODES.items():
        assert web.upload(mode, "a.txt", b"well").status_code == status
    assert spool_state(web) == "ok"


@pytest.mark.parametrize("strike", GONE, ids=lambda strike: strike.__name__)
def test_files_wait_for_a_spool_that_is_gone_and_are_delivered_when_it_is_back(
    web: Web, disk: Disk, s3_link: Proxy, strike: Callable[[Disk], Callable[[], None]]
) -> None:
    s3_link.refuse()
    ids = [web.upload("async", "waits.txt", b"x" * 100_000).json()["id"] for _ in range(3)]
    wait_for(lambda: all(web.file(file_id)["error"] for file_id in ids), what="a first attempt")
    heal = strike(disk)
    try:
        s3_link.recover()
        assert_unavailable(web)
        for _ in range(3):
            waiting = requests.post(f"{web.url}/files/{ids[0]}/retry", timeout=10)
            assert waiting.status_code in (409, 503)
        assert requests.get(f"{web.url}/metrics", timeout=10).ok
        with suppress(AssertionError):  # time for the sweep to take a file, if it does
            wait_for(lambda: any(web.file(file_id)["upload_status"] == "ERROR" for file_id in ids), 4)
        assert {web.file(file_id)["upload_status"] for file_id in ids} == {"PENDING"}
    finally:
        heal()
    assert [web.settled(file_id)["upload_status"] for file_id in ids] == ["COMPLETE"] * 3
    assert_well(web)


def test_a_read_only_spool_delivers_and_deletes_but_takes_nothing(web: Web, disk: Disk, s3_link: Proxy) -> None:
    s3_link.refuse()
    ids = [web.upload("async", "waits.txt", b"x" * 100_000).json()["id"] for _ in range(3)]
    heal = make_read_only(disk)
    try:
        s3_link.recover()
        assert_unavailable(web)
        assert requests.delete(f"{web.url}/files/{ids[0]}", timeout=60).status_code == 204
        assert [web.settled(file_id, 60)["upload_status"] for file_id in ids[1:]] == ["COMPLETE"] * 2
        assert (disk.spool / ids[1]).exists()
    finally:
        heal()
    assert_well(web)
    # An erased file's bytes go once its first lease, 30 s, has run out, with the next cleaning, each 10 s.
    wait_for(lambda: not any((disk.spool / file_id).exists() for file_id in ids), 90, what="removed bytes")


@pytest.fixture
def crowded(web: Web, disk: Disk, s3_link: Proxy) -> Iterator[list[str]]:
    """Three files on a disk without a free byte, of a web server that has died."""
    s3_link.refuse()
    ids = [web.upload("async", "waits.txt", b"x" * 100_000).json()["id"] for _ in range(3)]
    web.kill()
    with suppress(OSError), (disk.device / "rest").open("wb", buffering=0) as rest:
        while rest.write(b"x" * 4096):
            pass
    s3_link.recover()
    yield ids
    (disk.device / "rest").unlink(missing_ok=True)


def test_everything_starts_on_a_full_disk_and_frees_it(
    web: Web, disk: Disk, crowded: list[str], settings: dict[str, str]
) -> None:
    flask = [sys.executable, "-m", "flask", "--app", "app"]
    listed = subprocess.run(
        [*flask, "keys", "list"], env=web.env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert listed.returncode == 0, listed.stderr
    imported = subprocess.run(
        [sys.executable, "-c", "import worker"], env=web.env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert imported.returncode == 0, imported.stderr
    web.start()  # which runs `flask db upgrade` first
    web.wait()
    assert [web.settled(file_id)["upload_status"] for file_id in crowded] == ["COMPLETE"] * 3
    wait_for(lambda: not any((disk.spool / file_id).exists() for file_id in crowded), what="freed bytes")
    assert web.upload("normal", "a.txt", b"x" * 10_000).status_code == 201


def test_a_disk_that_is_mounted_after_the_start_gets_no_rows_of_another_spool(
    settings: dict[str, str], tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    database = f"sqlite:///{tmp_path / 'files.db'}"
    web = Web(tmp_path, {**settings, "SPOOL_DIR": str(spool), "SQLALCHEMY_DATABASE_URI": database})
    try:
        web.start()
        web.wait()
        mount("-t", "tmpfs", "ferryman-test", spool)
        try:
            assert_unavailable(web)
            web.stop()
            web.start()
            web.wait()
            file_id = web.upload("async", "a.txt", b"mine").json()["id"]
            assert web.settled(file_id)["upload_status"] == "COMPLETE"
            assert_well(web)
        finally:
            umount(spool)
    finally:
        web.stop()


def test_a_service_starts_without_its_spool_and_takes_files_once_it_can_be_made(
    settings: dict[str, str], tmp_path: Path
) -> None:
    in_the_way = tmp_path / "house"
    in_the_way.write_text("no folder")
    database = f"sqlite:///{tmp_path / 'files.db'}"
    env = {**settings, "SPOOL_DIR": str(in_the_way / "spool"), "SQLALCHEMY_DATABASE_URI": database}
    web = Web(tmp_path, env)
    try:
        web.start()
        web.wait()
        assert_unavailable(web)
        in_the_way.unlink()
        assert_well(web)
    finally:
        web.stop()
