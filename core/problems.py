"""Error responses: every error is answered as a problem document (RFC 9457)."""

from __future__ import annotations

import logging
from http import HTTPStatus

from flask import Flask, Response, json
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from core.errors import CHECKSUM_MISMATCH, UploadError
from core.metrics import metrics

log = logging.getLogger(__name__)

BUSY_RETRY_SECONDS = 5


def problem(
    status: int,
    detail: str | None = None,
    file_id: str | None = None,
    headers: list[tuple[str, str]] | None = None,
    more: dict[str, object] | None = None,
) -> Response:
    """Return a problem+json response.

    Args:
        status: HTTP status code.
        detail: a sentence for the client.
        file_id: id of the File row that the problem is about.
        headers: more response headers.
        more: more members of the document; a `type` among them says what they mean.

    Source: RFC 9457, section 3.
    """
    title = "Checksum Mismatch" if status == CHECKSUM_MISMATCH else HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, **(more or {})}
    if detail:
        body["detail"] = detail
    if file_id:
        body["file_id"] = file_id
    response = Response(json.dumps(body), f"{status} {title}", headers, content_type="application/problem+json")
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers.setdefault("Retry-After", str(BUSY_RETRY_SECONDS))
    return response


def init_app(app: Flask) -> None:
    """Answer every error of the app as a problem document."""
    app.register_error_handler(UploadError, _upload_error)
    app.register_error_handler(HTTPException, _http_exception)
    app.register_error_handler(DBAPIError, _database_error)
    app.register_error_handler(PoolTimeout, _database_error)


def _upload_error(error: UploadError) -> Response:
    metrics().failed(type(error).__name__)
    return problem(error.status, error.detail, error.file_id, error.headers, error.more)


def _http_exception(error: HTTPException) -> Response | HTTPException:
    if error.response is not None:
        return error
    if error.code == HTTPStatus.INTERNAL_SERVER_ERROR:
        metrics().failed("Unexpected")
    headers = [(name, value) for name, value in error.get_headers() if name != "Content-Type"]
    return problem(error.code or HTTPStatus.INTERNAL_SERVER_ERROR, error.description, None, headers)


def _database_error(error: DBAPIError | PoolTimeout) -> Response:
    log.error("the database failed: %s", error)
    metrics().failed("Database")
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, "The database does not answer; try again later.")
