"""The client with metadata, tokens and links, against a service with keys."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests

from ferryman.client import Client, ClientError, Problem
from tests.kit.stack import RedisServer
from tests.kit.tokens import SECRET, Ferry, running_ferry
from tests.kit.zoo import PNG


@pytest.fixture(scope="module")
def ferry(s3: Any, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ferry]:
    with running_ferry(tmp_path_factory.mktemp("users"), {**s3.settings, **redis_server.settings}) as found:
        yield found


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    return path


def run(ferry: Ferry, installed: Path, *words: str | Path, expected: int = 0) -> str:
    env = {"PATH": os.environ["PATH"], "FERRYMAN_URL": ferry.web.url, "FERRYMAN_KEY": ferry.key}
    done = subprocess.run([installed / "ferryman", *words], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == expected, (done.stdout, done.stderr)
    return done.stdout if expected == 0 else done.stderr


def test_metadata_and_links_by_the_command(ferry: Ferry, installed: Path, picture: Path) -> None:
    words = ("--metadata", "order=17", "--metadata", "album=Größe = 5")
    run(ferry, installed, "upload", picture, "--mode", "normal", *words, "--expires-in", "3600")
    [line] = run(ferry, installed, "list", *words).splitlines()
    file_id = line.split()[1]
    row = ferry.get(f"/files/{file_id}").json()
    assert row["metadata"] == {"order": "17", "album": "Größe = 5"}
    assert row["expires_at"]
    assert run(ferry, installed, "list", "--metadata", "order=18") == ""
    address = run(ferry, installed, "link", file_id, "--inline", "--expires-in", "60").strip()
    got = requests.get(address, timeout=20)
    assert (got.content, got.headers["Content-Disposition"].split(";")[0]) == (PNG, "inline")
    assert "NAME=VALUE" in run(ferry, installed, "upload", picture, "--metadata", "order", expected=2)


def test_a_token_by_the_command_is_for_its_user(ferry: Ferry, installed: Path, picture: Path) -> None:
    limits = ("--max-files", "1", "--content-type", "image/*", "--mode", "normal", "--metadata", "album=7")
    token = run(ferry, installed, "tokens", "create", "--subject", "u-1", "--grant", "upload", *limits).strip()
    claims = jwt.decode(token.removeprefix("fmu_"), SECRET, ["HS256"], audience="ferryman:upload")
    assert claims["sub"] == "u-1"
    assert claims["grants"] == ["upload"]
    with Client(ferry.web.url, token=token) as client:
        assert client.upload(picture, "normal").metadata == {"album": "7"}
        with pytest.raises(Problem, match="all its files"):
            client.upload(picture, "normal")
    [line] = run(ferry, installed, "list", "--subject", "u-1").splitlines()
    assert "a.png" in line


def expired() -> str:
    now = int(time.time())
    claims = {"aud": "ferryman:upload", "jti": "x", "iat": now - 100, "exp": now - 1, "owner": "alice"}
    return "fmu_" + jwt.encode({**claims, "sub": "u-2", "grants": ["upload", "read"], "limits": {}}, SECRET)


def test_an_expired_token_is_fetched_again_also_in_the_middle(ferry: Ferry, picture: Path) -> None:
    given = [expired(), ferry.token(subject="u-2"), expired(), ferry.token(subject="u-2")]
    asked = iter(given)
    with Client(ferry.web.url, token=lambda: next(asked)) as client:
        with pytest.raises(Problem, match="expired"):
            client.upload(picture)  # what was just fetched is not fetched again
        row = client.upload(picture)
        assert row.subject == "u-2"
        assert client.wait(row.id).upload_status == "COMPLETE"
        client._session.auth = None  # as a client that was made later
        with pytest.raises(Problem, match="expired"):
            client.file(row.id)
        assert [one.id for one in client.files()] == [row.id]


def test_a_file_is_edited_and_linked(ferry: Ferry, picture: Path) -> None:
    with Client(ferry.web.url, ferry.key) as client:
        row = client.upload(picture, "normal", metadata={"a": "1", "b": "2"}, expires_in=600)
        assert client.edit(row.id, name="b.png", metadata={"a": None}).metadata == {"b": "2"}
        assert client.file(row.id).name == "b.png"
        assert requests.get(client.link(row.id, disposition="inline").url, timeout=20).content == PNG
        assert client.create_token("u-3", max_files=1).token.startswith("fmu_")
        assert [one.id for one in client.files(**{"metadata.b": "2"})] == [row.id]


def test_a_key_and_a_token_are_too_much(ferry: Ferry) -> None:
    with pytest.raises(ValueError, match="not both"):
        Client(ferry.web.url, ferry.key, token="fmu_x")
    with pytest.raises(ClientError, match="valid"), Client(ferry.web.url, token="fmu_x") as client:
        client.file("0" * 32)
