"""The child process that makes derivatives of one original: first the walls, then the lane. It is run by its path.

It reads the original from its standard input, writes into its working folder, and answers in JSON lines: beats
while it works, at the end what it has made, or why it has made nothing.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import threading
from pathlib import Path
from typing import Any

BEAT_SECONDS = 0.5


def main(job: dict[str, Any]) -> int:
    """Do one job. Returns the exit code.

    Args:
        job: the `lane`, its `recipes`, and the `limits` of process and lane.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    walls = importlib.import_module("processing.sandbox.walls")
    walls.die_with_parent()
    walls.limit(job["limits"])
    standing = {"network": walls.leave_network()}
    lane = importlib.import_module(f"processing.lanes.{job['lane']}")  # before the walls that hide its library
    outcome = importlib.import_module("processing.lanes.outcome")
    lane.prepare()
    standing["files"] = walls.close_files(Path.cwd())
    _say({"walls": standing})
    threading.Thread(target=_beat, daemon=True).start()
    try:
        made = lane.run(sys.stdin.fileno(), job["recipes"], job["limits"])
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        _say({"outputs": made.outputs, "error": made.error, "used_bytes": used})
    except outcome.Unprocessable as error:
        _say({"outputs": [], "error": str(error)})
    except outcome.Unproven as error:
        _say({"outputs": [], "error": str(error), "unproven": True})
    except MemoryError:
        _say({"outputs": [], "error": "", "memory": True})
    return 0


def _beat() -> None:
    """Tell now and then how far the original has been read."""
    while True:
        threading.Event().wait(BEAT_SECONDS)
        _say({"beat": os.lseek(0, 0, os.SEEK_CUR)})


_turn = threading.Lock()


def _say(message: dict[str, Any]) -> None:
    with _turn:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    code = main(json.loads(sys.argv[1]))
    os._exit(code)  # libraries may hang or crash in their own farewells
