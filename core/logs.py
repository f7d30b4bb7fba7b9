"""Logs: one line per event, JSON or text, with the ids of its request and file."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Any

import structlog
from flask import Flask, Response, g, request

log = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
READ_METHODS = ("GET", "HEAD", "OPTIONS")
# At DEBUG these write the headers that they sign.
NOISY_LOGGERS = ("botocore", "boto3", "urllib3", "kombu", "amqp", "celery")
# No message of ours holds these, foreign ones might: credentials in addresses, keys, signatures of presigned urls.
# Each takes time in proportion to the text: a word is entered at its start only, and no run is given back.
UP_TO_LAST_AT = re.compile(r"(?<!\S)\S+(?=@)")
CREDENTIALS = re.compile(r"(?<=://)(?:[^/:]*+:.*|[^/]*+\Z)")
"""`user:password` or `token` of an address, to the last `@`: SQLAlchemy takes a password with `/` in it."""
SECRET = re.compile(
    r"fmu?_[\w.-]+|(?<![\w-])eyJ[\w-]++\.[\w.-]+|(?i:(?<=bearer )\S+|(?<=x-amz-)[\w-]{1,64}=[^&\s'\"]+)"
)
MASK = "***"
LONGEST_TEXT = 32 * 1024  # a traceback is shorter
REQUEST_FIELDS = ["method", "path", "status", "duration_ms", "owner"]

Event = MutableMapping[str, Any]


def configuration(env: Mapping[str, str]) -> dict[str, Any]:
    """Return the logging configuration of a server process, for `logging.config.dictConfig`.

    Args:
        env: environment-like text; of it, LOG_FORMAT and LOG_LEVEL count.
    """
    level = (env.get("LOG_LEVEL") or "info").upper()
    quieter = {name: {"level": "INFO" if level == "DEBUG" else level} for name in NOISY_LOGGERS}
    quieter["alembic"] = {"level": "WARNING"}
    # gunicorn's loggers have handlers of their own, unless they are told not to.
    gunicorn = {name: {"handlers": [], "propagate": True} for name in ("gunicorn.error", "gunicorn.access")}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter, "shape": env.get("LOG_FORMAT") or "json"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {**quieter, **gunicorn},
    }


def formatter(shape: str) -> logging.Formatter:
    """Return the formatter of all log lines.

    Args:
        shape: `json`, or `text` for people.
    """
    last: Any = structlog.processors.JSONRenderer(ensure_ascii=False)
    if shape == "text":
        last = structlog.dev.ConsoleRenderer(colors=False, repr_native_str=True, timestamp_key="time")
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.processors.TimeStamper("iso", utc=True, key="time"),
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.ExtraAdder(REQUEST_FIELDS),
            structlog.processors.format_exc_info,
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _ordered, _without_secrets, last],
    )


def about(**fields: str | None) -> AbstractContextManager[None]:
    """Add fields such as `request_id` and `file_id` to the log lines of a block; None is left out."""
    return structlog.contextvars.bound_contextvars(**{name: value for name, value in fields.items() if value})


def subject() -> dict[str, str]:
    """Return the present log fields, for another thread or process."""
    return structlog.contextvars.get_contextvars()


def init_app(app: Flask) -> None:
    """Give every request an id, which its client may choose, and a log line if it changes something or fails."""
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(_forget)


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    g.began = time.perf_counter()
    g.request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _end(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    status = response.status_code
    level = logging.DEBUG if request.method in READ_METHODS and status < 400 else logging.INFO
    if log.isEnabledFor(level):
        line = {
            "method": request.method,
            "path": request.path,
            "status": status,
            "duration_ms": round((time.perf_counter() - g.began) * 1000, 1),
        }
        log.log(level, "request", extra={**line, "owner": g.owner} if "owner" in g else line)
    return response


def _forget(_: BaseException | None) -> None:
    structlog.contextvars.clear_contextvars()


def _ordered(_: object, __: str, event: Event) -> Event:
    """Put the fields of every line first."""
    always = ("time", "level", "logger", "event")
    return {name: event[name] for name in always} | {
        name: value for name, value in event.items() if name not in always
    }


def _without_secrets(_: object, __: str, event: Event) -> Event:
    return {name: _masked(value) if isinstance(value, str) else value for name, value in event.items()}


def _masked(text: str) -> str:
    """Return the text without secrets; a long one is cut in its middle."""
    text = UP_TO_LAST_AT.sub(lambda word: CREDENTIALS.sub(MASK, word[0]), text)
    text = SECRET.sub(MASK, text)
    if len(text) > LONGEST_TEXT:  # cut last: half a secret would look like none
        half = LONGEST_TEXT // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return text
