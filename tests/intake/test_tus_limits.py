"""Resumable uploads under limits: quotas and room are reserved from the start, kept, settled and given back."""

from __future__ import annotations

import errno
import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, update

from access.quota import Account, ReservationRow
from core.database import db, utcnow
from core.services import services
from intake.uploads import chores
from intake.uploads.rows import Upload
from models import File
from tests.kit.stack import wait_for
from tests.kit.tus import BODY
from tests.kit.uploads import MAKE

MIB = 1024 * 1024
TUS = {"Tus-Resumable": "1.0.0"}


def create(client: FlaskClient, length: int | None, **headers: str) -> Any:
    size = {"Upload-Length": str(length)} if length is not None else {"Upload-Defer-Length": "1"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/uploads?mode=celery", headers={**TUS, **size, **named})


def patch(client: FlaskClient, path: str, offset: int, body: bytes, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    given = {**TUS, "Upload-Offset": str(offset), "Content-Type": BODY, **named}
    return client.patch(path, data=body, headers=given)


def state(app: Flask) -> tuple[int, int, int]:
    """Bytes uploaded today, bytes reserved, and the number of reservations."""
    with app.app_context():
        uploaded = db.session.scalar(select(func.coalesce(func.sum(Account.uploaded_bytes), 0)))
        reserved = db.session.scalar(select(func.coalesce(func.sum(ReservationRow.reserved_bytes), 0)))
        count = db.session.scalar(select(func.count()).select_from(ReservationRow))
        db.session.rollback()
        return int(uploaded or 0), int(reserved or 0), int(count or 0)


def test_the_length_counts_from_the_start_to_the_end(make: MAKE) -> None:
    client = make(KEY_BYTES_PER_DAY="1000", KEY_FILES_IN_FLIGHT="10")
    path = create(client, 600).location
    assert state(client.application) == (0, 600, 1)
    refused = create(client, 600)
    assert (refused.status_code, "bytes per day" in refused.json["detail"]) == (429, True)
    patch(client, path, 0, bytes(100))
    assert state(client.application) == (0, 600, 1)
    assert patch(client, path, 100, bytes(500)).status_code == 204
    assert state(client.application) == (600, 0, 0)


@pytest.mark.parametrize("how", ["terminated", "expired", "refused"])
def test_an_ended_one_gives_it_back(make: MAKE, how: str) -> None:
    client = make(KEY_BYTES_PER_DAY="1000", DENIED_CONTENT_TYPES="text/html")
    path = create(client, 21).location
    if how == "terminated":
        assert client.delete(path, headers=TUS).status_code == 204
    elif how == "refused":
        assert patch(client, path, 0, b"<!doctype html><html>").status_code == 415
    else:
        with client.application.app_context():
            db.session.execute(update(Upload).values(expires_at=utcnow() - timedelta(seconds=1)))
            db.session.commit()
            chores.expire()
    assert state(client.application) == (0, 0, 0)
    assert client.head(path, headers=TUS).status_code == 410


def test_uploads_in_progress_are_files_in_flight(make: MAKE) -> None:
    client = make(KEY_FILES_IN_FLIGHT="2")
    paths = [create(client, 3).location for _ in range(2)]
    assert create(client, 3).status_code == 429
    client.delete(paths[0], headers=TUS)
    assert create(client, 3).status_code == 201


def test_of_an_unknown_length_each_request_counts(make: MAKE) -> None:
    client = make(KEY_BYTES_PER_DAY="1000")
    path = create(client, None).location
    assert patch(client, path, 0, bytes(600)).status_code == 204
    assert state(client.application)[1] == 600
    assert patch(client, path, 600, bytes(600)).status_code == 429
    assert client.head(path, headers=TUS).headers["Upload-Offset"] == "600"
    assert patch(client, path, 600, bytes(100), Upload_Length="700").status_code == 204
    assert state(client.application) == (700, 0, 0)


def test_parts_count_until_they_are_joined_and_then_once(make: MAKE) -> None:
    client = make(KEY_BYTES_PER_DAY="1000", KEY_FILES_IN_FLIGHT="10")
    parts = [create(client, 300, Upload_Concat="partial").location for _ in range(2)]
    for part in parts:
        patch(client, part, 0, bytes(300))
    assert state(client.application) == (0, 600, 2)
    headers = {**TUS, "Upload-Concat": f"final;{' '.join(parts)}"}
    assert client.post("/uploads?mode=celery", headers=headers).status_code == 201
    assert state(client.application) == (600, 0, 0)
    with client.application.app_context():
        assert db.session.scalars(select(File.size)).all() == [600]


def test_a_part_that_is_joined_often_counts_as_often(make: MAKE) -> None:
    client = make(KEY_BYTES_PER_DAY="1000", KEY_FILES_IN_FLIGHT="10")
    part = create(client, 300, Upload_Concat="partial").location
    patch(client, part, 0, bytes(300))
    headers = {**TUS, "Upload-Concat": "final;" + " ".join([part] * 4)}
    assert client.post("/uploads", headers=headers).status_code == 429


def test_uploads_in_progress_hold_half_of_the_spool(make: MAKE) -> None:
    client = make(SPOOL_MAX_BYTES=str(8 * MIB))
    assert create(client, 4 * MIB + 1).status_code == 413
    path = create(client, 3 * MIB).location
    assert patch(client, path, 0, bytes(2 * MIB)).status_code == 204
    spool = client.application.extensions["ferryman"].spool
    wait_for(lambda: spool.growing_bytes() == 2 * MIB, what="count")
    assert create(client, 3 * MIB).status_code == 503
    other = create(client, None).location
    answer = patch(client, other, 0, bytes(3 * MIB))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert client.head(other, headers=TUS).status_code == 200


def test_a_disk_that_fills_in_a_patch_keeps_what_fits(make: MAKE) -> None:
    client = make()
    path = create(client, 3 * MIB).location
    app = client.application
    file = app.extensions["ferryman"].spool.path(path.rpartition("/")[2]).with_suffix(".up")

    class Full:
        """A disk with room for one mebibyte."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def write(self, data: memoryview) -> int:
            room = MIB - os.fstat(self._file.fileno()).st_size
            if room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self._file.write(data[:room]))

    def opened(*arguments: Any, **options: Any) -> Any:
        found = open(*arguments, **options)
        return Full(found) if str(arguments[0]).endswith(".up") else found

    with mock.patch("storage.growing.open", opened, create=True):
        answer = patch(client, path, 0, bytes(3 * MIB))
    assert answer.status_code == 503
    assert file.stat().st_size == MIB
    assert client.head(path, headers=TUS).headers["Upload-Offset"] == str(MIB)
    assert patch(client, path, MIB, bytes(2 * MIB)).status_code == 204


@pytest.mark.parametrize("hours", [-48, 48])
def test_a_clock_that_jumps_loses_no_bytes(make: MAKE, hours: int) -> None:
    """By two days: an upload may end by that, but what goes on is whole, and nothing stays reserved."""
    client = make(KEY_BYTES_PER_DAY="1000")
    path = create(client, 6).location
    patch(client, path, 0, b"abc")
    later = utcnow() + timedelta(hours=hours)
    with mock.patch("intake.uploads.turns.utcnow", return_value=later):
        answer = patch(client, path, 3, b"def")
    if hours > 0:
        assert answer.status_code == 410
        assert state(client.application) == (0, 0, 0)
        return
    assert answer.status_code == 204
    with client.application.app_context():
        spool = services().spool
        assert Path(spool.path(path.rpartition("/")[2])).read_bytes() == b"abcdef"


@pytest.mark.parametrize("public", ["", "https://files.example.com", "https://example.com/ferryman/"])
def test_addresses_are_absolute_where_that_is_configured(make: MAKE, public: str) -> None:
    client = make(PUBLIC_URL=public)
    location = create(client, 3).location
    assert location.startswith(f"{public.rstrip('/')}/uploads/")
    answer = create(client, None, Upload_Concat="partial")
    final = client.post("/uploads", headers={**TUS, "Upload-Concat": f"final;{answer.location}"})
    assert final.status_code == 201


def test_a_key_of_an_ended_upload_says_so(make: MAKE) -> None:
    client = make()
    path = create(client, 3, Idempotency_Key="one").location
    client.delete(path, headers=TUS)
    assert create(client, 3, Idempotency_Key="one").status_code == 410


def test_all_that_passes_is_423_on_head(make: MAKE) -> None:
    """After any other error tus-js-client begins anew."""
    client = make(KEY_REQUESTS_PER_MINUTE="6")
    path = create(client, 6).location
    patch(client, path, 0, b"abc")
    folder = client.application.extensions["ferryman"].spool.folder
    folder.rename(folder.with_suffix(".away"))
    for method, status in (("HEAD", 423), ("PATCH", 503)):
        answer = client.open(path, method=method, headers={**TUS, "Upload-Offset": "3", "Content-Type": BODY})
        assert (answer.status_code, answer.headers["Retry-After"]) == (status, "5")
    folder.with_suffix(".away").rename(folder)
    assert client.head(path, headers=TUS).headers["Upload-Offset"] == "3"
    while (answer := client.head(path, headers=TUS)).status_code == 200:
        pass
    assert (answer.status_code, int(answer.headers["Retry-After"]) > 0) == (423, True)
    assert patch(client, path, 3, b"def").status_code == 429


def test_without_its_database_too(make: MAKE, tmp_path: Path) -> None:
    client = make()
    path = create(client, 6).location
    database = tmp_path / "files.db"
    database.rename(tmp_path / "away.db")
    database.mkdir()
    with client.application.app_context():
        db.engine.dispose()
    assert client.head(path, headers=TUS).status_code == 423
    database.rmdir()
    (tmp_path / "away.db").rename(database)
    assert client.head(path, headers=TUS).status_code == 200
