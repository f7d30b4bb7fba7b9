"""Reads the body of a request as it arrives."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

from flask import Request
from werkzeug.exceptions import ClientDisconnected
from werkzeug.wsgi import get_input_stream

from config import MIB
from core.errors import BodyBroken, TooSlow, UploadTooLarge

CHUNK_BYTES = 1 * MIB
MIN_CHUNK_BYTES = 16 * 1024
QUICK_SECONDS = 0.1


def declared_length(request: Request, max_bytes: int) -> int:
    """Return the body's declared length in bytes; 0 without one.

    Raises:
        UploadTooLarge: it is more than is taken.
    """
    length = request.content_length or 0
    if length > max_bytes:
        raise too_large(max_bytes)
    return length


def chunks(request: Request, max_bytes: int = sys.maxsize) -> Iterator[bytes]:
    """Yield the body as it arrives.

    Args:
        request: a request with an unread body.
        max_bytes: the most that is taken.

    Raises:
        UploadTooLarge: it is longer.
        TooSlow: the client stalls, or sends too slowly.
        BodyBroken: the client has closed the connection before the body's end, or its framing is malformed.
    """
    stream = get_input_stream(request.environ)
    received, size, asked_at = 0, MIN_CHUNK_BYTES, time.monotonic()
    try:
        # A read waits until it is full, so a slow client is asked for little, and its lease renewed between.
        while chunk := stream.read(size):
            answered_at = time.monotonic()
            size = min(size * 2, CHUNK_BYTES) if answered_at - asked_at < QUICK_SECONDS else MIN_CHUNK_BYTES
            asked_at = answered_at
            received += len(chunk)
            if received > max_bytes:
                raise too_large(max_bytes)
            yield chunk
        if received < (request.content_length or 0):  # gunicorn does not say so
            raise ClientDisconnected
    except TimeoutError as error:
        raise TooSlow("The request body arrived too slowly.") from error
    except ValueError as error:
        raise BodyBroken("The body's chunked framing is malformed.") from error
    except (ClientDisconnected, OSError) as error:
        raise BodyBroken("The connection was closed before the request was complete.") from error


def too_large(max_bytes: int) -> UploadTooLarge:
    """Return the error of a body that is too long."""
    return UploadTooLarge(f"The request body must not exceed {max_bytes} bytes.")


def connection_of(request: Request) -> socket.socket | None:
    """Return the connection of a request; None with another server than gunicorn."""
    found: socket.socket | None = request.environ.get("gunicorn.socket")
    return found


def shut(connection: socket.socket | None, how: int) -> None:
    """Shut a connection down, in one direction or both; one that is gone is shut."""
    if connection is not None:
        with suppress(OSError):
            # Not the method of a TLS connection, which would forget its keys in the middle of a read.
            socket.socket.shutdown(connection, how)
