"""Security headers: on every answer, whoever made it, unless its view knows better."""

from __future__ import annotations

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient

from access import auth


@pytest.mark.parametrize("path", ["/", "/healthz", "/files/none", "/nowhere", "/async_upload", "/metrics"])
def test_every_answer_has_them(client: FlaskClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert "Strict-Transport-Security" not in headers


def test_https_is_kept(client: FlaskClient) -> None:
    answer = client.get("/healthz", base_url="https://localhost")
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_json_is_not_stored(client: FlaskClient) -> None:
    assert client.get("/files/none").headers["Cache-Control"] == "no-store"
    assert "Cache-Control" not in client.get("/metrics").headers


def test_a_view_may_know_better(app: Flask) -> None:
    own = {"Content-Security-Policy": "default-src 'self'", "Cache-Control": "no-cache"}
    page = auth.public(lambda: Response("{}", headers=own, content_type="application/json"))
    app.add_url_rule("/page", view_func=page)
    headers = app.test_client().get("/page").headers
    assert {name: headers[name] for name in own} == own
