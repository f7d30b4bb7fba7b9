"""What the wheel holds, and the commands beside upload and watch, against a real service."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ferryman import Client, __version__
from ferryman.sources import expand
from tests.kit.stack import RedisServer, S3Server, Web

CONTENT = random.randbytes(300_000)


def test_the_wheel_holds_the_client_and_nothing_of_the_service(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"ferryman", f"ferryman-{__version__}.dist-info"}
    assert {"ferryman/client.py", "ferryman/py.typed"} <= set(names)
    assert [name for name in names if name.endswith("/licenses/LICENSE")]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, s3: S3Server, redis_server: RedisServer) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("package")
    settings = {"SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}", "SPOOL_DIR": str(folder / "spool")}
    web = Web(folder, {**s3.settings, **redis_server.settings, **settings})
    web.start()
    web.wait()
    yield web
    web.stop()


@pytest.fixture
def here(tmp_path: Path, web: Web, installed: Path) -> Here:
    return Here(tmp_path, web, installed)


class Here:
    """A folder in which the installed command runs."""

    def __init__(self, folder: Path, web: Web, installed: Path) -> None:
        self.folder = folder
        self._env = {"PATH": f"{installed}:{os.environ['PATH']}", "HOME": str(folder), "FERRYMAN_URL": web.url}

    def run(self, *words: str, expected: int = 0, stdin: bytes = b"") -> tuple[bytes, str]:
        """Run `ferryman`, and check its exit code. Returns its output and its error output."""
        command = ["ferryman", *words]
        done = subprocess.run(
            command, cwd=self.folder, env=self._env, input=stdin, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == expected, (done.stdout[-500:], done.stderr)
        return done.stdout, done.stderr.decode()

    def upload(self, *words: str, expected: int = 0) -> dict[str, str]:
        """Upload and watch. Returns the ids by the names that the service shows."""
        out, _ = self.run("upload", "--watch", "--json", *words, expected=expected)
        files = [json.loads(line)["file"] for line in out.splitlines()]
        return {file["name"]: file["id"] for file in files if file}

    def write(self, path: str, content: bytes = CONTENT) -> Path:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return target


def test_type_checkers_know_its_types(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text("from ferryman import Client\nreveal_type(Client.wait)\n")
    command = [sys.executable, "-m", "mypy", "--python-executable", str(installed / "python"), "use.py"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "ferryman.client.File" in checked.stdout, checked.stdout


def test_it_runs_as_a_module_too(installed: Path) -> None:
    command = [str(installed / "python"), "-m", "ferryman", "--version"]
    assert __version__ in subprocess.run(command, cwd="/", check=True, capture_output=True, text=True).stdout


def test_folders_are_uploaded_with_all_that_is_in_them(here: Here) -> None:
    for path in ("photos/報告書.txt", "photos/below/b.bin", "photos/below/c.tmp", "photos/.git/config", "d.txt"):
        here.write(path)
    (here.folder / "photos/link.txt").symlink_to(here.folder / "d.txt")
    (here.folder / "photos/circle").symlink_to(here.folder / "photos")
    found = here.upload("photos", "d.txt", "--recursive", "--exclude", "*.tmp", "--exclude", ".git")
    assert set(found) == {"報告書.txt", "b.bin", "link.txt", "d.txt"}


def test_a_pattern_may_name_a_path_below_the_folder(tmp_path: Path) -> None:
    for name in ("a/keep.txt", "a/b/keep.txt", "a/b/drop.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = expand([str(tmp_path / "a")], ["b/drop.*"], lambda *_: None)
    assert [Path(path).relative_to(tmp_path).as_posix() for path in found] == ["a/keep.txt", "a/b/keep.txt"]


def test_a_folder_needs_recursive_and_exclude_needs_it_too(here: Here) -> None:
    here.write("photos/a.txt")
    _, err = here.run("upload", "photos", expected=1)
    assert "photos" in err
    here.run("upload", "photos", "--exclude", "*.tmp", expected=2)


def test_files_are_listed_newest_first(here: Here) -> None:
    here.write("one.txt")
    here.write("two.txt")
    ids = [*here.upload("one.txt").values(), *here.upload("two.txt").values()]
    out, _ = here.run("list", "--limit", "2", "--json")
    assert [json.loads(line)["id"] for line in out.splitlines()] == ids[::-1]
    out, _ = here.run("list", "--name", "one.t", "--status", "COMPLETE", "--limit", "1")
    assert out.decode().split()[:3] == ["COMPLETE", ids[0], "one.txt"]
    here.run("list", "--status", "LOST", expected=2)


def test_a_download_keeps_its_name_and_replaces_nothing_unasked(here: Here) -> None:
    here.write("報告書.txt")
    [file_id] = here.upload("報告書.txt").values()
    (here.folder / "報告書.txt").write_bytes(b"mine")
    _, err = here.run("download", file_id, expected=1)
    assert "--force" in err
    assert (here.folder / "報告書.txt").read_bytes() == b"mine"
    here.run("download", file_id, "--force")
    assert (here.folder / "報告書.txt").read_bytes() == CONTENT
    (here.folder / "there").mkdir()
    here.run("download", file_id, file_id, "-o", "there", "--force")
    assert (here.folder / "there" / "報告書.txt").read_bytes() == CONTENT
    out, _ = here.run("download", file_id, "--output", "-")
    assert hashlib.sha256(out).digest() == hashlib.sha256(CONTENT).digest()
    here.run("download", file_id, file_id, "-o", "one.txt", expected=2)


@pytest.mark.parametrize("name", ["../out.txt", "a/b.txt", "C:\\x.txt", "new\nline.txt"])
def test_a_name_leads_out_of_no_folder(here: Here, web: Web, name: str) -> None:
    path = here.write("content")
    with Client(web.url) as client, path.open("rb") as content:
        file_id = client.wait(client.upload(content, name=name).id).id
    folder = here.folder / "inner"
    folder.mkdir()
    before = sorted(path.name for path in here.folder.iterdir())
    here.run("download", file_id, "--output", "inner")
    assert len(list(folder.iterdir())) == 1
    assert sorted(path.name for path in here.folder.iterdir()) == before


def test_a_delete_asks_first(here: Here) -> None:
    here.write("gone.txt")
    [file_id] = here.upload("gone.txt").values()
    here.run("delete", file_id, expected=1, stdin=b"n\n")
    here.run("download", file_id, "-o", "still.txt")
    here.run("delete", file_id, stdin=b"y\n")
    _, err = here.run("delete", file_id, "--yes", expected=1)
    assert "404" in err


def test_nothing_that_answers_is_exit_code_3(here: Here) -> None:
    _, err = here.run("download", "x", "--to", "http://127.0.0.1:9", expected=3)  # after 30 s of patience
    assert "127.0.0.1:9" in err
    here.run("list", "--to", "localhost:5000", expected=2)
