"""The sweep takes what nobody delivers, retries end as they should, and the spool is kept clean."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from flask import Flask
from sqlalchemy import update

from core.database import db, new_id, utcnow
from core.file_row import FileRow
from delivery.deliver import BACKOFF_CAP_SECONDS, backoff_seconds, deliver, take_digest
from delivery.sweep import sweep
from models import File, UploadStatus
from ops.sweeper import Sweeper, clean
from tests.conftest import running_app
from tests.kit.bucket import keys_of
from tests.kit.damaging_proxy import DamagingProxy
from tests.kit.stack import BUCKET, wait_for
from tests.kit.uploads import accepted

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

CLOSED = "http://127.0.0.1:9"
LEASE = 30


def upload(app: Flask, mode: str = "celery") -> str:
    """Have a file accepted; in celery mode it waits, for there is no worker."""
    return str(accepted(app.test_client(), mode)["id"])


def found(app: Flask, file_id: str) -> FileRow:
    with app.app_context():
        row = File.find(file_id)
    assert row
    return row


def change(app: Flask, file_id: str, **values: object) -> None:
    """Make the row what the test needs it to be."""
    with app.app_context():
        db.session.execute(update(File).where(File.id == file_id).values(**values))
        db.session.commit()


def swept(app: Flask) -> None:
    """Sweep once, and wait until the pool is done."""
    with app.app_context():
        sweep()
    wait_for(lambda: app.extensions["ferryman"].pool.held == 0)


def delivered(app: Flask, file_id: str) -> FileRow:
    """Deliver once, as whoever's turn it is; the answer is the row."""
    with app.app_context():
        deliver(file_id)
    return found(app, file_id)


def spool_of(app: Flask) -> Path:
    return Path(app.extensions["ferryman"].spool.folder)


def test_a_row_that_nobody_took_is_taken_when_it_is_due(app: Flask) -> None:
    file_id = upload(app)
    swept(app)
    assert found(app, file_id).attempts == 0
    change(app, file_id, due_at=utcnow())
    swept(app)
    assert found(app, file_id).upload_status == UploadStatus.COMPLETE
    assert os.listdir(spool_of(app)) == ["spool-id"]


@pytest.mark.parametrize("over", [True, False])
def test_a_running_row_is_taken_when_its_lease_is_over(app: Flask, over: bool) -> None:
    file_id = upload(app)
    with app.app_context():
        assert File.claim(file_id, "a run that died", 0 if over else LEASE)
    swept(app)
    row = found(app, file_id)
    expected = (UploadStatus.COMPLETE, 2) if over else (UploadStatus.PROCESSING, 1)
    assert (row.upload_status, row.attempts) == expected


def test_rows_of_another_spool_are_left(app: Flask) -> None:
    file_id = upload(app)
    change(app, file_id, due_at=utcnow(), spool_id="elsewhere")
    swept(app)
    row = found(app, file_id)
    assert (row.upload_status, row.attempts) == (UploadStatus.PENDING, 0)


@pytest.mark.parametrize("status", [UploadStatus.COMPLETE, UploadStatus.ERROR])
def test_final_rows_are_left(app: Flask, status: UploadStatus) -> None:
    file_id = upload(app)
    change(app, file_id, due_at=utcnow(), upload_status=status)
    swept(app)
    assert (found(app, file_id).upload_status, found(app, file_id).attempts) == (status, 0)


def test_without_a_broker_a_sweep_delivers(env: dict[str, str]) -> None:
    with running_app({**env, "CELERY_BROKER_URL": "redis://127.0.0.1:9/0"}) as app:
        file_id = upload(app)
        assert found(app, file_id).due_at <= utcnow()
        swept(app)
        assert found(app, file_id).upload_status == UploadStatus.COMPLETE


@pytest.fixture
def other(env: dict[str, str]) -> Iterator[Flask]:
    """Another process of the same service, with right settings."""
    with running_app(env) as running:
        yield running


def test_a_row_that_two_sweeps_see_is_delivered_once(app: Flask, other: Flask) -> None:
    file_id = upload(app)
    change(app, file_id, due_at=utcnow())
    for each in (app, other):
        with each.app_context():
            sweep()
    for each in (app, other):
        swept(each)
    row = found(app, file_id)
    assert (row.upload_status, row.attempts) == (UploadStatus.COMPLETE, 1)


def test_the_sweeper_sweeps_at_once_and_cleans(app: Flask) -> None:
    file_id = upload(app)
    change(app, file_id, due_at=utcnow())
    delivered_earlier = upload(app)
    change(app, delivered_earlier, upload_status=UploadStatus.COMPLETE)
    sweeper = Sweeper(app)
    sweeper.start()
    wait_for(lambda: found(app, file_id).upload_status == UploadStatus.COMPLETE, 5)
    wait_for(lambda: os.listdir(spool_of(app)) == ["spool-id"], 5)
    sweeper.stop()


@pytest.fixture
def failing(env: dict[str, str]) -> Iterator[Flask]:
    """An app whose S3 is down."""
    with running_app({**env, "S3_ENDPOINT_URL": CLOSED, "MAX_ATTEMPTS": "3"}) as running:
        yield running


def test_what_may_heal_is_tried_with_growing_delays_to_the_last_attempt(failing: Flask) -> None:
    file_id = upload(failing)
    for attempt in (1, 2):
        before = utcnow()
        row = delivered(failing, file_id)
        assert (row.upload_status, row.attempts) == (UploadStatus.PENDING, attempt)
        assert (row.error, row.lease_owner) == ("S3 does not answer.", None)
        least, most = timedelta(seconds=2**attempt / 2), timedelta(seconds=2**attempt)
        assert before + least <= row.due_at <= utcnow() + most
        swept(failing)
        assert found(failing, file_id).attempts == attempt
    row = delivered(failing, file_id)
    assert (row.upload_status, row.attempts, row.error) == (UploadStatus.ERROR, 3, "S3 does not answer.")
    assert (spool_of(failing) / file_id).exists()


def test_delays_grow_with_jitter_to_a_limit() -> None:
    for attempts in (0, 1, 2, 5, 20, 1100):
        most = min(BACKOFF_CAP_SECONDS, 2.0 ** min(attempts, 20))
        seconds = {backoff_seconds(attempts) for _ in range(100)}
        assert most / 2 <= min(seconds) < max(seconds) <= most


def test_what_may_heal_is_given_up_after_its_window(failing: Flask) -> None:
    file_id = upload(failing)
    change(failing, file_id, retry_until=utcnow())
    row = delivered(failing, file_id)
    assert (row.upload_status, row.attempts) == (UploadStatus.ERROR, 1)


def test_a_crash_in_every_attempt_ends_too(failing: Flask) -> None:
    file_id = upload(failing)
    for _ in range(3):
        with failing.app_context():
            assert File.claim(file_id, new_id(), 0)
    row = delivered(failing, file_id)
    assert (row.upload_status, row.error) == (UploadStatus.ERROR, "Given up after 3 attempts.")


def test_a_refusal_is_checked_once_more(env: dict[str, str]) -> None:
    with running_app({**env, "AWS_ACCESS_SECRET": "wrong"}) as app:
        file_id = upload(app)
        assert delivered(app, file_id).upload_status == UploadStatus.PENDING
        row = delivered(app, file_id)
        assert (row.upload_status, row.attempts) == (UploadStatus.ERROR, 2)
        assert row.error == "S3 does not accept the credentials."


@pytest.mark.parametrize("damage", [b"hallo", b"hell", b""])
def test_bytes_that_were_damaged_in_the_spool_end_at_once(app: Flask, damage: bytes) -> None:
    file_id = upload(app)
    (spool_of(app) / file_id).write_bytes(damage)
    row = delivered(app, file_id)
    assert (row.upload_status, row.attempts) == (UploadStatus.ERROR, 1)
    assert row.error == "The bytes were damaged after they were received."


def test_bytes_that_are_gone_end_at_once(app: Flask) -> None:
    file_id = upload(app)
    (spool_of(app) / file_id).unlink()
    row = delivered(app, file_id)
    assert (row.upload_status, row.attempts) == (UploadStatus.ERROR, 1)
    assert row.error == "The bytes are not in the spool."


def test_what_s3_has_is_complete_though_the_database_was_restored(app: Flask) -> None:
    file_id = upload(app)
    before = delivered(app, file_id)
    assert before.upload_status == UploadStatus.COMPLETE
    with app.app_context(), db.engine.begin() as connection:
        older: dict[str, Any] = {"upload_status": UploadStatus.PENDING, "url": None, "sha256": None}
        connection.execute(update(File).values(**older))
    row = delivered(app, file_id)
    assert (row.upload_status, row.url, row.sha256) == (before.upload_status, before.url, before.sha256)


@pytest.mark.parametrize(("spooled", "digest"), [(b"hello", sha256(b"hello").hexdigest()), (b"hallo", None)])
def test_a_digest_that_was_not_taken_is_taken_by_the_cleaning(
    app: Flask, spooled: bytes, digest: str | None
) -> None:
    file_id = upload(app)
    with app.app_context():
        File.claim(file_id, "run", LEASE)
        File.complete(file_id, "run", "url", None)
        (spool_of(app) / file_id).write_bytes(spooled)
        clean()
    wait_for(lambda: os.listdir(spool_of(app)) == ["spool-id"])
    assert found(app, file_id).sha256 == digest


def test_an_erased_file_gets_no_digest(app: Flask) -> None:
    file_id = upload(app)
    with app.app_context():
        File.claim(file_id, "run", LEASE)
        File.complete(file_id, "run", "url", None)
        File.erase(file_id, found(app, file_id).owner)
        take_digest(file_id)
    assert found(app, file_id).sha256 is None


def retry(app: Flask, file_id: str) -> Any:
    return app.test_client().post(f"/files/{file_id}/retry")


def failed_for_good(failing: Flask) -> str:
    file_id = upload(failing)
    change(failing, file_id, retry_until=utcnow())
    assert delivered(failing, file_id).upload_status == UploadStatus.ERROR
    return file_id


def test_a_retry_delivers_what_had_failed(failing: Flask, other: Flask) -> None:
    file_id = failed_for_good(failing)
    answer = retry(other, file_id)
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/files/{file_id}"
    wait_for(lambda: found(other, file_id).upload_status == UploadStatus.COMPLETE)
    row = found(other, file_id)
    assert (row.attempts, row.error) == (1, None)
    assert_conflict(retry(other, file_id))


def test_a_retry_that_fails_again_has_a_new_window(failing: Flask) -> None:
    file_id = failed_for_good(failing)
    assert retry(failing, file_id).status_code == 202
    wait_for(lambda: found(failing, file_id).error)
    row = found(failing, file_id)
    assert (row.upload_status, row.attempts) == (UploadStatus.PENDING, 1)
    assert row.retry_until > utcnow() + timedelta(hours=23)


def assert_conflict(answer: Any) -> None:
    assert answer.status_code == 409, answer.text
    assert answer.content_type == "application/problem+json"


def test_only_a_failed_file_whose_bytes_are_here_can_be_retried(failing: Flask) -> None:
    assert retry(failing, new_id()).status_code == 404
    assert retry(failing, "no-id").status_code == 404
    pending = upload(failing)
    assert_conflict(retry(failing, pending))
    assert found(failing, pending).upload_status == UploadStatus.PENDING
    file_id = failed_for_good(failing)
    (spool_of(failing) / file_id).unlink()
    assert_conflict(retry(failing, file_id))
    assert found(failing, file_id).upload_status == UploadStatus.ERROR


def test_a_file_in_another_spool_cannot_be_retried_here(failing: Flask) -> None:
    file_id = failed_for_good(failing)
    change(failing, file_id, spool_id="elsewhere")
    assert_conflict(retry(failing, file_id))


def cleaned(app: Flask) -> set[str]:
    """Clean; the answer is what the spool then holds."""
    with app.app_context():
        clean()
    return set(os.listdir(spool_of(app))) - {"spool-id"}


def test_a_job_of_the_pool_that_fails_says_so(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    file_id = upload(app)
    change(app, file_id, upload_status=UploadStatus.COMPLETE)
    (spool_of(app) / file_id).unlink()
    (spool_of(app) / file_id).mkdir()  # what no digest can be taken of
    cleaned(app)
    wait_for(lambda: f"file {file_id} is left to the sweep" in caplog.messages)


def test_cleaning_drops_what_is_delivered_or_long_failed_only(env: dict[str, str]) -> None:
    with running_app({**env, "ERROR_RETENTION_SECONDS": "60"}) as app:
        ids = {name: upload(app) for name in ("pending", "running", "complete", "failed", "long failed")}
        orphan = new_id()
        (spool_of(app) / orphan).write_bytes(b"x")
        (spool_of(app) / "notes.txt").write_bytes(b"x")
        change(app, ids["complete"], upload_status=UploadStatus.COMPLETE)
        change(app, ids["failed"], upload_status=UploadStatus.ERROR)
        long_ago = utcnow() - timedelta(seconds=61)
        for name, status in (("long failed", UploadStatus.ERROR), ("pending", UploadStatus.PENDING)):
            change(app, ids[name], upload_status=status, updated_at=long_ago)
        with app.app_context():
            assert File.claim(ids["running"], "a run", 0)
        kept = {ids["pending"], ids["running"], ids["failed"], orphan, "notes.txt"}
        wait_for(lambda: cleaned(app) == kept)  # the digest of what is delivered is taken first
        assert cleaned(app) == kept


def half_file(app: Flask, age: float = 60) -> Path:
    part = spool_of(app) / f"{new_id()}.part"
    part.write_bytes(b"half")
    os.utime(part, (time.time() - age,) * 2)
    return part


def test_half_files_of_dead_writers_are_removed(app: Flask) -> None:
    dead, living, newborn = half_file(app), half_file(app), half_file(app, age=0)
    with living.open("ab") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        assert cleaned(app) == {living.name, newborn.name}
    assert cleaned(app) == {newborn.name}
    assert not dead.exists()


class Slow(BytesIO):
    """A body that stays long enough for its half file to look abandoned, and is cleaned around."""

    def __init__(self, app: Flask, body: bytes) -> None:
        super().__init__(body)
        self._app = app

    def read(self, size: int | None = -1) -> bytes:
        for part in spool_of(self._app).glob("*.part"):
            os.utime(part, (time.time() - 60,) * 2)
            assert cleaned(self._app) == {part.name}
        return super().read(size)


def test_cleaning_leaves_an_upload_alone_that_is_arriving(app: Flask) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nx\r\n--b--\r\n'
    slow = Slow(app, body)
    answer: Any = app.test_client().post(
        "/celery_upload", input_stream=slow, content_type="multipart/form-data; boundary=b"
    )
    assert answer.status_code == 202, answer.text
    assert cleaned(app) == {answer.json["id"]}


@pytest.fixture
def stuck(env: dict[str, str], damaging_proxy: DamagingProxy) -> Iterator[Flask]:
    """An app with one thread, and an S3 that takes connections and says nothing until the proxy flows."""
    settings = {**env, "S3_ENDPOINT_URL": damaging_proxy.url, "UPLOAD_THREADS": "1"}
    settings["S3_KEY_PREFIX"] = f"{uuid4().hex}/"
    with running_app(settings) as app:
        damaging_proxy.flowing.clear()
        yield app
        damaging_proxy.flowing.set()


def test_a_stop_gives_back_what_runs_and_what_waits(
    stuck: Flask,
    damaging_proxy: DamagingProxy,
    env: dict[str, str],
    bucket: S3Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running, waiting = upload(stuck, "async"), upload(stuck, "async")
    wait_for(lambda: found(stuck, running).upload_status == UploadStatus.PROCESSING)
    monkeypatch.setattr("ops.sweeper.STOP_SECONDS", 0.2)  # the clock, not the work
    Sweeper(stuck).stop()
    for file_id in (running, waiting):
        row = found(stuck, file_id)
        assert (row.upload_status, row.lease_owner) == (UploadStatus.PENDING, None)
        assert row.due_at <= utcnow()
    config = stuck.extensions["ferryman"].config
    with running_app({**env, "S3_KEY_PREFIX": config.S3_KEY_PREFIX}) as next_process:
        swept(next_process)
        rows = [found(next_process, file_id) for file_id in (running, waiting)]
        assert [row.upload_status for row in rows] == [UploadStatus.COMPLETE] * 2
        assert [row.attempts for row in rows] == [2, 1]
    damaging_proxy.flowing.set()
    wait_for(lambda: stuck.extensions["ferryman"].pool.held == 0)
    assert [found(stuck, row.id).updated_at for row in rows] == [row.updated_at for row in rows]
    assert sorted(keys_of(bucket, BUCKET, config.S3_KEY_PREFIX)) == sorted(row.key for row in rows)


def test_a_sweep_takes_no_more_than_the_pool_has_room_for(stuck: Flask) -> None:
    ids = [upload(stuck) for _ in range(4)]
    for file_id in ids:
        change(stuck, file_id, due_at=utcnow())
    with stuck.app_context():
        for _ in range(3):
            sweep()
    assert stuck.extensions["ferryman"].pool.held <= 2


def test_a_backlog_is_swept_as_fast_as_it_is_delivered(app: Flask) -> None:
    ids = [upload(app) for _ in range(60)]
    for file_id in ids:
        change(app, file_id, due_at=utcnow())
    sweeper = Sweeper(app)
    sweeper.start()
    try:  # with a second between sweeps, four at a time would take fifteen
        wait_for(lambda: all(found(app, one).upload_status == UploadStatus.COMPLETE for one in ids), 10)
    finally:
        sweeper.stop()


def test_what_is_accepted_while_the_process_stops_is_left_to_the_next(app: Flask, other: Flask) -> None:
    Sweeper(app).stop()
    file_id = upload(app, "async")
    change(app, file_id, due_at=utcnow())
    swept(app)
    assert found(app, file_id).attempts == 0
    swept(other)
    assert found(other, file_id).upload_status == UploadStatus.COMPLETE
