"""Uploads by tus in any order of events: whatever happens, what was acknowledged is there, and files are right."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import ClassVar

import pytest
import requests
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    rule,
    run_state_machine_as_test,
)

from tests.kit.stack import RedisServer, S3Server, Web, serving, wait_for
from tests.kit.tus import Tus, checksum

KIB = 1024
MOST = 40 * KIB
KILLS = 2


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(
        tmp_path_factory.mktemp("machine"), s3, redis_server, workers=2, UPLOADS_UNFINISHED="1000"
    ) as web:
        yield web


class Known:
    """What a client knows of an upload."""

    def __init__(self, path: str, content: bytes, is_part: bool) -> None:
        self.path = path
        self.content = content
        self.is_part = is_part
        self.acknowledged = 0


class Uploads(RuleBasedStateMachine):
    """Clients that upload, and a service that dies now and then."""

    web: ClassVar[Web]
    going = Bundle("going")
    parts = Bundle("parts")

    def __init__(self) -> None:
        super().__init__()
        self.tus = Tus(self.web.url)
        self.files: list[tuple[str, bytes]] = []
        self.kills = 0

    @initialize(target=going, size=st.integers(0, MOST))
    def first(self, size: int) -> object:
        return self.create(size, False)

    @rule(target=going, size=st.integers(1, MOST), is_part=st.booleans())
    def create(self, size: int, is_part: bool) -> object:
        content = random.randbytes(size)
        more = {"Upload_Concat": "partial"} if is_part else {}
        known = Known(self.tus.begin(size, **more), content, is_part)
        if not size:
            self.files.append((known.path, b""))
            return multiple()
        return known

    @rule(known=going, share=st.floats(0.1, 1), sums=st.sampled_from(["none", "right", "wrong"]))
    def patch(self, known: Known, share: float, sums: str) -> None:
        offset = self.tus.head(known.path).offset
        piece = known.content[offset : offset + int(share * len(known.content)) + 1]
        more = {"Upload_Checksum": checksum("sha1", piece if sums == "right" else b"x")} if sums != "none" else {}
        answer = self.tus.patch(known.path, offset, piece, **more)
        if sums == "wrong":
            assert answer.status == 460
            assert self.tus.head(known.path).offset == offset
            return
        assert (answer.status, answer.offset) == (204, offset + len(piece))
        known.acknowledged = answer.offset

    @rule(known=going, shift=st.integers(1, 100))
    def patch_elsewhere(self, known: Known, shift: int) -> None:
        offset = self.tus.head(known.path).offset
        answer = self.tus.patch(known.path, offset + shift, b"")
        assert (answer.status, answer.offset) == (409, offset)

    @rule(known=going, share=st.floats(0.1, 0.9))
    def break_off(self, known: Known, share: float) -> None:
        offset = self.tus.head(known.path).offset
        rest = known.content[offset:]
        sent = rest[: int(share * len(rest))]
        if rest:
            with self.tus.stalled(known.path, offset, sent, len(rest)):
                pass
            wait_for(lambda: self.tus.head(known.path).offset == offset + len(sent), what="kept bytes")

    @rule(known=going)
    def head(self, known: Known) -> None:
        answer = self.tus.head(known.path)
        assert answer.status == 200
        assert known.acknowledged <= answer.offset <= len(known.content)

    @rule(known=consumes(going))
    def terminate(self, known: Known) -> None:
        is_done = self.tus.head(known.path).offset == len(known.content) and not known.is_part
        assert self.tus.ask("DELETE", known.path).status == 204
        assert self.tus.head(known.path).status in ((410, 200) if is_done else (410,))

    @rule(known=consumes(going))
    def expire(self, known: Known) -> None:
        answer = self.tus.head(known.path)
        if answer.offset == len(known.content):
            self.keep(known)
            return
        database = self.web.env["SQLALCHEMY_DATABASE_URI"].removeprefix("sqlite:///")
        with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
            old = ("2026-01-01 00:00:00.000000", known.path.rpartition("/")[2])
            connection.execute("UPDATE uploads SET expires_at = ? WHERE id = ?", old)
        assert self.tus.head(known.path).status == 410

    @rule(target=parts, known=consumes(going))
    def complete(self, known: Known) -> object:
        offset = self.tus.head(known.path).offset
        if offset < len(known.content):
            assert self.tus.patch(known.path, offset, known.content[offset:]).status == 204
        if known.is_part:
            return known
        self.keep(known)
        return multiple()

    def keep(self, known: Known) -> None:
        if not known.is_part:
            self.files.append((known.path, known.content))

    @rule(chosen=st.lists(consumes(parts), min_size=1, max_size=3))
    def concatenate(self, chosen: list[Known]) -> None:
        paths = " ".join(known.path for known in chosen)
        final = self.tus.begin(Upload_Concat=f"final;{paths}")
        self.files.append((final, b"".join(known.content for known in chosen)))

    @rule()
    def kill(self) -> None:
        if self.kills < KILLS:
            self.kills += 1
            self.web.kill()
            self.web.start()
            self.web.wait()

    def teardown(self) -> None:
        for path, content in self.files:
            file_id = path.rpartition("/")[2]
            wait_for(lambda file_id=file_id: there(self.web, file_id), 30, "File")  # type: ignore[misc]
            assert self.web.settled(file_id)["upload_status"] == "COMPLETE"
            found = requests.get(f"{self.web.url}/files/{file_id}/content?proxy=1", timeout=20)
            assert found.content == content


def there(web: Web, file_id: str) -> bool:
    return requests.get(f"{web.url}/files/{file_id}", timeout=20).ok


@pytest.mark.timeout(300)
def test_any_order_of_events(web: Web) -> None:
    chosen = settings(
        max_examples=3,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    Uploads.web = web
    run_state_machine_as_test(Uploads, settings=chosen)
