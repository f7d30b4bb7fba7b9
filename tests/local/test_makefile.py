"""The Makefile on a machine that lacks something: what it leaves, and whether the next try works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.stack import ROOT

ADVICE = "The virtual environment was not created successfully because ensurepip is not available."
# Debian without the package python3-venv makes the folder and its links, and then finds that it has no pip.
NO_VENV = f"""#!/bin/sh
if [ "$2" = venv ]; then {sys.executable} -m venv --without-pip .venv; echo "{ADVICE}"; exit 1; fi
exec {sys.executable} "$@"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout, as far as make looks at it to install nothing."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    needed = ("requirements.txt", "requirements-run.txt", "requirements-images.txt", "requirements-tables.txt")
    for name in (*needed, "constraints.txt"):
        (tmp_path / name).touch()
    return tmp_path


def make(folder: Path, python: str | Path = sys.executable) -> subprocess.CompletedProcess[str]:
    command = ["make", ".venv/run", f"PYTHON={python}"]
    # The make that runs the tests would otherwise tell this one, as its parent, to print more.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def has_pip(folder: Path) -> bool:
    command = [str(folder / ".venv/bin/python"), "-m", "pip", "--version"]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_without_python3_venv_nothing_half_is_left(folder: Path) -> None:
    bare = folder / "bare-python"
    bare.write_text(NO_VENV)
    bare.chmod(0o755)
    refused = make(folder, bare)
    assert refused.returncode == 2
    assert ADVICE in refused.stdout
    assert not (folder / ".venv").exists()


@pytest.mark.parametrize("broken", ["no pip", "no python"])
def test_a_broken_environment_is_made_anew(folder: Path, broken: str) -> None:
    environment = folder / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    if broken == "no python":
        for link in (environment / "bin").glob("python*"):
            link.unlink()
        (environment / "bin" / "python").symlink_to("/usr/bin/python-that-is-gone")
    for stamp in ("run", "test"):
        (environment / stamp).touch()
    made = make(folder)
    assert made.returncode == 0, made.stderr
    assert has_pip(folder)
    assert (environment / "run").exists()
    assert make(folder).stdout.startswith("make: '.venv/run' is up to date")
