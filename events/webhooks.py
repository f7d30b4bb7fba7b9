"""The webhook's messages: written in the transaction that ends a file, claimed by senders, kept as a log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from flask import Flask, json
from sqlalchemy import Connection, Row, String, Text, delete, insert, select, update
from sqlalchemy.orm import Mapped, mapped_column

from core.database import UtcDateTime, db, new_id, transaction, utcnow
from models import File, UploadStatus, awaits_digest, file_ended, file_expired, file_settled
from web.representation import file_json, rfc3339

MESSAGES_KEPT = timedelta(days=7)
HELD = timedelta(hours=1)  # longer than a SHA-256 takes; then the message goes without it


class Webhook(db.Model):  # type: ignore[name-defined,misc]
    """One message: due at some time while it has attempts left, then delivered or given up."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    """The same in every attempt, so that the receiver can tell what it has seen."""
    file_id: Mapped[str] = mapped_column(String(32))
    owner: Mapped[str] = mapped_column(String(64))
    type: Mapped[str] = mapped_column(String(16))
    body: Mapped[str] = mapped_column(Text)
    """The JSON as it is signed and sent: the file as it was then, whatever becomes of it."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    due_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    """When to send it: the next attempt, or the end of a sender's lease. Never again, if it has none."""
    attempts: Mapped[int] = mapped_column()
    delivered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_error: Mapped[str | None] = mapped_column(Text)


def init_app(app: Flask) -> None:
    """Write a message for every file that ends or expires, if there is a WEBHOOK_URL."""
    if app.extensions["ferryman"].config.WEBHOOK_URL:
        file_ended.connect(_record, sender=app)
        file_settled.connect(_release, sender=app)
        file_expired.connect(_record_expired, sender=app)


def claim(lease_seconds: float) -> Row[Any] | None:
    """Claim the message that has been due longest, for one attempt.

    Args:
        lease_seconds: after so long without a word, it is anybody's again.

    Returns:
        The claimed message, or None if nothing is due.
    """
    now = utcnow()
    due = select(Webhook.id).where(Webhook.due_at <= now).order_by(Webhook.due_at).limit(1)
    with db.engine.connect() as connection:
        if connection.scalar(due) is None:  # to look for nothing must not cost uploads their turn to write
            return None
    lease = {"due_at": now + timedelta(seconds=lease_seconds), "attempts": Webhook.attempts + 1}
    one = due.with_for_update(skip_locked=True).scalar_subquery()
    with transaction() as connection:
        claimed = update(Webhook).where(Webhook.id == one, Webhook.due_at <= now).values(**lease)
        return connection.execute(claimed.returning(Webhook)).first()


def succeed(message: Row[Any]) -> bool:
    """Record the delivery. Returns False if another sender has claimed the message."""
    return _settle(message, due_at=None, delivered_at=utcnow(), last_error=None)


def postpone(message: Row[Any], delay_seconds: float, error: str) -> bool:
    """Schedule the next attempt. Returns False if another sender has claimed the message."""
    return _settle(message, due_at=utcnow() + timedelta(seconds=delay_seconds), last_error=error)


def give_up(message: Row[Any], error: str) -> bool:
    """Give the message up. Returns False if another sender has claimed it."""
    return _settle(message, due_at=None, last_error=error)


def redeliver(message_id: str) -> bool:
    """Make a message due now, as if it were new. Returns False if there is no such message."""
    again = update(Webhook).where(Webhook.id == message_id)
    with transaction() as connection:
        anew = again.values(due_at=utcnow(), attempts=0, delivered_at=None, last_error=None)
        return connection.execute(anew).rowcount == 1


def log(failed: bool = False) -> Sequence[Row[Any]]:
    """Return all messages, or those whose last attempt failed, oldest first, without their bodies."""
    columns = [column for column in Webhook.__table__.columns if column.name != "body"]
    statement = select(*columns).order_by(Webhook.created_at, Webhook.id)
    if failed:
        statement = statement.where(Webhook.last_error.is_not(None))
    with db.engine.connect() as connection:
        return connection.execute(statement).all()


def state(message: Row[Any]) -> str:
    """Return the state of a message in a word or two."""
    if message.delivered_at:
        return "delivered"
    return "waiting" if message.due_at else "given up"


def forget_old() -> None:
    """Delete the finished messages older than a week."""
    old = delete(Webhook).where(Webhook.created_at < utcnow() - MESSAGES_KEPT, Webhook.due_at.is_(None))
    with transaction() as connection:
        connection.execute(old)


def _record(app: Flask, connection: Connection, file_id: str) -> None:
    """Write the message in the transaction that ends the file.

    It is held back where the SHA-256 follows.

    Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    row = connection.execute(select(File).where(File.id == file_id)).one()
    if row.parent_id:
        _record_processed(connection, row)
    due_at = row.completed_at + HELD if awaits_digest(row) else row.updated_at
    _write(connection, row, f"file.{row.upload_status.lower()}", file_json(row, connection), due_at)


def _record_processed(connection: Connection, child: Row[Any]) -> None:
    """Write the message of an original whose last derivative ends with this one."""
    # Under its lock the last of several that end at once sees the others.
    lock = update(File).where(File.id == child.parent_id, File.erased_at.is_(None))
    if connection.execute(lock.values(updated_at=File.updated_at)).rowcount != 1:
        return
    parent = connection.execute(select(File).where(File.id == child.parent_id)).one()
    data = file_json(parent, connection)
    if data["derivatives_status"] in (UploadStatus.COMPLETE, UploadStatus.ERROR):
        _write(connection, parent, "file.processed", data, utcnow())


def _record_expired(app: Flask, connection: Connection, file_id: str) -> None:
    """Write the message of a file that has just been deleted because its time was over."""
    row = connection.execute(select(File).where(File.id == file_id)).one()
    data = file_json(row, connection)
    if row.completed_at:  # the row says by now that it is deleted; the message tells of the file
        data |= {"upload_status": UploadStatus.COMPLETE, "error": None}
    _write(connection, row, "file.expired", data, row.updated_at)


def _write(connection: Connection, row: Row[Any], kind: str, data: dict[str, Any], due_at: datetime) -> None:
    payload = {"type": kind, "timestamp": rfc3339(row.updated_at), "data": data}
    message = {
        "id": f"msg_{new_id()}",
        "file_id": row.id,
        "owner": row.owner,
        "type": kind,
        "body": _json(payload),
        "created_at": row.updated_at,
        "due_at": due_at,
        "attempts": 0,
    }
    connection.execute(insert(Webhook).values(**message))


def _release(app: Flask, connection: Connection, file_id: str) -> None:
    """Release a file's message that waited for its SHA-256, with the file's present state unless deleted."""
    row = connection.execute(select(File).where(File.id == file_id)).one()
    if row.completed_at is None:
        return
    held = [Webhook.file_id == file_id, Webhook.due_at == row.completed_at + HELD]
    body = connection.scalar(select(Webhook.body).where(*held))
    if body is None:
        return
    if row.upload_status == UploadStatus.COMPLETE:
        body = _json(json.loads(body) | {"data": file_json(row, connection)})
    connection.execute(update(Webhook).where(*held).values(body=body, due_at=utcnow()))


def _json(payload: dict[str, Any]) -> str:
    return json.dumps(payload, separators=(",", ":"))


def _settle(message: Row[Any], **values: Any) -> bool:
    held = update(Webhook).where(Webhook.id == message.id, Webhook.due_at == message.due_at)
    with transaction() as connection:
        return connection.execute(held.values(**values)).rowcount == 1
