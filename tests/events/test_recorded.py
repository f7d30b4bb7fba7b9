"""The event log hears of every move of a file by a signal, so a forgotten connection would be silent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from flask import Flask
from sqlalchemy import select

from core.database import db, new_id, transaction, utcnow
from events.log import Event
from models import PROGRESS, STATUS, File, UploadStatus

RUN = "0123456789abcdef0123456789abcdef"
MOVES: dict[str, tuple[Callable[[str], object], list[str]]] = {
    "claim": (lambda file_id: File.claim(file_id, RUN, 30), [STATUS]),
    "renew with progress": (lambda file_id: File.renew(file_id, RUN, 30, bytes_sent=1), [PROGRESS]),
    "renew": (lambda file_id: File.renew(file_id, RUN, 30), []),
    "give back": (lambda file_id: File.give_back(file_id, RUN, 0, "S3 does not answer."), [STATUS]),
    "claim again": (lambda file_id: File.claim(file_id, RUN, 30), [STATUS]),
    "fail": (lambda file_id: File.fail(file_id, RUN, "Given up."), [STATUS]),
    "retry": (lambda file_id: File.retry(file_id, 60), [STATUS]),
    "put forward": (File.put_forward, []),
    "claim at last": (lambda file_id: File.claim(file_id, RUN, 30), [STATUS]),
    "complete": (lambda file_id: File.complete(file_id, RUN, "http://s3/file", None), [STATUS]),
    "digest": (lambda file_id: File.digested(file_id, "0" * 64), []),
    "erase": (lambda file_id: File.erase(file_id, "anonymous"), [STATUS]),
}


def insert() -> str:
    now, file_id = utcnow(), new_id()
    row = File.draft(
        id=file_id,
        owner="anonymous",
        name="a.txt",
        key=file_id,
        mode="async",
        size=2,
        content_type="text/plain",
        detected_type="text/plain",
        crc64nvme="AAAAAAAAAAA=",
        spool_id="here",
        upload_status=UploadStatus.PENDING,
        attempts=0,
        bytes_sent=0,
        created_at=now,
        updated_at=now,
        due_at=now + timedelta(seconds=30),
        retry_until=now + timedelta(seconds=60),
    )
    with transaction() as connection:
        File.insert(connection, row)
    return file_id


def recorded(file_id: str) -> list[str]:
    with db.engine.connect() as connection:
        kinds = select(Event.kind).where(Event.file_id == file_id).order_by(Event.id)
        return list(connection.scalars(kinds))


def test_every_move_of_a_new_app_is_recorded(app: Flask) -> None:
    with app.app_context():
        file_id = insert()
        expected = [STATUS]
        assert recorded(file_id) == expected, "insert"
        for move, (make, kinds) in MOVES.items():
            assert make(file_id), move
            expected += kinds
            assert recorded(file_id) == expected, move
