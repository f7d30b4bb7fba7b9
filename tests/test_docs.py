"""The docs: their commands run as written, and what they name exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import psutil
import pytest

import embedded
from config import Config
from tests.stack import ROOT, wait_for

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^ *```sh(.*)\n((?:.*\n)*?) *```$", re.MULTILINE)
LINK = re.compile(r"\]\((?!http|mailto|#)([^)#]+)")
SAMPLES = {"report.pdf": b"%PDF-1.7\n" + bytes(200_000), "photo.png": b"\x89PNG\r\n\x1a\n" + bytes(5000)}
SAMPLES["data.csv"] = b"name,size\na,1\nb,2\n"


def blocks(document: Path) -> list[str]:
    """The commands of a document that can be tried; the others say why not."""
    found = FENCE.findall(document.read_text())
    assert all(not note.strip() or note.strip().startswith("no-test: ") for note, _ in found)
    return [commands for note, commands in found if not note.strip()]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A running service as `make run` starts it; the answer is the environment of a reader's shell."""
    folder = tmp_path_factory.mktemp("docs")
    port, data = embedded.free_port(), folder / "data"
    given = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder)}
    with (folder / "run.log").open("wb") as log:
        env = {**given, "PORT": str(port), "DATA_DIR": str(data)}
        run = subprocess.Popen([sys.executable, "run.py"], cwd=ROOT, env=env, stdout=log, stderr=log)
    try:
        wait_for(lambda: "Ferryman is ready" in (folder / "run.log").read_text(errors="replace"), 60)
        # Where the embedded parts listen; a reader with parts of their own has these in .env.
        settings = Path(f"/proc/{web_process(run.pid)}/environ").read_bytes().decode().split("\0")
        names = {setting.name for setting in fields(Config)}
        known = dict(line.split("=", 1) for line in settings if line.split("=", 1)[0] in names)
        yield {**given, **known, "PORT": str(port)}
    finally:
        run.terminate()
        run.wait(60)


def web_process(parent: int) -> int:
    """The process that `make run` started for the web server, which knows all settings."""
    children = psutil.Process(parent).children(recursive=True)
    return next(child.pid for child in children if "gunicorn" in child.cmdline())


TRIED = [document for document in DOCS if blocks(document)]


@pytest.mark.parametrize(
    "document", [document for document in DOCS if blocks(document)], ids=lambda path: path.name
)
def test_the_commands_run_as_written(shell: dict[str, str], document: Path, tmp_path: Path) -> None:
    for name in (*(path.name for path in ROOT.glob("*.py")), "migrations", "templates", "static"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, content in SAMPLES.items():
        (tmp_path / name).write_bytes(content)
    script = "\n".join(blocks(document)).replace("localhost:5000", f"localhost:{shell['PORT']}")
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-x", "-c", script.replace("curl ", "curl --fail ")],
        cwd=tmp_path,
        env=shell,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_what_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    for link in LINK.findall(text):
        assert (document.parent / link).exists(), link
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in tests, name
    for name in re.findall(r"\btest_\w+\.py", text):
        assert list((ROOT / "tests").rglob(name)), name


def test_the_newcomers_documents_have_commands() -> None:
    assert {"quickstart.md", "upgrade.md", "troubleshooting.md"} <= {document.name for document in TRIED}
