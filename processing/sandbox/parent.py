"""Runs a child behind its walls, and watches it: beats, deadline, what it answers, what it has used."""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import ProcessorDied, ProofFailed, Unprocessable

log = logging.getLogger(__name__)

CHILD = Path(__file__).with_name("child.py")
MAX_ANSWER_BYTES = 4 * 1024 * 1024
MAX_STDERR_BYTES = 8 * 1024
LOOK_SECONDS = 0.25
FAREWELL_SECONDS = 2.0
GIB = 1024**3
NONSENSE = "Processing answered nonsense."
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "VIPS_CONCURRENCY": "1",
    "VIPS_BLOCK_UNTRUSTED": "1",
    "MALLOC_ARENA_MAX": "2",  # an arena reserves 64 MiB of what RLIMIT_AS grants
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass
class Answer:
    """What a child has answered, and what it has used."""

    outputs: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    walls: Mapping[str, bool] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    memory_bytes: int = 0


def run(
    lane: str,
    recipes: list[dict[str, Any]],
    limits: Mapping[str, int],
    source: BinaryIO,
    scratch: Path,
    on_beat: Callable[[], None],
    silence_seconds: float,
) -> Answer:
    """Let a child make the derivatives of one original.

    Args:
        lane: the module that works.
        recipes: what to make.
        limits: of memory, CPU, files, and of the lane; `seconds` is the child's deadline.
        source: the original, open for reading.
        scratch: a folder of its own, where it works.
        on_beat: called with every beat; what it raises ends the child.
        silence_seconds: after so long without a beat it is ended.

    Returns:
        The answer. What it says of files is only checked by whoever takes them.

    Raises:
        Unprocessable: the original cannot be processed.
        ProcessorDied: the child died, or had to be ended.
        ProofFailed: it could not prove what it made.
    """
    job = json.dumps({"lane": lane, "recipes": recipes, "limits": dict(limits)})
    process = subprocess.Popen(  # noqa: S603 - of ours, and no argument is a command
        [sys.executable, "-I", str(CHILD), job],
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=scratch,
        env=ENVIRONMENT | {"TMPDIR": str(scratch)},
        process_group=0,  # not a session: the kernel would weigh it as a whole, and its niceness would be nothing
    )
    answer, said = Answer(), {}
    try:
        said = _listen(process, answer, on_beat, limits["seconds"], silence_seconds)
    finally:
        _end(process, answer, is_asked=bool(said))
    return _judge(answer, said, process.returncode, limits)


def _listen(
    process: subprocess.Popen[bytes],
    answer: Answer,
    on_beat: Callable[[], None],
    seconds: float,
    silence_seconds: float,
) -> dict[str, Any]:
    """Read what the child says, until it has answered or has closed its output."""
    deadline, heard_at, said = time.monotonic() + seconds, time.monotonic(), {}
    for line in _lines(process, LOOK_SECONDS):
        now = time.monotonic()
        if now > deadline:
            raise ProcessorDied(f"Processing took more than {seconds:.0f} s.")
        if now > heard_at + silence_seconds:
            raise ProcessorDied("Processing hung.")
        if line:
            message, heard_at = _parse(line), now
            answer.walls = message.get("walls", answer.walls)
            if "outputs" in message:
                said = message
        on_beat()
    return said


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise ProcessorDied(NONSENSE)
    return message


def _lines(process: subprocess.Popen[bytes], seconds: float) -> Iterator[bytes]:
    """Yield the lines of the child's output; an empty one when none comes for a while."""
    buffer, received, errors = b"", 0, b""
    with selectors.DefaultSelector() as selector:
        for stream in filter(None, (process.stdout, process.stderr)):
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(seconds):
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    errors = (errors + chunk)[-MAX_STDERR_BYTES:]
                else:
                    received += len(chunk)
                    if received > MAX_ANSWER_BYTES:
                        raise ProcessorDied("Processing answered too much.")
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    yield from filter(None, lines)
            yield b""
    if errors:
        log.debug("a child said: %s", errors.decode(errors="replace"))


def _end(process: subprocess.Popen[bytes], answer: Answer, is_asked: bool) -> None:
    """End the child and all it has started, and take what it has used."""
    gone_by = time.monotonic() + (FAREWELL_SECONDS if is_asked else 0)
    watch = os.WEXITED | os.WNOWAIT | os.WNOHANG
    while time.monotonic() < gone_by and not os.waitid(os.P_PID, process.pid, watch):
        time.sleep(0.005)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # before it is waited for, or its number may be another's
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    answer.cpu_seconds = used.ru_utime + used.ru_stime
    answer.memory_bytes = used.ru_maxrss * 1024  # at least what this process had when it started the child
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()


def _judge(answer: Answer, said: dict[str, Any], code: int, limits: Mapping[str, int]) -> Answer:
    if said.get("memory"):
        raise ProcessorDied(f"Processing took more than {limits['memory'] / GIB:.3g} GiB of memory.")
    if said.get("unproven"):
        raise ProofFailed(str(said.get("error"))[:300])
    if not said:
        raise ProcessorDied(_why(-code if code < 0 else code - 128, answer, limits))
    if isinstance(used := said.get("used_bytes"), int):
        answer.memory_bytes = min(used, answer.memory_bytes)
    answer.outputs, answer.error = said["outputs"], str(said.get("error") or "")[:300]
    if answer.error and not answer.outputs:
        raise Unprocessable(answer.error)
    return answer


def _why(number: int, answer: Answer, limits: Mapping[str, int]) -> str:
    if number == signal.SIGXCPU or answer.cpu_seconds >= limits["cpu"]:
        return f"Processing took more than {limits['cpu']} s of computing."
    if number == signal.SIGXFSZ:
        return "Processing wrote more than it may."
    if number in (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS):
        return f"Processing was ended by signal {number}; perhaps it took too much memory."
    return "Processing failed unexpectedly."
