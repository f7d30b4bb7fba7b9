"""Two hosts, one of which never comes back: whoever lives ends what needs no bytes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import requests
from sqlalchemy import Engine, create_engine, text

from access import keys
from tests.conftest import running_app
from tests.kit.proxy import Proxy
from tests.kit.stack import BUCKET, RedisServer, S3Server, Web, wait_for

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

CONTENT = b"x" * 300_000
LONG_AGO = "2026-01-01 00:00:00.000000"
CLEAN_SECONDS = 30  # housekeeping begins every ten


class Hosts(NamedTuple):
    """Two web servers with a spool each, on one database."""

    first: Web
    second: Web
    database: Engine
    settings: dict[str, str]
    headers: dict[str, str]

    def upload(self, web: Web, mode: str = "async") -> requests.Response:
        files = {"file": ("a.bin", CONTENT)}
        return requests.post(f"{web.url}/{mode}_upload", files=files, headers=self.headers, timeout=30)

    def file(self, file_id: str) -> requests.Response:
        return requests.get(f"{self.second.url}/files/{file_id}", headers=self.headers, timeout=20)

    def status(self, file_id: str) -> str:
        answer = self.file(file_id)
        assert answer.ok, answer.text
        status: str = answer.json()["upload_status"]
        return status

    def execute(self, statement: str) -> None:
        with self.database.begin() as connection:
            connection.execute(text(statement))

    def lose_the_first(self) -> None:
        """Kill it, take its disk, and let a quarter of an hour pass."""
        self.first.kill()
        folder = Path(self.first.env["SPOOL_DIR"])
        name = (folder / "spool-id").read_text()
        shutil.rmtree(folder)
        self.execute(f"UPDATE spools SET seen_at = '{LONG_AGO}' WHERE id = '{name}'")
        self.execute(f"UPDATE files SET due_at = '{LONG_AGO}' WHERE upload_status = 'PROCESSING'")


@pytest.fixture
def hosts(
    s3: S3Server, redis_server: RedisServer, s3_link: Proxy, database_uri: str, tmp_path: Path
) -> Iterator[Hosts]:
    settings = {
        **s3.settings,
        **redis_server.settings,
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{s3_link.port}",
        "SQLALCHEMY_DATABASE_URI": database_uri,
        "AUTH": "required",
        "KEY_FILES_IN_FLIGHT": "3",
        "LEASE_SECONDS": "2",
    }
    webs = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        webs.append(Web(tmp_path / name, {**settings, "SPOOL_DIR": str(tmp_path / name / "spool")}))
    database = create_engine(database_uri)
    try:
        for web in webs:
            web.start()
        for web in webs:
            web.wait()
        with running_app({**settings, "SPOOL_DIR": str(tmp_path / "third")}) as app, app.app_context():
            headers = {"Authorization": f"Bearer {keys.create_key('alice')}"}
        yield Hosts(webs[0], webs[1], database, settings, headers)
    finally:
        for web in webs:
            web.kill()
        database.dispose()


def test_whoever_lives_ends_what_a_lost_host_cannot(hosts: Hosts, s3_link: Proxy, bucket: S3Client) -> None:
    deleted = hosts.upload(hosts.first, "normal").json()
    s3_link.refuse()
    assert requests.delete(f"{hosts.second.url}/files/{deleted['id']}", headers=hosts.headers, timeout=60).ok
    gone, sent, waiting = (hosts.upload(hosts.first).json() for _ in range(3))
    bucket.put_object(Bucket=BUCKET, Key=sent["key"], Body=CONTENT)  # S3 took it, and the host died before it knew
    assert hosts.upload(hosts.second).status_code == 429
    hosts.lose_the_first()
    assert hosts.upload(hosts.second).status_code == 202  # what nobody may ever deliver is not in flight
    hosts.execute(f"UPDATE files SET retry_until = '{LONG_AGO}' WHERE id IN ('{gone['id']}', '{sent['id']}')")
    s3_link.recover()

    wait_for(lambda: hosts.status(gone["id"]) == "ERROR", CLEAN_SECONDS, "end of what is lost")
    since = "has not been seen since 2026-01-01 00:00 UTC."
    assert hosts.file(gone["id"]).json()["error"] == f"The host that held the file's bytes {since}"
    assert hosts.status(waiting["id"]) != "ERROR"  # within its retry window the host may come back
    wait_for(lambda: hosts.status(sent["id"]) == "COMPLETE", CLEAN_SECONDS, "what S3 has all the same")
    retry = requests.post(f"{hosts.second.url}/files/{gone['id']}/retry", headers=hosts.headers, timeout=20)
    assert retry.status_code == 409

    def is_removed() -> bool:
        with hosts.database.connect() as connection:
            found = connection.execute(text(f"SELECT id FROM files WHERE id = '{deleted['id']}'")).first()
        return found is None

    wait_for(is_removed, CLEAN_SECONDS, "end of the deleted file")
    assert not bucket.list_objects_v2(Bucket=BUCKET, Prefix=deleted["key"]).get("Contents")


def test_reconcile_names_the_rows_of_a_lost_host_and_ends_them(
    hosts: Hosts, s3_link: Proxy, tmp_path: Path
) -> None:
    s3_link.refuse()
    file_id = hosts.upload(hosts.first).json()["id"]
    hosts.lose_the_first()
    s3_link.recover()
    with running_app({**hosts.settings, "SPOOL_DIR": str(tmp_path / "third")}) as app:
        reported = app.test_cli_runner().invoke(args=["reconcile"])
        assert f"not seen since 2026-01-01 00:00: {file_id} (would be mended by --apply)" in reported.output
        assert hosts.status(file_id) != "ERROR"
        applied = app.test_cli_runner().invoke(args=["reconcile", "--apply"])
        assert f"{file_id} (mended)" in applied.output
    assert hosts.status(file_id) == "ERROR"


def test_a_retry_over_another_host_is_done_by_the_one_that_has_the_bytes(hosts: Hosts, s3_link: Proxy) -> None:
    s3_link.refuse()
    failed = hosts.upload(hosts.first, "normal")
    assert failed.status_code == 502
    file_id = failed.json()["file_id"]
    s3_link.recover()
    retry = requests.post(f"{hosts.second.url}/files/{file_id}/retry", headers=hosts.headers, timeout=20)
    assert retry.status_code == 202
    wait_for(lambda: hosts.status(file_id) == "COMPLETE", what="delivery by the first host")
