"""Uploads by Flask's test client, for tests of what happens inside one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from flask.testing import FlaskClient

MAKE = Callable[..., FlaskClient]
"""Makes the client of an owner under limits; see the fixture `make`."""


def upload(
    client: FlaskClient,
    mode: str = "celery",
    content: bytes = b"hello",
    name: str = "a.txt",
    headers: Mapping[str, str] | None = None,
) -> Any:
    """Post a file as a form. In celery mode it waits in the spool, since there is no worker."""
    return client.post(f"/{mode}_upload", data={"file": (BytesIO(content), name)}, headers=headers)


def accepted(
    client: FlaskClient,
    mode: str = "celery",
    content: bytes = b"hello",
    name: str = "a.txt",
    headers: Mapping[str, str] | None = None,
) -> Any:
    """Post a file that is accepted. Returns its JSON."""
    answer = upload(client, mode, content, name, headers)
    assert answer.status_code in (201, 202), answer.text
    return answer.json


def read(client: FlaskClient, path: str) -> Any:
    """Return the JSON at a path."""
    return client.get(path).json
