"""Links: for whom, for how long, and inline only for what cannot run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import requests

from tests.kit.stack import RedisServer
from tests.kit.tokens import Ferry, running_ferry
from tests.kit.zoo import GIF_AND_JS, HTML, JPEG, PNG, SVG

MP4 = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(100)


@pytest.fixture(scope="module")
def ferry(s3: Any, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ferry]:
    with running_ferry(tmp_path_factory.mktemp("links"), {**s3.settings, **redis_server.settings}) as found:
        yield found


def uploaded(ferry: Ferry, content: bytes, content_type: str, name: str = "a.bin") -> str:
    answer = ferry.upload(part=(name, content, content_type), mode="normal")
    assert answer.status_code == 201, answer.text
    file_id: str = answer.json()["id"]
    return file_id


def link(ferry: Ferry, file_id: str, credential: str | None = None, **wanted: Any) -> requests.Response:
    return ferry.post(f"/files/{file_id}/links", credential, json=wanted)


def test_whoever_has_a_link_downloads_for_an_hour(ferry: Ferry) -> None:
    file_id = uploaded(ferry, HTML, "text/html", "Größe.html")
    answer = link(ferry, file_id)
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    left = datetime.fromisoformat(answer.json()["expires_at"]) - datetime.now(UTC)
    assert 3590 < left.total_seconds() <= 3600
    got = requests.get(answer.json()["url"], timeout=20)
    assert got.content == HTML
    assert got.headers["Content-Disposition"].startswith("attachment")
    assert "filename*=UTF-8''Gr%C3%B6%C3%9Fe.html" in got.headers["Content-Disposition"]


def test_a_link_without_a_body_is_an_attachment(ferry: Ferry) -> None:
    answer = ferry.post(f"/files/{uploaded(ferry, PNG, 'image/png')}/links")
    assert answer.status_code == 201
    assert requests.get(answer.json()["url"], timeout=20).headers["Content-Disposition"].startswith("attachment")


INLINE = [
    (PNG, "image/png"),
    (JPEG, "image/jpeg"),
    (MP4, "video/mp4"),
    (b"%PDF-1.7\n%%EOF", "application/pdf"),
    (b"hello", "text/plain; charset=utf-8"),
    (b"a,b\n1,2\n", "text/plain"),
    (b"ID3\x03\0\0\0\0\0\0", "audio/mpeg"),
]


@pytest.mark.parametrize(("content", "content_type"), INLINE, ids=lambda value: str(value)[:20])
def test_what_cannot_run_is_shown_inline(ferry: Ferry, content: bytes, content_type: str) -> None:
    answer = link(ferry, uploaded(ferry, content, content_type), disposition="inline")
    assert answer.status_code == 201, answer.text
    got = requests.get(answer.json()["url"], timeout=20)
    assert (got.headers["Content-Type"], got.content) == (content_type, content)
    assert got.headers["Content-Disposition"].startswith("inline")


UNSAFE = [
    (HTML, "text/html"),
    (HTML, "image/png"),
    (HTML, "text/plain"),
    (SVG, "image/svg+xml"),
    (SVG, "image/png"),
    (SVG, "text/plain"),
    (b"<?xml version='1.0'?><a/>", "application/xml"),
    (b"<?xml version='1.0'?><a/>", "text/plain"),
    (b"<?xml version='1.0'?><a/>", "image/png"),
    (PNG, "text/html"),
    (PNG, "image/png+xml"),
    (b"alert(1)", "text/javascript"),
    (b"alert(1)", "application/octet-stream"),
    (b"hello", "text/css"),
]


@pytest.mark.parametrize(("content", "content_type"), UNSAFE, ids=lambda value: str(value)[:30])
def test_what_may_run_is_never_shown_inline(ferry: Ferry, content: bytes, content_type: str) -> None:
    file_id = uploaded(ferry, content, content_type)
    answer = link(ferry, file_id, disposition="inline")
    assert answer.status_code == 422
    assert "attachment" in answer.json()["detail"]
    assert link(ferry, file_id).status_code == 201


def test_a_polyglot_is_shown_as_what_it_declares(ferry: Ferry) -> None:
    answer = link(ferry, uploaded(ferry, GIF_AND_JS, "image/gif"), disposition="inline")
    assert requests.get(answer.json()["url"], timeout=20).headers["Content-Type"] == "image/gif"


@pytest.mark.parametrize(
    "wanted",
    [
        {"expires_in": 0},
        {"expires_in": 604_801},
        {"expires_in": "60"},
        {"expires_in": True},
        {"expires_in": None},
        {"expires_in": 1.5},
        {"disposition": "form-data"},
        {"disposition": ["inline"]},
        {"disposition": "inline; filename=x"},
        {"content_type": "text/html"},
    ],
    ids=str,
)
def test_a_link_that_cannot_be_is_refused(ferry: Ferry, wanted: dict[str, Any]) -> None:
    assert link(ferry, uploaded(ferry, PNG, "image/png"), **wanted).status_code == 400


def test_a_link_ends(ferry: Ferry) -> None:
    address = link(ferry, uploaded(ferry, PNG, "image/png"), expires_in=1).json()["url"]
    time.sleep(2.5)
    assert requests.get(address, timeout=20).status_code == 403


def test_a_link_cannot_be_turned_into_another(ferry: Ferry) -> None:
    address = link(ferry, uploaded(ferry, PNG, "image/png"), disposition="inline").json()["url"]
    changed = address.replace("image%2Fpng", "text%2Fhtml")
    assert changed != address
    assert requests.get(changed, timeout=20).status_code == 403


def test_there_is_no_link_to_what_is_not_in_s3(ferry: Ferry) -> None:
    file_id = ferry.upload(mode="celery").json()["id"]  # no worker runs
    assert link(ferry, file_id).status_code == 409
    assert link(ferry, "0" * 32).status_code == 404


def test_a_user_has_links_to_their_own_files(ferry: Ferry) -> None:
    mine, other = ferry.token(subject="1"), ferry.token(subject="2")
    row = ferry.upload(mine, mode="normal").json()
    assert link(ferry, row["id"], mine).status_code == 201
    assert link(ferry, row["id"], other).status_code == 404
    assert link(ferry, row["id"], ferry.token(subject="1", grants=["upload"])).status_code == 403
