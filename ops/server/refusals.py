"""The web server's own error responses, for requests that never reach the app or cannot be answered by it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from http import HTTPStatus
from ssl import SSLError
from typing import Any, TypeAlias

from flask import Response
from gunicorn.http.errors import (
    ConfigurationProblem,
    ExpectationFailed,
    InvalidHeader,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from werkzeug.http import http_date

from core import logs
from core.problems import problem
from web import security_headers

log = logging.getLogger(__name__)

FAILED = "The server failed to answer the request."
REFUSALS: tuple[tuple[type[Exception], HTTPStatus, str], ...] = (
    (ConfigurationProblem, HTTPStatus.INTERNAL_SERVER_ERROR, FAILED),
    (LimitRequestLine, HTTPStatus.REQUEST_URI_TOO_LONG, "The request line is too long."),
    (LimitRequestHeaders, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's headers are too large."),
    (ExpectationFailed, HTTPStatus.EXPECTATION_FAILED, "The only expectation that is met is 100-continue."),
    (UnsupportedTransferCoding, HTTPStatus.NOT_IMPLEMENTED, "The only transfer coding that is read is chunked."),
    (InvalidHeader, HTTPStatus.BAD_REQUEST, "A header of the request is malformed or missing."),
    (SSLError, HTTPStatus.FORBIDDEN, "The TLS connection failed."),
    (ParseException, HTTPStatus.BAD_REQUEST, "The request is not well-formed HTTP."),
)

WSGI: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class AnswerFailed(Exception):
    """The server refuses to send the app's response.

    Args:
        request_id: what the app's own log lines call the request.
    """

    def __init__(self, request_id: str) -> None:
        super().__init__("The app's answer cannot be sent.")
        self.request_id = request_id


def watched(app: WSGI) -> WSGI:
    """Close the connection after a server error, and tell unsendable responses from bad requests.

    Args:
        app: the application; its server reads the body by framing.Body.
    """

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(status: str, fields: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if status.startswith("500"):
                environ["wsgi.input"].failed = True
            try:
                return start_response(status, fields, exc_info)
            except ParseException as error:
                raise AnswerFailed(dict(fields).get("X-Request-ID", "")) from error

        return app(environ, start)

    return answer


def refusal(request: Any, address: str, error: BaseException) -> Response:
    """Return the response to a request that could not be read or answered, and log it.

    Args:
        request: gunicorn's request, if it was read so far.
        address: the client's.
        error: what went wrong.
    """
    status, detail = HTTPStatus.INTERNAL_SERVER_ERROR, FAILED
    for kind, known, sentence in REFUSALS:
        if isinstance(error, kind):
            status, detail = known, sentence
            break
    request_id = getattr(error, "request_id", "") or secrets.token_hex(16)
    with logs.about(request_id=request_id):
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:  # the path alone, since a query may hold secrets
            about = (getattr(request, "method", None), getattr(request, "path", None))
            log.error("%s %s failed", *about, exc_info=error)
        else:
            log.warning("refused a request from %s: %s", address, type(error).__name__)
    return _whole(problem(status, detail), request_id)


def wire(answer: Response, with_body: bool) -> bytes:
    """Return a response as bytes; without its body for HEAD."""
    head = [f"HTTP/1.1 {answer.status}", *(f"{name}: {value}" for name, value in answer.headers)]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + (answer.get_data() if with_body else b"")


def _whole(answer: Response, request_id: str) -> Response:
    answer.headers.extend(security_headers.ALWAYS)
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["X-Request-ID"] = request_id
    answer.headers["Date"] = http_date()
    answer.headers["Connection"] = "close"
    return answer
