"""The client and its commands, away from our modules, against a whole service that breaks."""

from __future__ import annotations

import ctypes
import json
import os
import pty
import random
import re
import shlex
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest

from ferryman.client import Client, ClientError, File, Problem, TimedOut, Unreachable
from tests.faults.kit import Kit, Strike
from tests.kit.ports import free_port
from tests.kit.proxy import Link, Proxy, nothing
from tests.kit.stack import BUCKET, ROOT, RedisServer, S3Server, wait_for

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

REFUSED = "..."  # a name that is none
KEY = "fm_0123456789ab_very-secret"
MODES = ("normal", "async", "celery")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory, s3: S3Server, redis_server: RedisServer) -> Iterator[Kit]:
    """One service for all tests here."""
    kit = Kit(tmp_path_factory.mktemp("kit"), s3, redis_server, None)
    try:
        kit.start()
        yield kit
    finally:
        kit.stop()


@pytest.fixture
def s3_is_away(kit: Kit) -> Iterator[None]:
    kit.s3_proxy.refuse()
    yield
    with suppress(OSError):  # the test has mended it
        kit.s3_proxy.recover()


@pytest.fixture
def proxy(kit: Kit) -> Iterator[Proxy]:
    """The way to the service, to be broken."""
    proxy = Proxy(int(kit.web.url.rpartition(":")[2]))
    yield proxy
    proxy.close()


@pytest.fixture
def address(proxy: Proxy) -> str:
    return f"http://127.0.0.1:{proxy.port}"


class Commands:
    """The installed `ferryman`, in a folder that has nothing of the service."""

    def __init__(self, program: Path, folder: Path, address: str) -> None:
        self.program = program
        self.folder = folder
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder), "FERRYMAN_URL": address}

    def start(self, *words: str | Path, **options: Any) -> subprocess.Popen[str]:
        command = [str(self.program), *map(str, words)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(command, cwd=self.folder, env=self.env, text=True, **pipes)

    def run(self, *words: str | Path, expected: int = 0, **options: Any) -> tuple[str, str]:
        """Run to the end, and see the exit code; the answer is stdout and stderr."""
        process = self.start(*words, **options)
        out, err = process.communicate(timeout=60)
        assert process.returncode == expected, (process.returncode, out, err)
        return out, err

    def upload(self, *words: str | Path, **options: Any) -> list[Any]:
        """Upload with --watch --json; the answer is its lines."""
        out, _ = self.run("upload", "--watch", "--json", *words, **options)
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def commands(installed: Path, tmp_path: Path, address: str) -> Commands:
    return Commands(installed / "ferryman", tmp_path, address)


def new_file(folder: Path, name: str = "report.txt", size: int = 1000) -> tuple[Path, bytes]:
    content = random.randbytes(size)
    (folder / name).write_bytes(content)
    return folder / name, content


def object_of(kit: Kit, file: dict[str, Any]) -> bytes:
    return kit.s3_client.get_object(Bucket=BUCKET, Key=file["key"])["Body"].read()


def test_every_mode_and_many_files_at_once(kit: Kit, commands: Commands) -> None:
    for mode in MODES:
        files = dict(new_file(commands.folder, f"{mode} {number}.bin", 300_000) for number in range(5))
        lines = commands.upload("--mode", mode, "--jobs", "4", *files)
        assert {line["source"] for line in lines} == {str(path) for path in files}
        for line in lines:
            assert line["problem"] is None
            assert (line["file"]["upload_status"], line["file"]["mode"]) == ("COMPLETE", mode)
            assert line["file"]["name"] == Path(line["source"]).name
            assert object_of(kit, line["file"]) == files[Path(line["source"])]


def test_plain_lines_without_a_terminal(commands: Commands) -> None:
    path, _ = new_file(commands.folder)
    out, err = commands.run("upload", path, path, "--watch")
    assert [line.split()[::2] for line in out.splitlines()] == [["COMPLETE", str(path)]] * 2
    assert err == ""


def test_a_progress_bar_on_a_terminal_leaves_stdout_alone(commands: Commands) -> None:
    path, _ = new_file(commands.folder, size=5_000_000)
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    out, _ = commands.run("upload", path, "--watch", "--json", stderr=end)
    shown = os.read(terminal, 100_000).decode()
    os.close(end)
    os.close(terminal)
    assert "/5.00M [" in shown
    assert json.loads(out)["file"]["upload_status"] == "COMPLETE"


def test_standard_input(kit: Kit, commands: Commands) -> None:
    """From a pipe, and from an open file, of which a shell script has read the beginning."""
    path, content = new_file(commands.folder, size=2_000_000)
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
        [piped] = commands.upload("-", "--name", "piped.txt", stdin=cat.stdout)
    assert (piped["source"], piped["file"]["name"]) == ("-", "piped.txt")
    assert object_of(kit, piped["file"]) == content
    with path.open("rb", buffering=0) as rest:
        rest.seek(1000)
        [opened] = commands.upload("-", "--name", "rest.txt", stdin=rest)
    assert object_of(kit, opened["file"]) == content[1000:]


@pytest.mark.usefixtures("s3_is_away")
def test_without_watching_it_is_done_when_all_is_accepted(kit: Kit, commands: Commands) -> None:
    path, _ = new_file(commands.folder)
    out, _ = commands.run("upload", path)
    assert kit.web.file(out.split()[1])["upload_status"] != "COMPLETE"


def test_as_a_command_of_flask(kit: Kit, tmp_path: Path) -> None:
    path, _ = new_file(tmp_path)
    command = [sys.executable, "-m", "flask", "--app", "app", "upload", str(path), "--watch", "--to", kit.web.url]
    result = subprocess.run(command, cwd=ROOT, env=kit.web.env, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("COMPLETE"), result.stderr


def test_what_is_refused_is_told_and_the_others_land(commands: Commands) -> None:
    refused, _ = new_file(commands.folder, REFUSED)
    taken, _ = new_file(commands.folder)
    lines = commands.upload(refused, taken, expected=1)
    [problem] = [line for line in lines if line["problem"]]
    assert (problem["source"], problem["file"], problem["problem"]["status"]) == (str(refused), None, 400)
    assert [line["file"]["upload_status"] for line in lines if line["file"]] == ["COMPLETE"]
    _, err = commands.run("upload", refused, expected=1)
    assert err == f"{refused}: The file has no name. (400)\n"


def test_a_large_refused_file_is_told_why(commands: Commands) -> None:
    """The service answers before it has read it all."""
    path, _ = new_file(commands.folder, REFUSED, 20_000_000)
    assert commands.upload(path, expected=1)[0]["problem"]["status"] == 400


@pytest.mark.usefixtures("s3_is_away")
def test_an_s3_outage_in_normal_mode_and_its_retry(kit: Kit, commands: Commands, address: str) -> None:
    path, _ = new_file(commands.folder)
    _, err = commands.run("upload", path, "--mode", "normal", expected=1)
    assert "S3 does not answer. (502, file " in err
    assert "Trying again" not in err
    file_id = err.split()[-1].rstrip(")")
    with Client(address) as client:
        assert client.file(file_id).upload_status == "ERROR"
        out, _ = commands.run("watch", file_id, expected=1)
        assert out == f"ERROR  {file_id}  {file_id}  S3 does not answer.\n"
        kit.s3_proxy.recover()
        assert client.retry(file_id).id == file_id
        assert client.wait(file_id).upload_status == "COMPLETE"
        with pytest.raises(Problem) as refusal:
            client.retry(file_id)
    assert (refusal.value.status, refusal.value.file_id) == (409, file_id)


@pytest.mark.parametrize(
    "words",
    [
        ["upload"],
        ["upload", "-"],
        ["upload", "report.txt", "--name", "other.txt"],
        ["upload", "-", "-", "--name", "twice.txt"],
        ["upload", "report.txt", "--to", "localhost:5000"],
        ["watch"],
    ],
)
def test_wrong_usage(commands: Commands, words: list[str]) -> None:
    out, err = commands.run(*words, expected=2)
    assert out == ""
    assert err.startswith("Usage: ")


def test_each_bad_source_is_told_and_the_good_ones_land(commands: Commands) -> None:
    """A loop of links stands for an unreadable file, since root reads all others."""
    taken, _ = new_file(commands.folder)
    absent, loop, folder = (commands.folder / name for name in ("absent-*.txt", "loop.txt", "folder.txt"))
    loop.symlink_to(loop)
    folder.mkdir()
    lines = commands.upload(absent, folder, taken, loop, expected=1)
    assert {line["source"]: line["problem"] and line["problem"]["detail"] for line in lines} == {
        str(absent): "No such file or directory",
        str(folder): "Is a directory",
        str(loop): "Too many levels of symbolic links",
        str(taken): None,
    }
    out, err = commands.run("upload", folder, taken, expected=1)
    assert (out.split()[0], err) == ("PENDING", f"{folder}: Is a directory\n")


def test_a_named_pipe(kit: Kit, commands: Commands) -> None:
    pipe, content = commands.folder / "pipe.txt", random.randbytes(300_000)
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as writer:
        written = writer.submit(pipe.write_bytes, content)
        [line] = commands.upload(pipe)
        written.result()
    assert line["file"]["name"] == "pipe.txt"
    assert object_of(kit, line["file"]) == content


@pytest.mark.parametrize("change", ["grows", "shrinks", "is written anew"])
def test_a_file_that_changes_while_it_is_sent(kit: Kit, proxy: Proxy, commands: Commands, change: str) -> None:
    path, _ = new_file(commands.folder, size=8_000_000)
    others, _ = new_file(commands.folder, "other.txt")
    before = len(kit.rows())

    def write(link: Link, data: bytes) -> bool:
        if b"report.txt" in data:
            with path.open("r+b") as file:
                if change == "shrinks":
                    file.truncate(100)
                else:
                    file.seek(0, os.SEEK_END if change == "grows" else os.SEEK_SET)
                    file.write(b"more")
        return False

    proxy.on_request = write
    lines = commands.upload(path, others, expected=1)
    assert {line["source"]: line["problem"] and line["problem"]["detail"] for line in lines} == {
        str(path): "The file changed while it was sent, so nothing of it was kept.",
        str(others): None,
    }
    assert len(kit.rows()) == before + 1


def opened_by_a_reader(pipe: Path) -> BinaryIO | None:
    """The writing end of a named pipe, once somebody reads it; see fifo(7)."""
    with suppress(OSError):
        return os.fdopen(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "wb")
    return None


@pytest.mark.usefixtures("s3_is_away")
def test_a_ctrl_c_tells_of_every_file(commands: Commands) -> None:
    accepted, _ = new_file(commands.folder, "accepted.txt")
    sending, waiting = commands.folder / "sending.txt", commands.folder / "waiting.txt"
    os.mkfifo(sending)
    waiting.touch()
    process = commands.start("upload", accepted, sending, waiting, "--jobs", "1", "--watch", "--json")
    # With one job the pipe, of which nothing comes, holds back the third file, and the watch of the first.
    with wait_for(lambda: opened_by_a_reader(sending), what="reader"):
        time.sleep(0.5)  # for the first one's answer to be looked at
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    told = {Path(line["source"]).name: line["problem"]["detail"] for line in map(json.loads, out.splitlines())}
    assert told == {
        "accepted.txt": "Interrupted; its delivery to S3 goes on.",
        "sending.txt": "Interrupted before the service had answered.",
        "waiting.txt": "Interrupted before it was sent.",
    }


def test_a_terminal_and_a_code_page_get_what_they_can_show(commands: Commands) -> None:
    """Windows redirects in cp1252; a name may hold an escape sequence."""
    names = ["報告書.txt", "re\x1b[31md.txt", "line\nbreak.txt"]
    for name in names:
        new_file(commands.folder, name)
    commands.env["PYTHONIOENCODING"] = "cp1252"
    out, err = commands.run("upload", *names)
    assert err == ""
    shown = [line.split("  ", 2)[2] for line in sorted(out.splitlines())]
    assert sorted(shown) == sorted(["\\u5831\\u544a\\u66f8.txt", "re\\x1b[31md.txt", "line\\nbreak.txt"])


def test_an_unreachable_service(commands: Commands) -> None:
    path, _ = new_file(commands.folder)
    commands.env["FERRYMAN_URL"] = f"http://127.0.0.1:{free_port()}"
    [line] = commands.upload(path, "--timeout", "0.5", expected=3)
    assert line["problem"] == {"status": None, "detail": "Not done within 0.5 s.", "file_id": None}
    with Client(commands.env["FERRYMAN_URL"], patience=0.1) as client, pytest.raises(Unreachable):
        client.upload(path)


def test_an_unknown_id(commands: Commands) -> None:
    out, err = commands.run("watch", "unknown", expected=1)
    assert (out, err) == ("", "unknown: File not found. (404, file unknown)\n")


def resume(commands: Commands, err: str) -> str:
    """Do what the last line says."""
    words = shlex.split(err.splitlines()[-1].partition(": ")[2])
    assert words.pop(0) == "ferryman"
    return commands.run(*words)[0]


@pytest.mark.usefixtures("s3_is_away")
@pytest.mark.parametrize("end", ["timeout", "Ctrl-C", "Ctrl-C that ends no wait"])
def test_a_watch_is_resumed(kit: Kit, proxy: Proxy, commands: Commands, end: str) -> None:
    path, _ = new_file(commands.folder)
    watched: set[bytes] = set()

    def look(link: Link, data: bytes) -> bool:
        if data.startswith(b"GET /files/"):
            watched.add(data.split()[1])
        return False

    proxy.on_request = look
    process = commands.start("upload", path, path, "--watch", "--timeout", "2" if end == "timeout" else "60")
    if end != "timeout":
        wait_for(lambda: len(watched) == 2, what="watched files")
    if end == "Ctrl-C":
        process.send_signal(signal.SIGINT)
    elif end == "Ctrl-C that ends no wait":  # since not the thread that waits receives it
        others = {int(thread.name) for thread in Path(f"/proc/{process.pid}/task").iterdir()} - {process.pid}
        ctypes.CDLL(None).tgkill(process.pid, max(others), signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (3 if end == "timeout" else 130, ""), err
    kit.s3_proxy.recover()
    assert [line.split()[0] for line in resume(commands, err).splitlines()] == ["COMPLETE"] * 2


def upload_one(kit: Kit, address: str, mode: str, size: int = 3_000_000) -> File:
    """Upload through the broken way, and see that there is one File and one object."""
    content, before = random.randbytes(size), len(kit.rows())
    with Client(address) as client:
        file = client.upload(BytesIO(content), mode, "once.bin")
        file = client.wait(file.id)
    assert file.upload_status == "COMPLETE"
    assert object_of(kit, file._asdict()) == content
    assert len(kit.rows()) == before + 1
    keys = {row.key for row in kit.rows() if row.status == "COMPLETE"}
    assert {entry["Key"] for entry in kit._listed()} <= keys
    return file


@pytest.mark.parametrize("mode", MODES)
def test_a_connection_that_breaks_in_mid_upload(kit: Kit, proxy: Proxy, address: str, mode: str) -> None:
    strike = Strike(lambda: None)
    proxy.on_request = lambda link, data: link.sent > 1_000_000 and strike()
    upload_one(kit, address, mode)
    assert strike.done.is_set()


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_that_is_lost(kit: Kit, proxy: Proxy, address: str, mode: str) -> None:
    strike = Strike(lambda: None)
    proxy.on_response = lambda link, data: strike()
    upload_one(kit, address, mode)
    assert strike.done.is_set()


def test_a_connection_that_breaks_while_s3_takes_the_file(kit: Kit, proxy: Proxy, address: str) -> None:
    """In normal mode: the second try meets the first one still at work."""
    at_s3, conflict = threading.Event(), threading.Event()

    def hold(link: Link, data: bytes) -> bool:
        if b"once" in link.request:
            at_s3.set()
            conflict.wait(20)
        return False

    def look(link: Link, data: bytes) -> bool:
        if data.startswith(b"HTTP/1.1 409"):
            conflict.set()
        return False

    def cut() -> None:
        if at_s3.wait(20):
            proxy._links[-1].cut()

    kit.s3_proxy.on_request, proxy.on_response = hold, look
    threading.Thread(target=cut).start()
    try:
        upload_one(kit, address, "normal", 1000)
    finally:
        kit.s3_proxy.on_request = nothing
    assert conflict.is_set()


def test_refusals_that_pass(kit: Kit, proxy: Proxy, address: str) -> None:
    refusals = ["503 Service Unavailable\r\nRetry-After: 1", "429 Too Many Requests", "502 Bad Gateway"]

    def refuse(link: Link, data: bytes) -> bool:
        if refusals:
            link.client.sendall(f"HTTP/1.1 {refusals.pop(0)}\r\nContent-Length: 0\r\n\r\n".encode())
            return True
        return False

    proxy.on_request = refuse
    began = time.monotonic()
    upload_one(kit, address, "async", 1000)
    assert time.monotonic() - began > 1
    assert not refusals


def test_a_refusal_that_lasts_longer_than_the_patience(proxy: Proxy, address: str) -> None:
    asked = []

    def refuse(link: Link, data: bytes) -> bool:
        asked.append(data)
        link.client.sendall(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n")
        return True

    proxy.on_request = refuse
    with Client(address) as client, pytest.raises(Problem, match="503"):
        client.file("x")
    assert len(asked) == 1


@pytest.mark.usefixtures("s3_is_away")
def test_a_watch_outlives_a_service_that_is_away(kit: Kit, proxy: Proxy, address: str) -> None:
    with Client(address) as client:
        file = client.upload(BytesIO(b"x"), name="watched.txt")
        with pytest.raises(TimedOut):
            list(client.watch(file.id, timeout=0.5))
        states = client.watch(file.id)
        seen = [next(states)]
        proxy.refuse()
        threading.Timer(1, proxy.recover).start()
        kit.s3_proxy.recover()
        seen += states
    assert seen[-1].upload_status == "COMPLETE"
    assert all(one != other for one, other in pairwise(seen))


def test_the_key_is_sent_but_not_shown(proxy: Proxy, address: str, commands: Commands) -> None:
    commands.env["FERRYMAN_KEY"] = KEY
    (commands.folder / ".netrc").write_text("machine 127.0.0.1 login other password other\n")
    path, _ = new_file(commands.folder)
    heads: list[bytes] = []
    command_lines: list[bytes] = []

    def look(link: Link, data: bytes) -> bool:
        heads.append(link.request)
        command_lines.append(Path(f"/proc/{process.pid}/cmdline").read_bytes())
        return False

    proxy.on_request = look
    process = commands.start("upload", path, "--watch")
    shown = "".join(process.communicate(timeout=20))
    assert process.returncode == 0, shown
    assert heads
    assert all(f"Authorization: Bearer {KEY}\r\n".encode() in head for head in heads)
    shown += str(command_lines)
    shown += "".join(commands.run("upload", "--help"))
    proxy.refuse()
    shown += "".join(commands.run("watch", "x", "--timeout", "0.5", expected=3))
    commands.env["FERRYMAN_KEY"] = f"{KEY}\n"
    shown += "".join(commands.run("upload", path, expected=2))
    assert KEY not in shown
    assert KEY not in repr(vars(Client(address, KEY)))


@pytest.mark.usefixtures("s3_is_away")
def test_memory_stays_flat(commands: Commands) -> None:
    """Of 300 MB from a file, and from a pipe."""
    small, large = commands.folder / "small.bin", commands.folder / "large.bin"
    for path, size in ((small, 1000), (large, 300_000_000)):
        with path.open("wb") as file:
            file.truncate(size)
    base = peak_memory(commands, small)
    assert peak_memory(commands, large) - base < 15_000_000
    with subprocess.Popen(["cat", large], stdout=subprocess.PIPE) as cat:
        assert peak_memory(commands, "-", "--name", "piped.bin", stdin=cat.stdout) - base < 15_000_000


def peak_memory(commands: Commands, *words: str | Path, **options: Any) -> int:
    """The most bytes that an upload ever had in memory."""
    process = commands.start("upload", *words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


def test_a_file_is_listed_downloaded_and_deleted(address: str, tmp_path: Path) -> None:
    client = Client(address)
    paths = [new_file(tmp_path, f"listed-{number}.bin", 300_000)[0] for number in range(3)]
    uploaded = [client.wait(client.upload(path).id) for path in paths]
    listed = list(client.files(name="LISTED-", status="COMPLETE", limit="2"))
    assert [file.id for file in listed] == [file.id for file in reversed(uploaded)]
    for file, path in zip(uploaded, paths, strict=True):
        client.download(file.id, tmp_path / "again.bin")
        assert (tmp_path / "again.bin").read_bytes() == path.read_bytes()
        client.delete(file.id)
    assert list(client.files(name="LISTED-")) == []
    with pytest.raises(Problem) as problem:
        client.download(uploaded[0].id, tmp_path / "gone.bin")
    assert problem.value.status == 404
    assert not list(tmp_path.glob("gone.bin*"))


def test_a_download_that_breaks_off_goes_on_where_it_was(kit: Kit, address: str, tmp_path: Path) -> None:
    path, content = new_file(tmp_path, "long.bin", 3_000_000)
    client, target = Client(address), tmp_path / "copy.bin"
    file = client.wait(client.upload(path).id)
    passed, ranges = [0], list[bytes]()

    def cut_once(link: Link, data: bytes) -> bool:
        passed[0] += len(data)
        if 1_000_000 < passed[0] < 2_000_000 and not ranges[1:]:
            link.cut()
            return True
        return False

    def note(link: Link, data: bytes) -> bool:
        if data.startswith(b"GET "):
            ranges.extend(re.findall(rb"\r\nRange: bytes=(\d+)-", data) or [b"0"])
        return False

    kit.s3_proxy.on_request, kit.s3_proxy.on_response = note, cut_once
    try:
        client.download(file.id, target)
    finally:
        kit.s3_proxy.on_request = kit.s3_proxy.on_response = nothing
    assert target.read_bytes() == content
    assert ranges[0] == b"0"
    assert int(ranges[1]) > 500_000


def test_a_damaged_download_is_no_download(kit: Kit, address: str, bucket: S3Client, tmp_path: Path) -> None:
    path, content = new_file(tmp_path, "damaged.bin", 1000)
    client = Client(address)
    file = client.wait(client.upload(path).id)
    bucket.put_object(Bucket=BUCKET, Key=file.key, Body=content[:-1] + b"x")
    with pytest.raises(ClientError, match="damaged"):
        client.download(file.id, tmp_path / "copy.bin")
    assert not list(tmp_path.glob("copy*"))
