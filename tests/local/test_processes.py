"""The manager of `make run` starts again what ends, a bounded number of times, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.kit.stack import ROOT

SCRIPT = """
import sys
from local import processes
processes.FIRST_PAUSE_SECONDS = 0.02
manager = processes.Manager()
for name, command in zip(sys.argv[1::2], sys.argv[2::2]):
    manager.add_process(name, command)
manager.loop()
sys.exit(manager.returncode)
"""


def managed(*parts: str) -> subprocess.CompletedProcess[str]:
    """Run processes, each by its name and its command, to their end."""
    command = [sys.executable, "-c", SCRIPT, *parts]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_a_part_that_ends_again_and_again_ends_all() -> None:
    began = time.monotonic()
    result = managed("web", "exit 3", "s3", "exec sleep 60")
    assert time.monotonic() - began < 30
    assert result.returncode == 1
    assert result.stdout.count("web started") == 6
    assert result.stdout.count("web has ended by itself; restart ") == 5
    assert "web has ended 6 times; stopping all" in result.stdout
    assert result.stdout.count("s3 started") == 1


def test_what_a_part_has_started_ends_with_it() -> None:
    """Else its output would stay open, and nobody would see that it has ended."""
    began = time.monotonic()
    result = managed("web", "sleep 61 & exit 3", "s3", "exec sleep 60")
    assert time.monotonic() - began < 30
    assert result.returncode == 1
    left = subprocess.run(["pgrep", "-f", "^sleep 61"], capture_output=True, text=True, check=False).stdout
    assert left == ""
