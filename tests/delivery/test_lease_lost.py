"""A run that loses its lease stops sending at once, says so without alarm, and deletes nothing of the next run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from sqlalchemy import create_engine, text

from config import MIB
from tests.kit.proxy import Link, Proxy
from tests.kit.samples import parsed
from tests.kit.stack import RedisServer, S3Server, Web, wait_for

THIEF = "f" * 32
KIB_64_SECONDS = 0.01  # about 6 MB/s


class SlowLink(Proxy):
    """A slow way to S3 that counts the bytes of bodies, and the requests by method."""

    def __init__(self, upstream: int) -> None:
        super().__init__(upstream)
        self.sent = 0
        self.deleted: list[bytes] = []
        self.on_request = self._count

    def _count(self, link: Link, data: bytes) -> bool:
        if data.startswith(b"DELETE "):
            self.deleted.append(data.partition(b" HTTP")[0])
        self.sent += len(data)
        time.sleep(KIB_64_SECONDS)
        return False


@pytest.fixture(scope="module")
def link(s3: S3Server) -> Iterator[SlowLink]:
    with closing(SlowLink(s3.port)) as link:
        yield link


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, link: SlowLink, server_dir: Path) -> Iterator[Web]:
    folder = server_dir / "lease-lost"
    folder.mkdir()
    env = {
        **s3.settings,
        **redis_server.settings,
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{link.port}",
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
        "LOG_FORMAT": "text",
    }
    web = Web(folder, env)
    web.start()
    web.wait()
    yield web
    web.stop()


def steal(web: Web, file_id: str) -> None:
    """Be another run that takes the row over, as after a pause in which the lease ran out."""
    engine = create_engine(web.env["SQLALCHEMY_DATABASE_URI"])
    values = {"thief": THIEF, "due": datetime.now(UTC) + timedelta(minutes=5), "id": file_id}
    with engine.begin() as connection:
        connection.execute(text("UPDATE files SET lease_owner = :thief, due_at = :due WHERE id = :id"), values)
    engine.dispose()


def delete(web: Web, file_id: str) -> None:
    assert requests.delete(f"{web.url}/files/{file_id}", timeout=10).status_code == 204


def counted(web: Web, cause: str) -> float:
    samples = parsed(requests.get(f"{web.url}/metrics", timeout=5).text)
    return samples.get(("ferryman_errors_total", cause), 0)


@pytest.mark.parametrize(
    ("size", "most"), [(24 * MIB, 20 * MIB), (140 * MIB, 64 * MIB)], ids=["in one request", "in parts"]
)
@pytest.mark.parametrize("take_away", [steal, delete])
def test_a_lost_lease_ends_the_transfer_and_is_no_alarm(
    web: Web, link: SlowLink, take_away: Callable[[Web, str], None], size: int, most: int
) -> None:
    before, log_before = counted(web, "LeaseLost"), len(web.text())
    link.sent, link.deleted = 0, []
    file_id = web.upload("async", "large.bin", bytes(size)).json()["id"]
    wait_for(lambda: link.sent > 2 * MIB, what="start of the transfer")
    take_away(web, file_id)
    wait_for(lambda: counted(web, "LeaseLost") == before + 1, 20, "end of the run")
    time.sleep(2.5)  # in which botocore would send the body again
    assert link.sent < most
    assert counted(web, "Unexpected") == 0
    assert counted(web, "StoreError") == 0
    logged = web.text()[log_before:]
    assert "Traceback" not in logged
    assert "does not answer" not in logged
    if take_away is steal:
        assert web.file(file_id)["upload_status"] == "PROCESSING"
        assert not [request for request in link.deleted if b"large" in request and b"uploadId" not in request]
