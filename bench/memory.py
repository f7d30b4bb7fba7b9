"""The peak memory of a process and its children over what they held before."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

KIB_PER_MB = 1000 * 1000 / 1024


class Peak:
    """Sums, over a tree of processes, what each held at its peak beyond what it held when this was made.

    Args:
        pid: the root of the tree.

    Source: proc(5): writing 5 to /proc/PID/clear_refs sets the high-water mark VmHWM back to the present.
    """

    def __init__(self, pid: int) -> None:
        root = psutil.Process(pid)
        self._pids = [process.pid for process in (root, *root.children(recursive=True))]
        for each in self._pids:
            Path(f"/proc/{each}/clear_refs").write_text("5")
        self._idle = {each: _kib(each, "VmRSS") for each in self._pids}

    def over_idle_mb(self) -> float:
        """The sum so far, in MB."""
        return sum(max(0, _kib(pid, "VmHWM") - self._idle[pid]) for pid in self._pids) / KIB_PER_MB


def _kib(pid: int, field: str) -> int:
    """Read a field of a process's status; 0 if the process is gone."""
    with suppress(FileNotFoundError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
    return 0
