"""The client asks for presets, and waits for what is made."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ferryman import Client
from ferryman.client import Problem
from tests.kit import made as kit
from tests.kit.lanes import FILES
from tests.kit.made import PHOTO
from tests.kit.stack import ROOT, RedisServer, S3Server, Web


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, server_dir: Path) -> Iterator[Web]:
    folder = server_dir / "client-processing"
    folder.mkdir()
    database = {"SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}", "SPOOL_DIR": str(folder / "spool")}
    web = Web(folder, {**s3.settings, **redis_server.settings, **kit.presets(folder), **database})
    web.start()
    web.wait()
    yield web
    web.stop()


def ferryman(web: Web, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ferryman", *arguments, "--to", web.url]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_it_waits_for_all_that_is_made(web: Web) -> None:
    with Client(web.url) as client:
        file = client.wait(client.upload(PHOTO, process=["thumb", "small"]).id, 60)
        assert file.derivatives_status == "COMPLETE"
        assert [one["preset"] for one in file.derivatives or ()] == ["thumb", "small"]
        again = client.wait(client.process(file.id, ["thumb"]).id, 60)
        assert again.derivatives == file.derivatives
        with pytest.raises(Problem, match="There is no preset 'tumb' here"):
            client.upload(PHOTO, process=["tumb"])


def test_hints_go_with_a_preset(web: Web) -> None:
    with Client(web.url) as client:
        source = FILES / "duckdb--shift_jis.csv"
        file = client.wait(client.upload(source, process=["orders?encoding=shift_jis"]).id, 60)
        assert file.derivatives_status == "COMPLETE"


def test_the_command_asks_for_presets(web: Web) -> None:
    sent = ferryman(web, "upload", str(PHOTO), "--process", "thumb", "--watch")
    assert sent.returncode == 0, sent.stderr
    with Client(web.url) as client:
        file = next(client.files())
    assert file.derivatives_status == "COMPLETE"
    made = ferryman(web, "process", file.id, "small")
    assert made.returncode == 0, made.stderr
    assert "sharp--Landscape_6-small.jpg" in made.stdout
    refused = ferryman(web, "process", file.id, "tumb")
    assert refused.returncode != 0
    assert "There is no preset 'tumb' here" in refused.stderr
