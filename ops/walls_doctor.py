"""The doctor of processing: which libraries are there, and which walls stand around a child on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from config import Config
from core.database import utcnow
from models import File
from ops.doctor import Probe
from processing.budgets import limits_of
from processing.presets import LIBRARIES, REQUIREMENTS
from processing.sandbox import parent as sandbox

SECONDS = 20
WALLS = {
    "network": (
        "no network, no other processes (namespaces)",
        "the kernel or the container does not grant namespaces",
    ),
    "files": ("no files but its own (Landlock)", "the kernel has no Landlock"),
}


def examine(config: Config) -> Iterator[Probe]:
    """Start a child, and tell what it stands behind.

    Raises:
        ProcessorDied: no child can work here.
    """
    for kind, library in LIBRARIES.items():
        yield _probe(
            f"presets of kind {kind} ({library})",
            find_spec(library) is not None,
            f"pip install -r {REQUIREMENTS[kind]}",
        )
    limits = limits_of("image", File.draft("", size=0, created_at=utcnow()), config)
    with TemporaryDirectory() as scratch, open(__file__, "rb") as source:
        answer = sandbox.run("nothing", [], limits, source, Path(scratch), lambda: None, SECONDS)
    yield Probe("limits of memory, computing, files and time", True)
    for name, (question, reason) in WALLS.items():
        yield _probe(question, bool(answer.walls.get(name)), reason)


def _probe(question: str, passed: bool, reason: str) -> Probe:
    return Probe(question, passed, "" if passed else reason, is_needed=False)
