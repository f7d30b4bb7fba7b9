"""`make run` as a user meets it: starts, says so, works when pasted, stops all it started."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import redis
import requests

from local import servers as local_servers
from tests.kit.ports import free_port, seaweed_port
from tests.kit.stack import ROOT, S3Server, Service, wait_for


class Run:
    """`make run` with its own data folder and port."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.port = free_port()
        self.log = folder / "run.log"
        self.started: list[subprocess.Popen[bytes]] = []
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PORT": str(self.port),
            "DATA_DIR": str(self.data),
        }

    def start(self, **settings: str) -> subprocess.Popen[bytes]:
        self.log.write_bytes(b"")
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "local.run"],
                cwd=ROOT,
                env={**self.env, **settings},
                stdout=output,
                stderr=output,
            )
        self.started.append(process)
        return process

    def kill(self) -> None:
        """End all that is left of it, so that it does nothing to the next one's ports."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def processes(self) -> dict[int, str]:
        """Every process that carries our data folder in its environment or command, by its id."""
        mark = str(self.data).encode()
        found = {}
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                if int(entry.name) != os.getpid() and mark in text:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    run.kill()


def is_ready(run: Run, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, run.text()
    return "Ferryman is ready" in run.text()


def test_it_starts_works_stops_and_starts_again_with_its_data(run: Run) -> None:
    first = run.start()
    wait_for(lambda: is_ready(run, first), 60, "ready line")
    address = f"http://localhost:{run.port}"
    assert f"{address}   (for this machine, without a key;" in run.text()
    row = upload_as_printed(run)
    shell_knows_the_parts(run)
    other_users_see_nothing(run)
    wait_for(lambda: requests.get(address + row, timeout=5).json()["upload_status"] == "COMPLETE")
    answer = requests.post(f"{address}/celery_upload", files={"file": ("a.txt", b"hello")}, timeout=5)
    celery_row = answer.headers["Location"]
    wait_for(lambda: requests.get(address + celery_row, timeout=5).json()["upload_status"] == "COMPLETE")

    first.send_signal(signal.SIGINT)
    assert first.wait(30) == 0
    assert run.processes() == {}

    started = time.monotonic()
    second = run.start()
    wait_for(lambda: is_ready(run, second), 60, "second ready line")
    assert time.monotonic() - started < 30
    found = requests.get(address + row, timeout=5).json()
    content = requests.get(found["url"], timeout=5)
    assert content.content == (ROOT / "README.md").read_bytes()
    second.terminate()
    assert second.wait(30) == 0
    assert run.processes() == {}


def upload_as_printed(run: Run) -> str:
    """Paste the printed curl line into a shell; the answer is the File's path."""
    command = re.search(r"^ +(curl .*)$", run.text(), re.MULTILINE)
    assert command
    if not shutil.which("curl"):
        pytest.skip("curl is not installed, so the printed line cannot be pasted")
    answer = subprocess.run(["sh", "-c", command[1]], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert " 202 " in answer
    location = re.search(r"^Location: (\S+)", answer, re.MULTILINE)
    assert location
    return location[1]


def other_users_see_nothing(run: Run) -> None:
    """Neither the data, nor what the embedded servers tell whoever reaches their ports."""
    assert run.data.stat().st_mode & 0o777 == 0o700
    settings = (run.data / "env.sh").read_text()
    broker = re.search(r"redis://\S+@127.0.0.1:(\d+)/0", settings)
    assert broker
    with redis.Redis.from_url(broker[0]) as ours, redis.Redis(port=int(broker[1])) as theirs:
        assert ours.ping()
        with pytest.raises(redis.AuthenticationError):
            theirs.ping()
    filer = int((run.data / "s3-port").read_text()) + 3
    assert requests.get(f"http://127.0.0.1:{filer}/buckets/ferryman/", timeout=5).status_code == 401
    secrets = [(run.data / name).read_text() for name in ("redis-password", "s3-secret")]
    commands = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert not any(secret in commands for secret in secrets)


@pytest.mark.parametrize("files", [[], ["env.sh", "ferryman.db"], ["thesis.txt"]])
def test_a_folder_that_was_open_to_others_is_closed_unless_it_holds_other_files(
    run: Run, files: list[str]
) -> None:
    run.data.mkdir(mode=0o755)
    for name in files:
        (run.data / name).touch()
    if "thesis.txt" in files:
        assert run.start().wait(20) == 2
        assert run.text() == (
            f"make run: other users may read {run.data}, which holds other files; choose another DATA_DIR\n"
        )
    else:
        assert run.start(LEASE_SECONDS="soon").wait(20) == 2
        assert run.data.stat().st_mode & 0o777 == 0o700


def shell_knows_the_parts(run: Run) -> None:
    """Source the printed file in a shell that knows nothing else."""
    command = re.search(r"^ +(\. \S+)", run.text(), re.MULTILINE)
    assert command
    assert (run.data / "env.sh").stat().st_mode & 0o777 == 0o600
    script = f"{command[1]} && flask --app app create-bucket && flask --app app keys list && echo $FERRYMAN_URL"
    env = {"PATH": "/usr/bin:/bin", "HOME": str(run.data)}
    result = subprocess.run(["sh", "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert result.stdout == f"http://localhost:{run.port}\n"


def test_a_part_that_dies_is_started_again_and_uploads_go_on(run: Run) -> None:
    process = run.start()
    wait_for(lambda: is_ready(run, process), 60, "ready line")
    address = f"http://localhost:{run.port}"
    for part in ("worker", "web", "redis", "s3"):
        restarted(run, part)
        for mode in ("async", "celery"):
            wait_for(partial(goes_through, address, mode), 60, f"{mode} upload after the end of {part}")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 0
    assert run.processes() == {}


def restarted(run: Run, part: str) -> None:
    """Kill a part, and wait until it is started again."""
    [pid] = re.findall(rf"{part} started \(pid=(\d+)\)", run.text())
    os.kill(int(pid), signal.SIGKILL)
    wait_for(lambda: f"{part} has ended by itself; restart 1 of 5" in run.text(), 20, "restart")
    wait_for(lambda: run.text().count(f"{part} started (pid=") == 2, 20, "start")


def goes_through(address: str, mode: str) -> bool:
    """Whether a file is accepted and delivered."""
    with suppress(requests.RequestException):
        answer = requests.post(f"{address}/{mode}_upload", files={"file": ("a.txt", b"hello")}, timeout=5)
        row = f"{address}{answer.headers.get('Location')}"
        return answer.status_code == 202 and bool(
            wait_for(lambda: requests.get(row, timeout=5).json()["upload_status"] == "COMPLETE", 40, row)
        )
    return False


@pytest.mark.parametrize("delay", [0.0, 0.3, 0.6, 1.5])
def test_it_can_be_stopped_while_it_starts(run: Run, delay: float) -> None:
    process = run.start()
    time.sleep(delay)
    process.terminate()
    process.wait(30)
    wait_for(lambda: run.processes() == {}, 10, "end of all processes")


def test_a_start_that_fails_stops_what_it_started(run: Run) -> None:
    process = run.start(SQLALCHEMY_DATABASE_URI="sqlite:////no/such/folder/files.db")
    assert process.wait(60) == 1
    assert "unable to open database file" in run.text()
    assert run.processes() == {}


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("LEASE_SECONDS", "soon", "LEASE_SECONDS must be a whole number"),
        ("PORT", "http", "PORT must be a port number"),
        ("S3_ENDPOINT_URL", "http://127.0.0.1:9", "S3_BUCKET_NAME is missing"),
        ("DATA_DIR", "/proc/no", "/proc/no"),
        ("HOST", "0.0.0.0", "AUTH=required"),
    ],
)
def test_a_broken_setting_ends_it_with_one_line(run: Run, setting: str, value: str, said: str) -> None:
    assert run.start(**{setting: value}).wait(20) == 2
    assert said in run.text()
    assert len(run.text().splitlines()) == 1


def test_a_taken_port_ends_it_with_one_line(run: Run) -> None:
    with socket.create_server(("127.0.0.1", run.port)):
        assert run.start().wait(20) == 2
    assert run.text() == (
        f"make run: port {run.port} is taken; choose another, as in: make run PORT={run.port + 1}\n"
    )


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="weed is missing"):
        local_servers.seaweed(tmp_path / "s3", 20_000, "key", "secret")


def test_sockets_of_a_seaweedfs_that_has_taken_the_ports_stay() -> None:
    port = seaweed_port()
    taken, left = (Path(f"/tmp/seaweedfs-filer-grpc-{number}.sock") for number in (port, port + 1))
    for path in (taken, left):
        path.touch()
    try:
        with socket.create_server(("127.0.0.1", port)):
            local_servers.remove_seaweed_sockets(port)
        assert (taken.exists(), left.exists()) == (True, False)
    finally:
        for path in (taken, left):
            path.unlink(missing_ok=True)


def test_a_seaweedfs_has_room_when_its_master_knows_its_volumes(tmp_path: Path, s3: S3Server) -> None:
    assert local_servers.seaweed_has_room(s3.port)
    port = seaweed_port()
    assert not local_servers.seaweed_has_room(port)
    weed = local_servers.seaweed(tmp_path, port, "key", "secret").command[0]
    options = [f"-port={port + 1}", f"-mdir={tmp_path}", "-ip=127.0.0.1", "-telemetry=false"]
    alone = Service("master", [weed, "master", *options], {}, tmp_path / "master.log")
    alone.start()
    try:
        wait_for(lambda: not local_servers.is_free(port + 1), what="master")
        assert requests.get(f"http://127.0.0.1:{port + 1}/dir/status", timeout=20).ok
        assert not local_servers.seaweed_has_room(port)
    finally:
        alone.kill()
