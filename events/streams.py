"""Server-sent events: what happens to a file, or to all of an owner's, as it happens."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import lru_cache
from http import HTTPStatus
from itertools import chain
from types import SimpleNamespace
from typing import Any

from flask import Blueprint, Response, json, request, stream_with_context
from sqlalchemy import Row
from werkzeug.http import parse_dict_header

from access import auth
from core.errors import Busy, InvalidQuery, Unauthorized
from core.services import services, this_app
from events import log as event_log
from events.hub import Closed, Watcher
from models import STATUS, UploadStatus
from web.representation import own_file

bp = Blueprint("streams", __name__)

ALIVE_SECONDS = 15.0
RECONNECT_MS = 2000
LONGEST_WAIT_SECONDS = 60
DIGEST_LOOK_SECONDS = 0.25
LONGEST_STREAM_SECONDS = 600.0  # then the client comes again
FINAL = (UploadStatus.COMPLETE, UploadStatus.ERROR)
NUMBER = re.compile(r"\d{1,18}", re.ASCII)


def preferred_wait() -> int:
    """For how many seconds the client would wait for a change; 0 if it does not say.

    Source: RFC 7240, section 4.3.
    """
    seconds = parse_dict_header(request.headers.get("Prefer", "")).get("wait") or ""
    return min(int(seconds), LONGEST_WAIT_SECONDS) if NUMBER.fullmatch(seconds) else 0


def wait_for_change(row: Row[Any], seconds: int) -> None:
    """Wait until a file is no longer what it was, for so long at most; not at all if too many are watching.

    Of a COMPLETE file only its SHA-256 can change, from None. No event tells of that, so the row is looked at.
    """
    lacks_digest = row.upload_status == UploadStatus.COMPLETE and row.sha256 is None
    if row.upload_status in FINAL and not lacks_digest:
        return
    pause = DIGEST_LOOK_SECONDS if lacks_digest else seconds
    ends_at, key = time.monotonic() + seconds, auth.KeyCheck()
    with suppress(Busy, Closed), services().hub.watching(this_app(), row.owner, row.id) as (watcher, _):
        while own_file(row.id).updated_at == row.updated_at and time.monotonic() < ends_at:
            watcher.take(min(max(0.0, ends_at - time.monotonic()), key.seconds_left(), pause))
            if key.fails():
                raise Unauthorized("The key was revoked.")


@bp.get("/files/<file_id>/events")
def file_events(file_id: str) -> Response:
    """Tell what a file is, and what becomes of it until it is COMPLETE or ERROR.
    ---
    get:
      operationId: watchFile
      tags: [Watch]
      parameters: [FileId, LastEventId]
      responses: {200: Stream, 204: NothingMore, 400: InvalidQuery, 404: NotFound}
    """
    row = own_file(file_id)
    last = _last_event_id()
    if last is not None and row.upload_status in FINAL and not event_log.read(last, file_id=file_id):
        return Response(status=HTTPStatus.NO_CONTENT)  # which tells a browser not to come again
    return _stream(row, last)


@bp.get("/events")
def all_events() -> Response:
    """Tell what happens to all files of whoever asks.
    ---
    get:
      operationId: watchAll
      tags: [Watch]
      parameters: [LastEventId]
      responses: {200: Stream, 400: InvalidQuery}
    """
    return _stream(None, _last_event_id())


def _stream(row: Row[Any] | None, last: int | None) -> Response:
    place = ExitStack()
    watching = services().hub.watching(this_app(), auth.owner(), row and row.id, last)
    watcher, known = place.enter_context(watching)
    text = _text(watcher, row, _missed(auth.owner(), row, last, known))
    response = Response(stream_with_context(text), content_type="text/event-stream")
    response.call_on_close(place.close)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold it back
    return response


def _text(watcher: Watcher, row: Row[Any] | None, missed: Iterator[Row[Any]]) -> Iterator[str]:
    """The stream, as long as somebody reads it.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    yield f"retry: {RECONNECT_MS}\n\n"
    told, key = -1, auth.KeyCheck()
    for taken in chain(([event] for event in missed), _live(watcher, key)):
        if key.fails():
            return
        batch = [event for event in taken if event.id > told]
        told = batch[-1].id if batch else told
        yield "".join(map(_show, batch)) or ": alive\n\n"
        if row and any(event.kind == STATUS and event.upload_status in FINAL for event in batch):
            return


def _live(watcher: Watcher, key: auth.KeyCheck) -> Iterator[list[Row[Any]]]:
    """What happens from now on; nothing now and then, when nothing does."""
    ends_at = time.monotonic() + LONGEST_STREAM_SECONDS
    with suppress(Closed):
        while time.monotonic() < ends_at:
            yield watcher.take(min(ALIVE_SECONDS, key.seconds_left()))


def _missed(owner: str, row: Row[Any] | None, last: int | None, known: int) -> Iterator[Row[Any]]:
    """What happened before the watcher came: since the last event it saw, or, of one file, the latest."""
    if last is None:
        if row:
            yield event_log.latest(row.id) or _as_event(row, known)
        return
    while rows := event_log.read(last, known, owner, row.id if row else None):
        yield from rows
        last = rows[-1].id


def _as_event(row: Row[Any], number: int) -> Any:
    """What a file is, where the log has forgotten how it became that."""
    return SimpleNamespace(**{**row._mapping, "id": number, "file_id": row.id, "kind": STATUS})


def _show(event: Row[Any]) -> str:
    url = event.url if event.upload_status == UploadStatus.COMPLETE else None
    facts = (event.upload_status, event.mode, event.bytes_sent, event.size, event.error, url)
    return _text_of(event.id, event.kind, event.file_id, event.name, *facts)


@lru_cache(256)  # many watchers are told the same
def _text_of(number: int, kind: str, *facts: object) -> str:
    names = ("id", "name", "upload_status", "mode", "bytes_sent", "size", "error", "url")
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(dict(zip(names, facts, strict=True)))}\n\n"


def _last_event_id() -> int | None:
    text = request.headers.get("Last-Event-ID")
    if not text:
        return None
    if not NUMBER.fullmatch(text):
        raise InvalidQuery("The Last-Event-ID is not one of ours.")
    number = int(text)
    return number if number <= event_log.newest() else None
