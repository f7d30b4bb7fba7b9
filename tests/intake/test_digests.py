"""Digests that a client sends along: right ones pass, all others are 400 and nothing is kept."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from config import MIB
from core.database import db
from models import File

CONTENT = b"the bytes of the file"
PLACES = ["part", "request"]

Field = tuple[str, str]


def base64_of(algorithm: str, content: bytes) -> str:
    return base64.b64encode(hashlib.new(algorithm, content).digest()).decode()


def member(algorithm: str, content: bytes) -> str:
    """One member of a digest dictionary, as `sha-256=:...:`."""
    return f"{algorithm}=:{base64_of(algorithm.replace('-', ''), content)}:"


FIELDS: dict[str, Callable[[bytes], Field]] = {
    "Repr-Digest sha-256": lambda content: ("Repr-Digest", member("sha-256", content)),
    "Repr-Digest sha-512": lambda content: ("Repr-Digest", member("sha-512", content)),
    "Content-Digest sha-256": lambda content: ("Content-Digest", member("sha-256", content)),
    "Content-Digest sha-512": lambda content: ("Content-Digest", member("sha-512", content)),
    "both algorithms": lambda content: (
        "Repr-Digest",
        f"{member('sha-256', content)}, {member('sha-512', content)}",
    ),
    "Content-MD5": lambda content: ("Content-MD5", base64_of("md5", content)),
}


def form(content: bytes, *fields: Field) -> bytes:
    """A form with one file, whose part has these header fields."""
    more = "".join(f"{name}: {value}\r\n" for name, value in fields)
    head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n{more}\r\n'
    return head.encode() + content + b"\r\n--b--\r\n"


def post(client: FlaskClient, body: bytes, *fields: Field, mode: str = "normal") -> Any:
    kind = "multipart/form-data; boundary=b"
    return client.post(f"/{mode}_upload", data=body, content_type=kind, headers=list(fields))


def post_at(client: FlaskClient, place: str, *fields: Field, mode: str = "normal") -> Any:
    """Post the file with header fields in its part, or in the request."""
    if place == "part":
        return post(client, form(CONTENT, *fields), mode=mode)
    return post(client, form(CONTENT), *fields, mode=mode)


def covered(place: str) -> bytes:
    """What a digest in this place speaks of."""
    return CONTENT if place == "part" else form(CONTENT)


def assert_refusal(app: Flask, spool_dir: Path, answer: Any, detail: str) -> None:
    """400, no row, and nothing in the spool."""
    assert answer.status_code == 400, answer.text
    assert detail in answer.json["detail"]
    with app.app_context():
        assert db.session.query(File).count() == 0
    assert os.listdir(spool_dir) == ["spool-id"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("field", FIELDS)
def test_a_right_digest_is_accepted(client: FlaskClient, place: str, field: str) -> None:
    answer = post_at(client, place, FIELDS[field](covered(place)))
    assert answer.status_code == 201, answer.text
    assert answer.json["sha256"] == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("field", FIELDS)
def test_a_wrong_digest_is_refused(
    app: Flask, client: FlaskClient, spool_dir: Path, place: str, field: str
) -> None:
    wrong = FIELDS[field](covered(place) + b"!")
    assert_refusal(app, spool_dir, post_at(client, place, wrong), f"do not match the {wrong[0]}")


@pytest.mark.parametrize("mode", ["async", "celery"])
def test_a_wrong_digest_is_refused_in_every_mode(
    app: Flask, client: FlaskClient, spool_dir: Path, mode: str
) -> None:
    wrong = FIELDS["both algorithms"](CONTENT + b"!")
    assert_refusal(app, spool_dir, post_at(client, "part", wrong, mode=mode), "do not match")


@pytest.mark.parametrize("field", FIELDS)
def test_a_digest_in_the_request_speaks_of_the_whole_body(
    app: Flask, client: FlaskClient, spool_dir: Path, field: str
) -> None:
    assert_refusal(app, spool_dir, post_at(client, "request", FIELDS[field](CONTENT)), "do not match")


@pytest.mark.parametrize("place", PLACES)
def test_of_several_algorithms_none_may_be_wrong(
    app: Flask, client: FlaskClient, spool_dir: Path, place: str
) -> None:
    mixed = f"{member('sha-256', covered(place))}, {member('sha-512', b'other')}"
    assert_refusal(app, spool_dir, post_at(client, place, ("Repr-Digest", mixed)), "do not match")


@pytest.mark.parametrize("place", PLACES)
def test_of_several_fields_none_may_be_wrong(app: Flask, client: FlaskClient, spool_dir: Path, place: str) -> None:
    right = ("Repr-Digest", member("sha-256", covered(place)))
    wrong = ("Content-MD5", base64_of("md5", b"other"))
    assert_refusal(app, spool_dir, post_at(client, place, right, wrong), "do not match the Content-MD5")


def test_a_field_on_two_lines_is_read_whole(app: Flask, client: FlaskClient, spool_dir: Path) -> None:
    """RFC 9110, section 5.3: the lines of a list field are one list."""
    right = ("Repr-Digest", member("sha-256", CONTENT))
    wrong = ("Repr-Digest", member("sha-512", b"other"))
    assert_refusal(app, spool_dir, post_at(client, "part", right, wrong), "do not match")


def test_a_wrong_digest_of_the_body_outweighs_a_right_one_of_the_file(
    app: Flask, client: FlaskClient, spool_dir: Path
) -> None:
    body = form(CONTENT, ("Repr-Digest", member("sha-256", CONTENT)))
    answer = post(client, body, ("Content-Digest", member("sha-256", body + b"!")))
    assert_refusal(app, spool_dir, answer, "do not match the Content-Digest")


@pytest.mark.parametrize("place", PLACES)
def test_an_unknown_algorithm_beside_a_known_one_is_passed_over(client: FlaskClient, place: str) -> None:
    value = f"blake9=:AAAA:, {member('sha-256', covered(place))}"
    assert post_at(client, place, ("Repr-Digest", value)).status_code == 201


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["Repr-Digest", "Content-Digest"])
def test_only_unknown_algorithms_are_refused(
    app: Flask, client: FlaskClient, spool_dir: Path, place: str, name: str
) -> None:
    answer = post_at(client, place, (name, "blake9=:AAAA:, unixsum=:AAAA:"))
    assert_refusal(app, spool_dir, answer, "no known algorithm")


MALFORMED = {
    "no dictionary": "nonsense",
    "no colons": "sha-256=AAAA",
    "not closed": "sha-256=:AAAA",
    "not base64": "sha-256=:!!!!:",
    "bad padding": "sha-256=:AAAAA:",
    "upper-case key": "SHA-256=:AAAA:",
    "empty member": "sha-256=:AAAA:,",
    "not ASCII": "sha-256=:\u00e9AAA:",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["Repr-Digest", "Content-Digest"])
@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_dictionary_is_refused(
    app: Flask, client: FlaskClient, spool_dir: Path, place: str, name: str, case: str
) -> None:
    answer = post_at(client, place, (name, MALFORMED[case]))
    assert_refusal(app, spool_dir, answer, f"The {name} is malformed.")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", ["!!!!", "AAAAA", "\u00e9AAA"])
def test_a_malformed_content_md5_is_refused(
    app: Flask, client: FlaskClient, spool_dir: Path, place: str, value: str
) -> None:
    answer = post_at(client, place, ("Content-MD5", value))
    assert_refusal(app, spool_dir, answer, "The Content-MD5 is malformed.")


@pytest.mark.parametrize("length", [0, 15, 31, 33])
def test_a_digest_of_the_wrong_length_is_refused(
    app: Flask, client: FlaskClient, spool_dir: Path, length: int
) -> None:
    short = hashlib.sha512(CONTENT).digest()[:length]
    value = f"sha-256=:{base64.b64encode(short).decode()}:"
    assert_refusal(app, spool_dir, post_at(client, "part", ("Repr-Digest", value)), "do not match")


@pytest.mark.parametrize("size", [0, 1, 3 * MIB + 1])
def test_a_digest_covers_a_file_of_any_size(client: FlaskClient, size: int) -> None:
    content = os.urandom(size)
    body = form(content, FIELDS["both algorithms"](content), FIELDS["Content-MD5"](content))
    answer = post(client, body, FIELDS["both algorithms"](body))
    assert answer.status_code == 201, answer.text
