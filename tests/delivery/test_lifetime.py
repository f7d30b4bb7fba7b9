"""How long files and rows live: what has expired goes, what was kept long enough goes, and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, update

from core.database import db, utcnow
from delivery import lifetime
from delivery.erase import remove_erased
from models import File, MetadataEntry, UploadStatus
from tests.conftest import running_app
from tests.kit.bucket import keys_of
from tests.kit.receiver import SECRET as HOOK_SECRET
from tests.kit.receiver import Receiver
from tests.kit.stack import BUCKET, RedisServer, wait_for
from tests.kit.tokens import Ferry, running_ferry
from tests.kit.uploads import accepted, upload


@pytest.fixture
def hook() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


@pytest.mark.parametrize("how", ["by the form", "by a token", "by FILE_TTL_SECONDS"])
def test_a_file_whose_time_is_over_is_deleted_and_the_webhook_told(
    env: dict[str, str], database_uri: str, tmp_path: Path, hook: Receiver, how: str, bucket: Any
) -> None:
    more = {"SQLALCHEMY_DATABASE_URI": database_uri, "WEBHOOK_URL": hook.url, "WEBHOOK_SECRET": HOOK_SECRET}
    if how == "by FILE_TTL_SECONDS":
        more["FILE_TTL_SECONDS"] = "3"
    with running_ferry(tmp_path, {**env, **more}) as ferry:
        limits = {"file_expires_in": 3} if how == "by a token" else {}
        data = {"expires_in": "3"} if how == "by the form" else {}
        began = time.monotonic()
        row = ferry.upload(ferry.token(subject="42", **limits), mode="normal", data=data).json()
        kept = ferry.upload(mode="normal", data={"expires_in": "3"} if how == "by FILE_TTL_SECONDS" else {}).json()
        assert row["expires_at"] > row["created_at"]
        assert row["key"] in keys_of(bucket, BUCKET)
        wait_for(lambda: _is_gone(ferry, row["id"]), 30)
        assert time.monotonic() - began >= 3
        wait_for(lambda: row["key"] not in keys_of(bucket, BUCKET), 30)
        if how != "by FILE_TTL_SECONDS":
            assert ferry.get(f"/files/{kept['id']}").status_code == 200
        wait_for(lambda: _told(hook, "file.expired", row["id"]), 20)
        [message] = _told(hook, "file.expired", row["id"])
        assert message["upload_status"] == "COMPLETE"
        assert (message["key"], message["subject"], message["error"]) == (row["key"], "42", None)


def _is_gone(ferry: Ferry, file_id: str) -> bool:
    return ferry.get(f"/files/{file_id}").status_code == 404


def _told(hook: Receiver, kind: str, file_id: str) -> list[dict[str, Any]]:
    messages = [json.loads(body) for _, body in hook.got]
    return [one["data"] for one in messages if one["type"] == kind and one["data"]["id"] == file_id]


@pytest.mark.parametrize("seconds", ["0", "-1", "1.5", "soon", "1e9", "999999999999", "9999999999999", "\u0661"])
def test_a_lifetime_that_cannot_be_is_refused(client: Any, seconds: str) -> None:
    answer = client.post("/async_upload", data={"file": (BytesIO(b"x"), "a.txt"), "expires_in": seconds})
    assert answer.status_code == 400
    assert "expires_in" in answer.json["detail"]


def test_the_services_own_lifetime_is_the_longest(env: dict[str, str]) -> None:
    with running_app({**env, "FILE_TTL_SECONDS": "100"}) as app:
        for asked, status in (("99", 202), ("100", 202), ("101", 400)):
            form = {"file": (BytesIO(b"x"), "a.txt"), "expires_in": asked}
            assert app.test_client().post("/async_upload", data=form).status_code == status


def test_a_file_that_expires_before_it_is_in_s3_is_told_as_failed(app: Flask, client: Any) -> None:
    file_id = accepted(client, "celery")["id"]
    with app.app_context():
        db.session.execute(update(File).values(expires_at=utcnow()))
        db.session.commit()
        lifetime.expire_files()
        row = File.find(file_id)
        assert row is not None
        assert (row.upload_status, row.error) == (UploadStatus.ERROR, "Expired.")
        assert client.get(f"/files/{file_id}").status_code == 404
        remove_erased()
        assert File.find(file_id) is None
        lifetime.expire_files()  # again there is nothing to do


def count(app: Flask) -> dict[str, int]:
    with app.app_context(), db.engine.connect() as connection:
        found = connection.execute(select(File.upload_status, func.count()).group_by(File.upload_status))
        return {str(status): number for status, number in found}


def test_rows_are_kept_for_so_long_and_objects_for_ever(
    env: dict[str, str], database_uri: str, bucket: Any, tmp_path: Path
) -> None:
    settings = {**env, "SQLALCHEMY_DATABASE_URI": database_uri, "ROW_RETENTION_SECONDS": "100"}
    with running_app(
        {**settings, "S3_KEY_PREFIX": f"kept-{tmp_path.name}/", "ERROR_RETENTION_SECONDS": "200"}
    ) as app:
        rows = _rows_of_all_kinds(app)
        _age(app, 99)
        _forget(app)
        assert count(app) == {"COMPLETE": 1, "ERROR": 1, "PENDING": 1}
        _age(app, 101)
        _forget(app)
        assert count(app) == {"ERROR": 1, "PENDING": 1}
        assert rows["COMPLETE"]["key"] in keys_of(bucket, BUCKET)
        with app.app_context():
            entries = db.session.scalars(select(MetadataEntry.file_id)).all()
        assert rows["COMPLETE"]["id"] not in entries
        _age(app, 201)
        _forget(app)
        assert count(app) == {"PENDING": 1}
        assert app.test_client().get(f"/files/{rows['COMPLETE']['id']}").status_code == 404


def _rows_of_all_kinds(app: Flask) -> dict[str, Any]:
    client = app.test_client()
    failed = accepted(client, "celery")
    with app.app_context():
        run = File.claim(failed["id"], "run", 30)
        assert run
        assert File.fail(failed["id"], "run", "No.")
    form = {"file": (BytesIO(b"hello"), "a.txt"), "metadata": '{"order": "17"}'}
    complete: Any = client.post("/normal_upload", data=form).json
    upload(client, "celery")
    return {"COMPLETE": complete, "ERROR": failed}


def _age(app: Flask, seconds: float) -> None:
    moment = utcnow() - timedelta(seconds=seconds)
    with app.app_context():
        db.session.execute(update(File).values(created_at=moment, updated_at=moment))
        db.session.commit()


def _forget(app: Flask) -> None:
    with app.app_context():
        lifetime.forget_rows()


def test_without_a_retention_rows_stay(app: Flask) -> None:
    _rows_of_all_kinds(app)
    _age(app, 10**8)
    _forget(app)
    assert count(app) == {"COMPLETE": 1, "ERROR": 1, "PENDING": 1}


def test_an_object_whose_row_was_forgotten_is_no_finding(env: dict[str, str], bucket: Any, tmp_path: Path) -> None:
    settings = {**env, "S3_KEY_PREFIX": f"forgotten-{tmp_path.name}/", "ROW_RETENTION_SECONDS": "1"}
    with running_app(settings) as app:
        rows = _rows_of_all_kinds(app)
        _age(app, 100)
        time.sleep(2.5)
        _forget(app)
        result = app.test_cli_runner().invoke(args=["reconcile", "--apply", "--grace", "0"])
        assert "object without a row" not in result.output
        assert rows["COMPLETE"]["key"] in keys_of(bucket, BUCKET)
    with running_app({**settings, "ROW_RETENTION_SECONDS": "0"}) as app:
        result = app.test_cli_runner().invoke(args=["reconcile", "--grace", "0"])
        assert "object without a row" in result.output


def test_a_retention_does_not_touch_what_another_spool_holds(
    env: dict[str, str], redis_server: RedisServer
) -> None:
    with running_app({**env, "ROW_RETENTION_SECONDS": "1"}) as app:
        _rows_of_all_kinds(app)
        _age(app, 10**7)
        with app.app_context():
            db.session.execute(update(File).values(spool_id="another"))
            db.session.commit()
        _forget(app)
        assert count(app) == {"COMPLETE": 1, "ERROR": 1, "PENDING": 1}
