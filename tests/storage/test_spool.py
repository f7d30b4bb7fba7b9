"""The spool keeps what it was told to keep, and nothing else."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.spool import USAGE_PAUSE, USAGE_SECONDS, Spool
from tests.kit.stack import ROOT

ID = "0123456789abcdef" * 2


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def files(spool: Spool) -> list[str]:
    return sorted(name for name in os.listdir(spool.folder) if name != "spool-id")


@pytest.mark.parametrize("fsync", [False, True])
def test_a_kept_file_can_be_read(tmp_path: Path, fsync: bool) -> None:
    spool = Spool(tmp_path / "spool", fsync=fsync)
    with spool.receive(ID) as incoming:
        incoming.write(b"hello ")
        incoming.write(b"world")
        assert files(spool) == [f"{ID}.part"]
        incoming.keep()
    assert incoming.size == 11
    assert files(spool) == [ID]
    with spool.open(ID) as file:
        assert file.read() == b"hello world"


def test_the_checksum_is_the_one_s3_uses(spool: Spool) -> None:
    """The check value of CRC-64/NVME for "123456789" is ae8b14860a799888 in the catalogue of CRC algorithms."""
    with spool.receive(ID) as incoming:
        incoming.write(b"1234")
        incoming.write(b"56789")
        incoming.keep()
    assert base64.b64decode(incoming.crc64nvme).hex() == "ae8b14860a799888"


@pytest.mark.parametrize("after_keep", [False, True])
def test_a_failure_leaves_nothing(spool: Spool, after_keep: bool) -> None:
    with pytest.raises(RuntimeError), spool.receive(ID) as incoming:  # noqa: PT012
        incoming.write(b"hello")
        if after_keep:
            incoming.keep()
        raise RuntimeError
    assert files(spool) == []


def test_a_dropped_file_is_gone_and_may_be_dropped_again(spool: Spool) -> None:
    with spool.receive(ID) as incoming:
        incoming.keep()
    spool.drop(ID)
    spool.drop(ID)
    with pytest.raises(FileNotFoundError):
        spool.open(ID)


@pytest.mark.parametrize("file_id", ["", "../x", "a/b", "spool-id", ID.upper(), ID + "\n"])
def test_only_a_file_id_names_a_file(spool: Spool, file_id: str) -> None:
    with pytest.raises(ValueError, match="File id"):
        spool.open(file_id)


def test_its_identity_moves_with_the_folder(spool: Spool, tmp_path: Path) -> None:
    assert Spool(spool.folder).id == spool.id
    assert Spool(tmp_path / "another").id != spool.id
    moved = spool.folder.rename(tmp_path / "moved")
    assert Spool(moved).id == spool.id


def test_it_is_for_its_owner_only(spool: Spool) -> None:
    assert spool.folder.stat().st_mode & 0o777 == 0o700


WRITER_ON_A_SMALL_DISK = """
import resource, signal, sys
from pathlib import Path

from core.errors import Busy
from storage.spool import Spool

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with Spool(Path(sys.argv[1])).receive(sys.argv[2]) as incoming:
        incoming.write(b"x" * 5000)
except Busy:
    sys.exit(42)
"""


def test_a_file_that_cannot_grow_is_no_room(spool: Spool) -> None:
    """In a process of its own, whose files the kernel lets grow to 4 KiB."""
    command = [sys.executable, "-c", WRITER_ON_A_SMALL_DISK, str(spool.folder), ID]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 42
    assert files(spool) == []


def test_a_spool_that_takes_long_to_count_is_counted_seldom(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    now, second = 100.0, 0.0

    def clock() -> float:
        nonlocal now
        now += second
        return now

    monkeypatch.setattr("storage.spool.time.monotonic", clock)
    second = 1  # so long does the count take
    empty = spool.used_bytes()
    second = 0
    (spool.folder / ID).write_bytes(b"12345")
    now += USAGE_PAUSE - 1
    assert spool.used_bytes() == empty
    now += 1
    assert spool.used_bytes() == empty + 5
    (spool.folder / ID).unlink()
    now += USAGE_SECONDS
    assert spool.used_bytes() == empty


class SlowDisk:
    """Lists a folder when it is told to go on."""

    def __init__(self) -> None:
        self.scan, self.scans = os.scandir, 0
        self.asked, self.go_on = threading.Event(), threading.Event()

    def __call__(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        self.scans += 1
        self.asked.set()
        assert self.go_on.wait(10)
        return self.scan(folder)


def test_while_one_counts_the_others_go_on(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    used, disk = spool.used_bytes(), SlowDisk()
    (spool.folder / ID).write_bytes(b"12345")
    monkeypatch.setattr("storage.spool.os.scandir", disk)
    time.sleep(USAGE_SECONDS)
    with ThreadPoolExecutor(1) as other:
        counted = other.submit(spool.used_bytes)
        assert disk.asked.wait(10)
        assert spool.used_bytes() == used
        disk.go_on.set()
        assert counted.result() == used + 5
    assert disk.scans == 1


def test_but_they_wait_for_the_first_count(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk()
    (spool.folder / ID).write_bytes(b"12345")
    monkeypatch.setattr("storage.spool.os.scandir", disk)
    with ThreadPoolExecutor(2) as others:
        first = others.submit(spool.used_bytes)
        assert disk.asked.wait(10)
        second = others.submit(spool.used_bytes)
        time.sleep(0.1)
        assert not second.done()
        disk.go_on.set()
        assert first.result() == second.result() >= 5
    assert disk.scans == 1
