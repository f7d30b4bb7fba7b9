"""Submits work on files to this process's thread pool."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import copy_context

from flask import Response, after_this_request
from sqlalchemy.exc import SQLAlchemyError

from core import logs
from core.metrics import metrics
from core.services import services, this_app
from delivery.deliver import deliver

log = logging.getLogger(__name__)


def submit(file_id: str, work: Callable[[str], object] = deliver) -> None:
    """Queue work on a file, by default its delivery, on the thread pool."""
    app, subject = this_app(), logs.subject()

    def job() -> None:
        with app.app_context(), logs.about(**subject):
            try:
                work(file_id)
            except SQLAlchemyError as error:
                log.warning("file %s is left to the sweep, the database failed: %s", file_id, error)
            except Exception:  # the pool has no caller that would see it
                log.exception("file %s is left to the sweep", file_id)
                metrics().failed("Unexpected")

    services().pool.submit(file_id, job)


def submit_once_answered(file_id: str, work: Callable[[str], object] = deliver) -> None:
    """Queue work on a file once the response is sent, which would otherwise wait for the interpreter."""
    context = copy_context()  # with this app, what its lines are about, and what traces the request

    def submit_at_close(response: Response) -> Response:
        response.call_on_close(lambda: context.run(submit, file_id, work))
        return response

    after_this_request(submit_at_close)
