"""What is just within the limits is taken."""

from __future__ import annotations

import pytest
from flask import Flask

from tests.kit.forms import body_of


@pytest.fixture
def env(env: dict[str, str]) -> dict[str, str]:
    return {**env, "MAX_CONTENT_LENGTH": "5000"}


@pytest.mark.parametrize("chunked", [False, True])
def test_exactly_the_limit_is_taken(app: Flask, chunked: bool) -> None:
    framing = {"wsgi.input_terminated": True, "CONTENT_LENGTH": ""} if chunked else {}
    answer = app.test_client().post(
        "/normal_upload",
        data=body_of(5000),
        content_type="multipart/form-data; boundary=b",
        environ_overrides=framing,
    )
    assert answer.status_code == 201, answer.text
