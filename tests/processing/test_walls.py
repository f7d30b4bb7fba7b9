"""Hostile children change nothing outside, and end for a clear reason."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from config import MIB
from core.errors import ProcessorDied, Unprocessable
from processing.sandbox import parent as sandbox
from processing.sandbox import walls

LIMITS = {"memory": 300 * MIB, "cpu": 5, "seconds": 4, "file": MIB, "files": 32}
START = f"""
import json, os, sys, time
sys.path.insert(0, {str(Path(walls.__file__).parents[2])!r})
from pathlib import Path
from processing.sandbox import walls
job = json.loads(sys.argv[1])
walls.die_with_parent()
walls.limit(job["limits"])
standing = {{"network": walls.leave_network()}}
standing["files"] = walls.close_files(Path.cwd())
def say(message):
    sys.stdout.write(json.dumps(message) + chr(10)); sys.stdout.flush()
say({{"walls": standing}})
def done(error=""):
    say({{"outputs": [], "error": error}}); sys.exit()
def tried(work):
    try: work()
    except BaseException as error: done(f"{{type(error).__name__}}")
    done("it worked")
"""
TRIES = {
    "read the password file": "tried(lambda: open('/etc/passwd').read())",
    "read the service's settings": "tried(lambda: open('{outside}/secret').read())",
    "write outside": "tried(lambda: open('{outside}/new', 'w'))",
    "remove what is outside": "tried(lambda: os.remove('{outside}/secret'))",
    "list a folder": "tried(lambda: os.listdir('{outside}'))",
    "connect": "import socket; tried(lambda: socket.create_connection(('127.0.0.1', {port}), 2))",
    "send by UDP": "import socket; tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
    ".sendto(b'x', ('127.0.0.1', {port})))",
    "see the environment": "done('it worked' if 'AWS_ACCESS_SECRET' in os.environ else 'KeyError')",
    "kill its parent": "tried(lambda: os.kill({parent}, 9))",
    "take more memory": "tried(lambda: bytearray(400 << 20))",
    "write a large file": "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    "tried(lambda: open('big', 'wb').write(b'x' * (2 << 20)))",
    "open many files": "tried(lambda: os.mkdir('a') or [os.open('a', 0) for _ in range(100)])",
}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


@pytest.fixture
def port() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def run(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **limits: int) -> Any:
    """Run a child that does as it likes once its walls stand."""
    child = tmp_path / "child.py"
    child.write_text(START + script + "\n")
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    monkeypatch.setattr(sandbox, "CHILD", child)
    source = tmp_path / "source"
    source.write_bytes(b"hello")
    with source.open("rb") as file:
        return sandbox.run("none", [], {**LIMITS, **limits}, file, scratch, lambda: None, 3)


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.mark.parametrize("name", TRIES)
def test_what_it_tries_fails_and_it_can_say_so(
    name: str, outside: Path, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_SECRET", "secret")
    script = TRIES[name].format(outside=outside, port=port, parent=os.getpid())
    with pytest.raises(Unprocessable) as error:
        run(script, tmp_path, monkeypatch)
    assert error.value.detail.endswith("Error"), error.value.detail
    assert [path.name for path in outside.iterdir()] == ["secret"]


ENDS = {
    "sleeps": ("time.sleep(60)", "Processing hung."),
    "beats for ever": (
        "\nwhile True:\n    say({'beat': 1})\n    time.sleep(0.2)",
        "Processing took more than 4 s.",
    ),
    "computes for ever": (
        "import threading\ndef beat():\n    while True:\n        say({'beat': 1})\n        time.sleep(0.2)\n"
        "threading.Thread(target=beat, daemon=True).start()\nwhile True: pass",
        "Processing took more than 1 s of computing.",
    ),
    "says garbage": ("print('\\x00garbage')", "Processing answered nonsense."),
    "says a list": ("say([1])", "Processing answered nonsense."),
    "says too much": ("\nwhile True: say({'beat': 'x' * 100000})", "Processing answered too much."),
    "says one long line": ("\nwhile True: sys.stdout.write('x' * 100000)", "Processing answered too much."),
    "says nothing": ("sys.exit(0)", "Processing failed unexpectedly."),
    "fails": ("raise ValueError", "Processing failed unexpectedly."),
    "kills itself": ("os.kill(os.getpid(), 9)\ntime.sleep(9)", None),
    "breaks": (
        "import ctypes; ctypes.string_at(0)",
        "Processing was ended by signal 11; perhaps it took too much memory.",
    ),
    "ignores TERM": (
        "import signal\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(60)",
        "Processing hung.",
    ),
    "closes its output": ("os.close(1); time.sleep(60)", None),
}


@pytest.mark.parametrize("name", ENDS)
def test_it_is_ended_and_nothing_of_it_stays(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, told = ENDS[name]
    before, began = children(), time.monotonic()
    with pytest.raises(ProcessorDied) as error:
        run(script, tmp_path, monkeypatch, **({"cpu": 1, "seconds": 30} if name.startswith("computes") else {}))
    assert told is None or error.value.detail == told
    assert time.monotonic() - began < 30
    assert children() <= before


FORKS = {
    "a child in a session of its own": "if os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\ndone('ok')",
    "a fork bomb": "\ntry:\n    while True: os.fork() or time.sleep(60)\nexcept OSError: pass\ndone('ok')",
}


@pytest.mark.parametrize("name", FORKS)
def test_what_it_starts_ends_with_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()
    with pytest.raises((Unprocessable, ProcessorDied)):
        run(FORKS[name], tmp_path, monkeypatch)
    time.sleep(0.2)
    assert children() <= before
    marked = [
        one for one in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(one.info["cmdline"] or [])
    ]
    assert not marked


def test_the_walls_that_stand_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = run("done()", tmp_path, monkeypatch)
    assert answer.walls == {"network": True, "files": True}
    assert answer.cpu_seconds > 0
    assert answer.memory_bytes > MIB
