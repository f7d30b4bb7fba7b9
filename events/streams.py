"""Server-sent events: the changes of one file, or of all files of an owner, as they happen."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import lru_cache
from http import HTTPStatus
from itertools import chain
from types import SimpleNamespace
from typing import Any, cast

from flask import Blueprint, Response, json, request, stream_with_context

from access import auth
from access.principal import Grant, Principal
from core import metadata
from core.errors import InvalidQuery
from core.file_row import FileRow
from core.services import services, this_app
from events import log as event_log
from events.hub import Closed, Watcher
from events.log import EventRow
from models import STATUS, File, UploadStatus
from web.representation import is_being_processed, own_file

bp = Blueprint("streams", __name__)

ALIVE_SECONDS = 15.0
RECONNECT_MS = 2000
LONGEST_STREAM_SECONDS = 600.0  # then the client comes again
NUMBER = re.compile(r"\d{1,18}", re.ASCII)


@bp.get("/files/<file_id>/events")
@auth.needs(Grant.READ)
def file_events(file_id: str) -> Response:
    """Stream a file's status and its changes until it is COMPLETE or ERROR.
    ---
    get:
      operationId: watchFile
      tags: [Watch]
      parameters: [FileId, LastEventId]
      responses: {200: Stream, 204: NothingMore, 400: InvalidQuery, 404: NotFound}
    """
    row = own_file(file_id)
    last = _last_event_id()
    if last is not None and _is_over(row) and not event_log.read(last, file_id=file_id):
        return Response(status=HTTPStatus.NO_CONTENT)  # which tells a browser not to come again
    return _stream(row, last)


@bp.get("/events")
@auth.needs(Grant.READ)
def all_events() -> Response:
    """Stream the changes of all your files.
    ---
    get:
      operationId: watchAll
      tags: [Watch]
      parameters: [LastEventId]
      responses: {200: Stream, 400: InvalidQuery}
    """
    return _stream(None, _last_event_id())


def _stream(row: FileRow | None, last: int | None) -> Response:
    place = ExitStack()
    watching = services().hub.watching(this_app(), auth.principal(), row.id if row else None, last)
    watcher, known = place.enter_context(watching)
    frames = _frames(watcher, row, _missed(auth.principal(), row, last, known))
    response = Response(stream_with_context(frames), content_type="text/event-stream")
    response.call_on_close(place.close)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold it back
    return response


def _frames(watcher: Watcher, row: FileRow | None, missed: Iterator[EventRow]) -> Iterator[str]:
    """Yield the stream's frames for as long as the client reads them.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    yield f"retry: {RECONNECT_MS}\n\n"
    last_sent, credential = -1, auth.CredentialCheck()
    for taken in chain(([event] for event in missed), _live(watcher, credential)):
        if credential.fails():
            return
        batch = [event for event in taken if event.id > last_sent]
        last_sent = batch[-1].id if batch else last_sent
        yield "".join(map(_frame, batch)) or ": alive\n\n"
        ended = any(event.kind == STATUS and UploadStatus(event.upload_status).is_final for event in batch)
        if row and ended and _is_over(File.find(row.id)):
            return


def _is_over(row: FileRow | None) -> bool:
    """Returns True if nothing more happens to a file and to what is derived from it."""
    return row is None or (row.upload_status.is_final and not is_being_processed(row))


def _live(watcher: Watcher, credential: auth.CredentialCheck) -> Iterator[list[EventRow]]:
    """Yield new events; an empty list when a while passes without one."""
    ends_at = time.monotonic() + LONGEST_STREAM_SECONDS
    with suppress(Closed):
        while time.monotonic() < ends_at:
            yield watcher.take(min(ALIVE_SECONDS, credential.seconds_left()))


def _missed(principal: Principal, row: FileRow | None, last: int | None, known: int) -> Iterator[EventRow]:
    """Yield earlier events: those since the last one that the client saw, or the latest of a single file."""
    if last is None:
        if row:
            yield event_log.latest(row.id) or _as_event(row, known)
        return
    own = (principal.owner, row.id if row else None, principal.subject)
    while rows := event_log.read(last, known, *own):
        yield from rows
        last = rows[-1].id


def _as_event(row: FileRow, number: int) -> EventRow:
    """Return a file's present state as an event, for a file whose events the log has forgotten."""
    shown = {name: getattr(row, name) for name in EventRow.__annotations__ if hasattr(row, name)}
    return cast(EventRow, SimpleNamespace(**{**shown, "id": number, "file_id": row.id, "kind": STATUS}))


def _frame(event: EventRow) -> str:
    url = event.url if event.upload_status == UploadStatus.COMPLETE else None
    facts = (event.upload_status, event.mode, event.bytes_sent, event.size, event.error, url, event.user_metadata)
    return _format(event.id, event.kind, event.file_id, event.name, *facts)


@lru_cache(256)  # many watchers get the same events
def _format(number: int, kind: str, *facts: Any) -> str:
    names = ("id", "name", "upload_status", "mode", "bytes_sent", "size", "error", "url", "metadata")
    shown = dict(zip(names, facts, strict=True))
    shown["metadata"] = metadata.load(shown["metadata"])
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(shown)}\n\n"


def _last_event_id() -> int | None:
    text = request.headers.get("Last-Event-ID")
    if not text:
        return None
    if not NUMBER.fullmatch(text):
        raise InvalidQuery("The Last-Event-ID is invalid.")
    number = int(text)
    return number if number <= event_log.newest() else None
