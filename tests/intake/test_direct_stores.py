"""Direct uploads into stores that enforce less: another way is taken, or it is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import update

from core.database import db, utcnow
from intake.direct import chores
from intake.direct.rows import DirectUpload
from storage.s3.abilities import QUESTIONS
from tests.conftest import running_app
from tests.kit import forgiving as lies
from tests.kit.direct import post, put
from tests.kit.forgiving import ForgivingStore, Lie, forgiving_store
from tests.kit.stack import S3Server
from tests.kit.uploads import read

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

HELLO = b"hello"
HEADERS, EXCLUSIVE, PARTS, PARTS_CHECKSUM, COPIES, COPY_CONDITION, FORM = [question for question, _ in QUESTIONS]
CORS = "lets pages send to it"


@pytest.fixture
def store(s3: S3Server, bucket: S3Client) -> Iterator[ForgivingStore]:
    with forgiving_store(s3.port, bucket) as store:
        yield store


@contextmanager
def client_of(env: dict[str, str], store: ForgivingStore, lie: Lie) -> Iterator[FlaskClient]:
    store.lie = lie
    more = {"DIRECT": "true", "S3_ENDPOINT_URL": store.url, "S3_KEY_PREFIX": f"{uuid4().hex}/"}
    with running_app({**env, **more}) as app:
        yield app.test_client()


LIES: list[tuple[Lie, set[str]]] = [
    (lies.honest, set()),
    (lies.takes_any_headers, {HEADERS}),
    (lies.overwrites, {EXCLUSIVE}),
    (lies.takes_no_parts_at_addresses, {PARTS, PARTS_CHECKSUM}),
    (lies.tells_no_checksum, {PARTS_CHECKSUM}),
    (lies.tells_a_wrong_checksum, {PARTS_CHECKSUM}),
    (lies.cannot_copy, {COPIES, COPY_CONDITION}),
    (lies.copies_anyhow, {COPY_CONDITION}),
    (lies.takes_any_form, {FORM}),
    (lies.knows_no_forms, {FORM}),
    (lies.shares_with_nobody, {CORS}),
]


@pytest.mark.parametrize(("lie", "failed"), LIES, ids=lambda value: getattr(value, "__name__", ""))
def test_the_doctor_names_what_a_store_does_not_enforce(
    env: dict[str, str], store: ForgivingStore, lie: Lie, failed: set[str]
) -> None:
    with client_of(env, store, lie) as client:
        runner = client.application.test_cli_runner()
        assert runner.invoke(args=["set-cors"]).exit_code == 0  # tests of others may have left other rules
        output = runner.invoke(args=["s3-doctor"]).output
    about = output.partition("Direct uploads\n")[2].splitlines()[:-1]
    answers = {line[7:].partition(":")[0].partition(" (flask")[0]: line[2:5].strip() for line in about}
    assert {question for question, answer in answers.items() if answer != "yes"} == failed
    assert len(answers) == len(QUESTIONS) + 1


def sent(client: FlaskClient, content: bytes = HELLO, **wanted: Any) -> Any:
    """Send a file as the service says, and finish it."""
    begun = client.post("/direct", json={"name": "a.txt", "size": len(content), **wanted})
    assert begun.status_code == 201, begun.text
    upload: Any = begun.json
    where = upload.get("put") or read(client, f"/direct/{upload['id']}/parts/1")
    assert put(where, content).status_code == 200
    finished = client.post(f"/direct/{upload['id']}/finish")
    assert finished.status_code == 201, finished.text
    assert client.get(f"/files/{upload['id']}/content?proxy=1").data == content
    return upload


def test_where_headers_are_not_enforced_files_go_in_parts(env: dict[str, str], store: ForgivingStore) -> None:
    with client_of(env, store, lies.takes_any_headers) as client:
        assert sent(client)["parts"] == 1
        empty = client.post("/direct", json={"name": "a.txt", "size": 0})
        assert (empty.status_code, "/uploads" in (empty.json or {})["detail"]) == (501, True)


@pytest.mark.parametrize("lie", [lies.overwrites, lies.copies_anyhow])
def test_where_an_address_overwrites_the_object_is_copied(
    env: dict[str, str], store: ForgivingStore, lie: Lie
) -> None:
    def both(client: S3Client, request: lies.Request, answer: lies.Answer) -> lies.Answer:
        return lies.overwrites(client, request, lie(client, request, answer))

    with client_of(env, store, both) as client:
        upload = sent(client)
        assert f"incoming/{upload['id']}" in upload["put"]["url"]
        assert put(upload["put"], b"other").status_code == 200  # nobody reads it there
        assert client.get(f"/files/{upload['id']}/content?proxy=1").data == HELLO


@pytest.mark.parametrize("lie", [lies.tells_no_checksum, lies.tells_a_wrong_checksum])
def test_what_the_store_says_of_parts_is_read_back(env: dict[str, str], store: ForgivingStore, lie: Lie) -> None:
    with client_of(env, store, lie) as client:
        upload = sent(client, multipart=True)
        assert read(client, f"/files/{upload['id']}")["sha256"]  # since the object was read


REFUSED: list[tuple[Lie, Callable[[FlaskClient], Any]]] = [
    (lies.takes_any_form, lambda client: client.get("/direct/s3/params?filename=a")),
    (lies.knows_no_forms, lambda client: client.get("/direct/s3/params?filename=a")),
    (lies.cannot_copy, lambda client: client.get("/direct/s3/params?filename=a")),
    (
        lies.takes_no_parts_at_addresses,
        lambda client: client.post("/direct/s3/multipart", json={"filename": "a"}),
    ),
]


@pytest.mark.parametrize(("lie", "ask"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_what_cannot_be_done_safely_is_refused(
    env: dict[str, str], store: ForgivingStore, lie: Lie, ask: Callable[[FlaskClient], Any]
) -> None:
    with client_of(env, store, lie) as client:
        answer = ask(client)
        assert (answer.status_code, "does not enforce" in answer.json["detail"]) == (501, True)


def test_a_form_is_copied_without_conditions(env: dict[str, str], store: ForgivingStore) -> None:
    with client_of(env, store, lies.copies_anyhow) as client:
        form = read(client, "/direct/s3/params?filename=a.txt&type=")
        post(form, HELLO)
        with client.application.app_context():
            db.session.execute(update(DirectUpload).values(look_at=utcnow() - timedelta(seconds=1)))
            db.session.commit()
            chores.look_at_due()
        upload_id = form["fields"]["key"].rpartition("/")[2]
        assert client.get(f"/files/{upload_id}/content?proxy=1").data == HELLO
