"""The article's way, in our own words: what the service is measured against.

The whole file is read into memory and turned into base64: for a thread that decodes it again, or for a Celery
message that carries it through Redis. boto3, Celery and SQLite are as they come out of the box.
"""

from __future__ import annotations

import base64
import os
import secrets
import threading
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import boto3
from celery import Celery
from flask import Flask, Response, jsonify, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

BUCKET = os.environ.get("S3_BUCKET_NAME", "")


class Base(DeclarativeBase):
    """Declarative base."""


db = SQLAlchemy(model_class=Base)


class Upload(Base):
    """One upload and its status."""

    __tablename__ = "uploads"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    status: Mapped[str]


app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ.get("SQLALCHEMY_DATABASE_URI", "sqlite://")
db.init_app(app)
celery = Celery("article", broker=os.environ.get("CELERY_BROKER_URL"))
s3: Any = boto3.client(
    "s3",
    region_name="us-east-1",
    endpoint_url=os.environ.get("S3_ENDPOINT_URL"),
    aws_access_key_id=os.environ.get("AWS_ACCESS_KEY"),
    aws_secret_access_key=os.environ.get("AWS_ACCESS_SECRET"),
)


@app.get("/healthz")
def healthz() -> Response:
    """Answer."""
    return jsonify(status="alive")


@app.post("/normal_upload")
def normal_upload() -> tuple[Response, int]:
    """Upload inside the request."""
    file = request.files["file"]
    name = _rename(str(file.filename))
    row = _save(name)
    s3.upload_fileobj(file, BUCKET, name)
    row.status = "COMPLETE"
    db.session.commit()
    return jsonify(id=row.id), 201


@app.post("/async_upload")
def async_upload() -> tuple[Response, int]:
    """Give the whole file to a new thread."""
    file = request.files["file"]
    name = _rename(str(file.filename))
    text = base64.b64encode(file.stream.read())
    row = _save(name)
    threading.Thread(target=_upload_in_thread, args=(row.id, name, text)).start()
    return jsonify(id=row.id), 202


@app.post("/celery_upload")
def celery_upload() -> tuple[Response, int]:
    """Put the whole file into a Celery message."""
    file = request.files["file"]
    name = _rename(str(file.filename))
    text = base64.b64encode(file.stream.read()).decode()
    row, created_at = _save(name), datetime.now(UTC)
    upload_task.delay(row.id, name, text)
    return jsonify(id=row.id, created_at=created_at.isoformat()), 202


@celery.task(name="upload_task")
def upload_task(upload_id: int, name: str, text: str) -> None:
    """Upload what a message carries."""
    with app.app_context():
        _upload(upload_id, name, text)


def _upload_in_thread(upload_id: int, name: str, text: bytes) -> None:
    with app.app_context():
        _upload(upload_id, name, text)


def _upload(upload_id: int, name: str, text: str | bytes) -> None:
    row = db.session.get_one(Upload, upload_id)
    row.status = "PROCESSING"
    db.session.commit()
    s3.upload_fileobj(BytesIO(base64.b64decode(text)), BUCKET, name)
    row.status = "COMPLETE"
    db.session.commit()


def _rename(filename: str) -> str:
    """The article stops at the timestamp; the random part keeps one upload from overwriting another here."""
    return f"{datetime.now(UTC):%Y%m%d%H%M%S}--{secrets.token_hex(4)}-{filename}"


def _save(name: str) -> Upload:
    row = Upload(name=name, status="PENDING")
    db.session.add(row)
    db.session.commit()
    return row


def create_app() -> Flask:
    """The app for gunicorn."""
    return app


def create_tables() -> None:
    """Make the database, once, before the processes start."""
    with app.app_context():
        Base.metadata.create_all(db.engine)


if __name__ == "__main__":
    create_tables()
