"""Every legal move of a status, and none but those; on both databases."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from flask import Flask
from flask_migrate import Migrate, downgrade, upgrade
from sqlalchemy import inspect

from core import database
from core.database import db, utcnow
from core.file_row import FileRow
from models import File, UploadStatus
from storage import file_queries
from tests.kit.stack import ROOT

LEASE = 30


@pytest.fixture
def app(database_uri: str) -> Iterator[Flask]:
    """An app with nothing but the database, made by the migrations."""
    app = Flask(__name__)
    database.init_app(app, database_uri, survive_power_loss=False)
    Migrate(app, db, directory=str(ROOT / "migrations"))
    with app.app_context():
        upgrade()
        yield app
        db.session.remove()
        db.engine.dispose()


@pytest.fixture
def file_id(app: Flask) -> str:
    return add_file()


def add_file() -> str:
    row = File(
        id=database.new_id(),
        owner="anonymous",
        name="報告書.txt",
        key=database.new_id(),
        mode="async",
        size=1,
        content_type="text/plain",
        crc64nvme="AAAAAAAAAAA=",
        spool_id="here",
        due_at=utcnow() + timedelta(seconds=LEASE),
        retry_until=utcnow() + timedelta(hours=1),
    )
    db.session.add(row)
    db.session.commit()
    return row.id


def found(file_id: str) -> FileRow:
    row = File.find(file_id)
    assert row
    return row


def test_migrations_make_what_the_models_say(app: Flask) -> None:
    columns = {column["name"]: column for column in inspect(db.engine).get_columns("files")}
    assert set(columns) == set(File.__table__.columns.keys())
    for column in File.__table__.columns:
        assert columns[column.name]["nullable"] == column.nullable, column.name
    downgrade(revision="base")
    assert "files" not in inspect(db.engine).get_table_names()


def test_a_new_file_is_pending(file_id: str) -> None:
    row = found(file_id)
    assert row.upload_status == UploadStatus.PENDING
    assert row.attempts == 0
    assert row.created_at.tzinfo is not None
    assert abs(utcnow() - row.created_at) < timedelta(seconds=10)


def test_one_run_claims_a_file(file_id: str) -> None:
    row = File.claim(file_id, "one", LEASE)
    assert row
    assert (row.upload_status, row.lease_owner, row.attempts) == (UploadStatus.PROCESSING, "one", 1)
    assert row.due_at > utcnow()
    assert File.claim(file_id, "two", LEASE) is None
    assert found(file_id).lease_owner == "one"


def test_of_many_runs_at_once_one_claims(app: Flask, file_id: str) -> None:
    def claim(owner: str) -> bool:
        with app.app_context():
            return File.claim(file_id, owner, LEASE) is not None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, map(str, range(8)))) == 1
    assert found(file_id).attempts == 1


def test_a_lease_that_has_run_out_can_be_claimed_and_its_owner_changes_nothing_more(file_id: str) -> None:
    assert File.claim(file_id, "slow", 0)
    time.sleep(0.01)
    assert File.claim(file_id, "next", LEASE)
    assert not File.renew(file_id, "slow", LEASE)
    assert not File.complete(file_id, "slow", "url", "sha")
    assert not File.fail(file_id, "slow", "reason")
    row = found(file_id)
    assert (row.upload_status, row.lease_owner, row.attempts) == (UploadStatus.PROCESSING, "next", 2)


def test_a_renewed_lease_holds(file_id: str) -> None:
    assert File.claim(file_id, "one", 0)
    assert File.renew(file_id, "one", LEASE)
    assert File.claim(file_id, "two", LEASE) is None


def test_complete_is_final(file_id: str) -> None:
    assert File.claim(file_id, "one", LEASE)
    assert File.complete(file_id, "one", "http://x/key", "f" * 64)
    row = found(file_id)
    assert (row.upload_status, row.url, row.sha256) == (UploadStatus.COMPLETE, "http://x/key", "f" * 64)
    assert row.completed_at
    assert row.lease_owner is None
    assert File.claim(file_id, "two", LEASE) is None
    assert not File.renew(file_id, "one", LEASE)
    assert not File.fail(file_id, "one", "reason")


def test_error_keeps_its_reason(file_id: str) -> None:
    assert File.claim(file_id, "one", LEASE)
    assert File.fail(file_id, "one", "S3 does not answer.")
    row = found(file_id)
    assert (row.upload_status, row.error) == (UploadStatus.ERROR, "S3 does not answer.")
    assert File.claim(file_id, "two", LEASE) is None


def test_nothing_moves_a_file_that_nobody_claimed(file_id: str) -> None:
    assert not File.complete(file_id, "one", "url", "sha")
    assert not File.fail(file_id, "one", "reason")
    assert File.claim("unknown", "one", LEASE) is None


def test_the_oldest_undelivered_file_is_known(file_id: str) -> None:
    assert file_queries.oldest_undelivered() == found(file_id).created_at
    File.claim(file_id, "one", LEASE)
    assert file_queries.oldest_undelivered() == found(file_id).created_at
    File.complete(file_id, "one", "url", "sha")
    assert file_queries.oldest_undelivered() is None
