"""A service with keys and tokens, asked over HTTP."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from access import keys
from tests.conftest import running_app
from tests.kit.stack import Web

SECRET = "the secret of the tests, of more than sixty-four bytes, as SHA-512 wants them"
PART = ("a.txt", b"hello", "text/plain")


class Ferry:
    """A whole web server, and a key of its owner alice.

    Args:
        web: the server.
        key: the key.
    """

    def __init__(self, web: Web, key: str) -> None:
        self.web = web
        self.key = key

    def bearer(self, credential: str | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {credential or self.key}"}

    def get(self, path: str, credential: str | None = None) -> requests.Response:
        return requests.get(
            self.web.url + path, headers=self.bearer(credential), timeout=20, allow_redirects=False
        )

    def post(self, path: str, credential: str | None = None, **sent: Any) -> requests.Response:
        headers = {**self.bearer(credential), **sent.pop("headers", {})}
        return requests.post(self.web.url + path, headers=headers, timeout=20, **sent)

    def patch(self, path: str, credential: str | None, change: Any) -> requests.Response:
        return requests.patch(self.web.url + path, headers=self.bearer(credential), json=change, timeout=20)

    def delete(self, path: str, credential: str | None = None) -> requests.Response:
        return requests.delete(self.web.url + path, headers=self.bearer(credential), timeout=20)

    def token(self, **wanted: Any) -> str:
        """Fetch an upload token."""
        answer = self.post("/tokens", json=wanted)
        assert answer.status_code == 201, answer.text
        token: str = answer.json()["token"]
        return token

    def upload(
        self,
        credential: str | None = None,
        part: Any = PART,
        mode: str = "async",
        data: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Post a file as a form."""
        return self.post(f"/{mode}_upload", credential, files={"file": part}, data=data, headers=headers or {})

    def key_of(self, owner: str) -> str:
        """Make a key of another owner."""
        with running_app(self.web.env) as app, app.app_context():
            return keys.create_key(owner)

    def count(self) -> int:
        """The number of alice's newest files, up to a page."""
        return len(self.get("/files?limit=200").json()["files"])

    @contextmanager
    def stuck_upload(self, credential: str) -> Iterator[None]:
        """An upload that has begun, and does not go on."""
        with socket.create_connection(("127.0.0.1", int(self.web.url.rpartition(":")[2]))) as connection:
            head = [
                "POST /async_upload HTTP/1.1",
                "Host: localhost",
                "Content-Type: multipart/form-data; boundary=b",
                f"Authorization: Bearer {credential}",
                "Content-Length: 10000",
            ]
            connection.sendall("\r\n".join([*head, "", "--b", ""]).encode())
            yield


@contextmanager
def running_ferry(folder: Path, env: Mapping[str, str], workers: int = 1) -> Iterator[Ferry]:
    """Start a service with keys, and stop it in the end."""
    settings = {
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
        "TOKEN_SECRET": SECRET,
        **env,
        "AUTH": "required",
    }
    web = Web(folder, settings, workers)
    web.start()
    try:
        web.wait()
        with running_app(web.env) as app, app.app_context():
            key = keys.create_key("alice")
        yield Ferry(web, key)
    finally:
        web.stop()
