"""The answer to a request that has brought a whole file, by whatever door."""

from __future__ import annotations

from http import HTTPStatus

from flask import Response, jsonify, url_for

from core.errors import Conflict, StoreError
from core.file_row import FileRow
from models import Mode, UploadStatus
from web.representation import file_json, own_file


def answer_upload(row: FileRow) -> Response:
    """Return the answer to an upload, as its mode has it.

    Args:
        row: the accepted file, whose delivery in normal mode has been tried.

    Raises:
        StoreError: in normal mode, S3 did not take it.
        Conflict: in normal mode, another run has it.
    """
    if row.mode != Mode.NORMAL:
        return answer_file(row, HTTPStatus.ACCEPTED)
    row = own_file(row.id)
    if row.upload_status == UploadStatus.ERROR:
        raise StoreError(row.error or "The file is not in S3.", row.id)
    if row.upload_status != UploadStatus.COMPLETE:  # another run has it, or had it when it was asked again
        raise Conflict("The file is still being delivered to S3.", row.id)
    return answer_file(row, HTTPStatus.CREATED)


def answer_file(row: FileRow, status: HTTPStatus) -> Response:
    """Return a File, with its address."""
    response = jsonify(file_json(row))
    response.status_code = status
    response.location = url_for("files.file_status", file_id=row.id)
    return response
