"""Metadata and the shown name: sent, shown, searched, changed; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import requests
from flask import Flask
from sqlalchemy import func, select

from core.database import db
from models import MetadataEntry
from tests.conftest import running_app
from tests.kit.stack import RedisServer
from tests.kit.tokens import Ferry, running_ferry

FILE = ("a.txt", b"hello", "text/plain")


@pytest.fixture(scope="module")
def ferry(s3: Any, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ferry]:
    with running_ferry(tmp_path_factory.mktemp("metadata"), {**s3.settings, **redis_server.settings}) as found:
        yield found


def post(ferry: Ferry, fields: Any) -> requests.Response:
    """Post a form whose parts come in this order."""
    return ferry.post("/async_upload", files=fields)


def text(content: str | bytes) -> tuple[None, str | bytes]:
    return (None, content)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize(
    "words",
    [
        {"order": "17"},
        {"album": "Größe 報告", "emoji": "\U0001f600", "empty": ""},
        {"quote": '"\\/', "lines": "a\nb\tc"},
        {f"name{number}": "x" * 100 for number in range(32)},
        {},
    ],
    ids=["one", "Unicode", "escapes", "thirty-two", "none"],
)
def test_metadata_is_on_the_file(ferry: Ferry, order: str, words: dict[str, str]) -> None:
    fields = [("metadata", text(json.dumps(words).encode())), ("file", FILE)]
    answer = post(ferry, fields if order == "before" else fields[::-1])
    assert answer.status_code == 202, answer.text
    assert answer.json()["metadata"] == words
    assert ferry.get(f"/files/{answer.json()['id']}").json()["metadata"] == words


REFUSED = [
    ("[]", "must be a JSON object"),
    ('"text"', "must be a JSON object"),
    ("17", "must be a JSON object"),
    ("{", "must be a JSON object"),
    ("order=17", "must be a JSON object"),
    ('{"a": 1}', "must be a string"),
    ('{"a": null}', "must be a string"),
    ('{"a": {"b": "c"}}', "must be a string"),
    ('{"a": ["b"]}', "must be a string"),
    ('{"a": "x\\u0000y"}', "NUL"),
    ('{"a": "\\ud800"}', "half a character"),
    ('{"a": "1", "a": "2"}', "twice"),
    ('{"": "1"}', "printable"),
    ('{"a\\nb": "1"}', "printable"),
    ('{"a\\u0000": "1"}', "printable"),
    (json.dumps({"x" * 129: "1"}), "printable"),
    (json.dumps({f"n{number}": "x" for number in range(33)}), "32 names"),
    (json.dumps({f"n{number}": "x" for number in range(1000)}), "32 names"),
    (json.dumps({"a": "x" * 4096}), "4096 bytes"),
    (json.dumps({"a": "ü" * 2048}, ensure_ascii=False), "4096 bytes"),
    ("[" * 20_000, "must be a JSON object"),
    ('{"a":' * 5_000, "must be a JSON object"),
    (json.dumps({"a": "x" * 40_000}), "too long"),
    (b'{"a": "\xff"}', "UTF-8"),
]


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize(("content", "detail"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_is_no_metadata_is_refused_by_its_mistake(
    ferry: Ferry, content: str | bytes, detail: str, order: str
) -> None:
    sent = content.encode() if isinstance(content, str) else content
    fields = [("metadata", text(sent)), ("file", FILE)]
    answer = post(ferry, fields if order == "before" else fields[::-1])
    assert answer.status_code == 400
    assert detail in answer.json()["detail"]


def test_a_field_that_comes_twice_is_refused(ferry: Ferry) -> None:
    for name, value in (("metadata", "{}"), ("expires_in", "60")):
        answer = post(ferry, [(name, text(value)), ("file", FILE), (name, text(value))])
        assert (answer.status_code, answer.json()["detail"]) == (400, f"Send the field '{name}' once.")


def test_an_empty_field_says_nothing(ferry: Ferry) -> None:
    answer = post(
        ferry, [("metadata", text(" ")), ("file", FILE), ("expires_in", text("")), ("process", text(""))]
    )
    assert answer.status_code == 202
    assert (answer.json()["metadata"], answer.json()["expires_at"]) == ({}, None)


def test_what_kendo_says_of_a_whole_file_is_no_metadata_but_a_text_of_that_name_is(ferry: Ferry) -> None:
    own = {"totalCount": "17"}
    kendo = {"chunkIndex": 0, "totalChunks": 1, "contentType": "text/plain", "uploadUid": "u"}
    for sent, kept in ((kendo, {}), (own, own)):
        answer = post(ferry, [("metadata", text(json.dumps(sent))), ("file", FILE)])
        assert (answer.status_code, answer.json()["metadata"]) == (202, kept)


def test_a_repeated_request_has_the_same_metadata(ferry: Ferry) -> None:
    headers = {"Idempotency-Key": "with metadata"}
    first = ferry.upload(data={"metadata": '{"a":"1","b":"2"}'}, headers=headers)
    assert (
        ferry.upload(data={"metadata": '{"b": "2", "a": "1"}'}, headers=headers).json()["id"] == first.json()["id"]
    )
    assert ferry.upload(data={"metadata": '{"a":"1"}'}, headers=headers).status_code == 422
    assert ferry.upload(headers=headers).status_code == 422


def found(ferry: Ferry, query: str, credential: str | None = None) -> list[str]:
    answer = ferry.get(f"/files?{query}", credential)
    assert answer.status_code == 200, answer.text
    return [row["id"] for row in answer.json()["files"]]


def test_files_are_found_by_their_metadata(env: dict[str, str], database_uri: str, tmp_path: Any) -> None:
    with running_ferry(tmp_path, {**env, "SQLALCHEMY_DATABASE_URI": database_uri}) as ferry:
        token = ferry.token(subject="42", metadata={"order": "17"})
        both = ferry.upload(data={"metadata": '{"order": "17", "album": "ä b"}'}).json()["id"]
        other = ferry.upload(data={"metadata": '{"order": "18", "album": "ä b"}'}).json()["id"]
        users = ferry.upload(token).json()["id"]
        assert found(ferry, "metadata.order=17") == [users, both]
        assert found(ferry, "metadata.order=17&metadata.album=%C3%A4%20b") == [both]
        assert found(ferry, "metadata.album=%C3%A4+b&name=A.TXT") == [other, both]
        assert found(ferry, "metadata.order=1") == found(ferry, "metadata.Order=17") == []
        assert found(ferry, "metadata.order=17", token) == found(ferry, "subject=42&metadata.order=17") == [users]
        page = ferry.get("/files?metadata.order=17&limit=1").json()
        assert [row["id"] for row in ferry.get(page["next"]).json()["files"]] == [both]
        assert ferry.patch(f"/files/{both}", None, {"metadata": {"order": "19"}}).status_code == 200
        assert (found(ferry, "metadata.order=17"), found(ferry, "metadata.order=19")) == ([users], [both])
        assert ferry.delete(f"/files/{both}").status_code == 204
        assert found(ferry, "metadata.order=19") == []
        with running_app(ferry.web.env) as app:
            _assert_no_entries_of_the_deleted(app, both)


def _assert_no_entries_of_the_deleted(app: Flask, file_id: str) -> None:
    with app.app_context():
        left = select(func.count()).where(MetadataEntry.file_id == file_id)
        assert db.session.scalars(left).one() in (0, 2)  # the sweep removes the row with them


@pytest.mark.parametrize(
    "query",
    [
        "metadata.a=1&metadata.b=2&metadata.c=3&metadata.d=4",
        "metadata.=1",
        "metadata.a=1&metadata.a=2",
        "metadata.a=%00",
        "metadata=1",
        "subject=",
        "subject=a%00b",
    ],
)
def test_a_search_that_cannot_be_is_refused(ferry: Ferry, query: str) -> None:
    assert ferry.get(f"/files?{query}").status_code == 400


def test_a_patch_merges(ferry: Ferry) -> None:
    row = ferry.upload(data={"metadata": '{"a": "1", "b": "2"}'}).json()
    address = f"/files/{row['id']}"
    steps = [
        ({"metadata": {"b": "3", "c": "4"}}, {"a": "1", "b": "3", "c": "4"}),
        ({"metadata": {"a": None, "none": None}}, {"b": "3", "c": "4"}),
        ({"metadata": {}}, {"b": "3", "c": "4"}),
        ({"name": "Größe.pdf"}, {"b": "3", "c": "4"}),
        ({"metadata": None}, {}),
    ]
    for change, words in steps:
        answer = ferry.patch(address, None, change)
        assert (answer.status_code, answer.json()["metadata"]) == (200, words)
    after = ferry.get(address).json()
    assert after["name"] == "Größe.pdf"
    assert (after["key"], after["sha256"], after["size"]) == (row["key"], after["sha256"], row["size"])
    assert ferry.get("/files?name=gr%C3%B6sse").json()["files"][0]["id"] == row["id"]


def test_a_patch_is_heard_by_those_who_watch(ferry: Ferry) -> None:
    row = ferry.upload(mode="normal").json()
    before = ferry.get(f"/files/{row['id']}")
    ferry.patch(f"/files/{row['id']}", None, {"metadata": {"a": "1"}})
    headers = {**ferry.bearer(), "If-None-Match": before.headers["ETag"]}
    assert requests.get(before.url, headers=headers, timeout=20).json()["metadata"] == {"a": "1"}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 400),
        ([], 400),
        ({"key": "x"}, 400),
        ({"name": ""}, 400),
        ({"name": ".."}, 400),
        ({"name": "a\0b"}, 400),
        ({"name": "\ud800"}, 400),
        ({"name": "x" * 256}, 400),
        ({"name": 17}, 400),
        ({"name": None}, 400),
        ({"metadata": "x"}, 400),
        ({"metadata": {"a": {}}}, 400),
        ({"metadata": {"a": "x" * 5000}}, 400),
        ({"metadata": {f"n{number}": "x" for number in range(33)}}, 400),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_patch_that_cannot_be_changes_nothing(ferry: Ferry, change: Any, status: int) -> None:
    row = ferry.upload(data={"metadata": '{"a": "1"}'}).json()
    assert ferry.patch(f"/files/{row['id']}", None, change).status_code == status
    after = ferry.get(f"/files/{row['id']}").json()
    assert (after["name"], after["metadata"]) == (row["name"], row["metadata"])


def test_a_patch_is_json(ferry: Ferry) -> None:
    address = f"{ferry.web.url}/files/{ferry.upload().json()['id']}"
    for kind, status in (
        ("application/merge-patch+json", 200),
        ("application/json; charset=utf-8", 200),
        ("text/plain", 415),
    ):
        headers = {**ferry.bearer(), "Content-Type": kind}
        assert (
            requests.patch(address, data=b'{"metadata": {"a": "1"}}', headers=headers, timeout=20).status_code
            == status
        )


def test_many_patches_at_once_are_all_made(ferry: Ferry) -> None:
    address = f"/files/{ferry.upload().json()['id']}"
    change = partial(ferry.patch, address, None)
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda number: change({"metadata": {f"n{number}": "x"}}), range(8)))
    made = {f"n{number}" for number, answer in enumerate(answers) if answer.status_code == 200}
    assert set(ferry.get(address).json()["metadata"]) == made
    assert len(made) >= 6
