"""Long polls: GET /files/<id> with `Prefer: wait` answers when the file changes (RFC 7240)."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import Any

from flask import request
from werkzeug.http import parse_dict_header

from access import auth
from core.errors import Busy, Unauthorized
from core.file_row import FileRow
from core.services import services, this_app
from events.hub import Closed
from models import awaits_digest
from web.representation import file_json, is_being_processed, own_file

LONGEST_WAIT_SECONDS = 60
DIGEST_LOOK_SECONDS = 0.25
NUMBER = re.compile(r"\d{1,18}", re.ASCII)


def preferred_wait() -> int:
    """Return how many seconds the client would wait for a change; 0 if it does not say.

    Source: RFC 7240, section 4.3.
    """
    seconds = parse_dict_header(request.headers.get("Prefer", "")).get("wait") or ""
    return min(int(seconds), LONGEST_WAIT_SECONDS) if NUMBER.fullmatch(seconds) else 0


def changed(row: FileRow, shown: dict[str, Any], seconds: int) -> dict[str, Any]:
    """Wait until a file has changed; returns at once if too many clients are waiting.

    Of a COMPLETE file only the SHA-256 can change, from None. No event tells of that, so the row is read again.

    Args:
        row: the file.
        shown: the file as the client knows it.
        seconds: the longest wait.

    Returns:
        The file as it is now.

    Raises:
        Unauthorized: the key was revoked, or the token has expired, meanwhile.
    """
    lacks_digest = awaits_digest(row)
    if row.upload_status.is_final and not lacks_digest and not is_being_processed(row):
        return shown
    pause = DIGEST_LOOK_SECONDS if lacks_digest else seconds
    ends_at, credential = time.monotonic() + seconds, auth.CredentialCheck()
    with suppress(Busy, Closed), services().hub.watching(this_app(), auth.principal(), row.id) as (watcher, _):
        while file_json(own_file(row.id)) == shown and time.monotonic() < ends_at:
            watcher.take(min(max(0.0, ends_at - time.monotonic()), credential.seconds_left(), pause))
            if credential.fails():
                raise Unauthorized("The key was revoked, or the token has expired.")
    return file_json(own_file(row.id))
