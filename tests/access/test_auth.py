"""Keys, tokens, JWTs: every address and verb with every kind of credential; nobody sees a stranger's file."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import jwt
import pytest
from flask import Flask
from flask.testing import FlaskClient

from access import throttle, tokens
from access.keys import METRICS, all_keys, create_key, revoke_key
from app import create_app
from core.database import db
from tests.conftest import running_app
from tests.kit.stack import RedisServer, wait_for
from tests.kit.uploads import upload

SECRET = "of the tokens, also some fifty random bytes long"
NO_SUCH_ID = "0" * 32
PUBLIC = {
    *("/", "/docs", "/docs/try", "/openapi.json", "/healthz", "/readyz"),
    *("/static/<path:filename>", "/docs/assets/<path:filename>"),
}
UPLOADS = {"/normal_upload", "/async_upload", "/celery_upload"}
COMPANION = (
    ("/params", "GET"),
    ("/multipart", "POST"),
    ("/multipart/<id:upload_id>", "GET"),
    ("/multipart/<id:upload_id>", "DELETE"),
    ("/multipart/<id:upload_id>/<int:number>", "GET"),
    ("/multipart/<id:upload_id>/complete", "POST"),
)
"""What Uppy asks, also below a ticket; see test_direct_owners.py for that."""
OPENED_BY = {
    **{(rule, "POST"): "upload" for rule in UPLOADS},
    **{(rule + rest, "PUT"): "upload" for rule in UPLOADS for rest in ("", "/", "/<path:name>")},
    **{(rule, "POST"): "upload" for rule in ("/uploads", "/uploads/")},
    **{("/uploads/<upload_id>", verb): "upload" for verb in ("GET", "PATCH", "DELETE")},
    ("/files", "GET"): "read",
    ("/events", "GET"): "read",
    ("/files/<file_id>", "GET"): "read",
    ("/files/<file_id>/content", "GET"): "read",
    ("/files/<file_id>/events", "GET"): "read",
    ("/files/<file_id>/links", "POST"): "read",
    ("/files/<file_id>/retry", "POST"): "upload",
    ("/files/<file_id>/derivatives", "POST"): "upload",
    ("/files/<file_id>/report", "GET"): "read",
    ("/files/<file_id>", "PATCH"): "upload",
    ("/files/<file_id>", "DELETE"): "delete",
    ("/direct", "POST"): "upload",
    ("/direct/<id:upload_id>", "GET"): "upload",
    ("/direct/<id:upload_id>", "DELETE"): "upload",
    ("/direct/<id:upload_id>/parts/<int:number>", "GET"): "upload",
    ("/direct/<id:upload_id>/finish", "POST"): "upload",
    ("/direct/tickets", "POST"): "upload",
    **{(f"/direct/s3{rest}", verb): "upload" for rest, verb in COMPANION},
    ("/tokens", "POST"): "tokens",
    ("/metrics", "GET"): "metrics",
    ("/status", "GET"): "metrics",
}
"""Every address that is not public, and the grant that opens it. A new one fails until it stands here."""
JSON_BODIES = {"POST /tokens": {}, "PATCH /files/<file_id>": {"name": "b.txt"}, "POST /files/<file_id>/links": {}}
TEAM_SECRET = "the team's own secret, of some fifty random bytes"


@pytest.fixture
def env(env: dict[str, str], redis_server: RedisServer) -> dict[str, str]:
    with redis_server.client as client:
        client.flushdb()  # what other tests have counted in this minute
    team = {"JWT_SECRET": TEAM_SECRET, "JWT_OWNER": "alice"}
    return {**env, **team, "AUTH": "required", "TOKEN_SECRET": SECRET}


class Keys:
    """A key of every kind."""

    def __init__(self, app: Flask) -> None:
        with app.app_context():
            self.alice, self.bob = create_key("alice"), create_key("bob")
            self.revoked = create_key("alice")
            self.metrics = create_key("prometheus", METRICS)
            assert revoke_key(self.revoked.split("_")[1])
            assert not revoke_key(self.revoked.split("_")[1])
        self.wrong = self.alice[:-1] + ("A" if self.alice[-1] != "A" else "B")


@pytest.fixture
def keys(app: Flask) -> Keys:
    return Keys(app)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def routes(app: Flask) -> list[tuple[str, str]]:
    """Every verb of every address that is no credential itself."""
    rules = (rule for rule in app.url_map.iter_rules() if "<ticket>" not in rule.rule)
    return sorted((rule.rule, verb) for rule in rules for verb in rule.methods or ())


def ask(client: FlaskClient, rule: str, verb: str, file_id: str, headers: dict[str, str]) -> Any:
    address = rule.replace("<file_id>", file_id).replace("<path:filename>", "x").replace("<path:name>", "a.txt")
    address = address.replace("<id:upload_id>", NO_SUCH_ID).replace("<int:number>", "1")
    body = {"file": (BytesIO(b"hello"), "a.txt")} if rule in UPLOADS else None
    json = JSON_BODIES.get(f"{verb} {rule}")
    more: Any = {"data": body} if json is None else {"json": json}
    return client.open(address, method=verb, headers=headers, **more)


def is_public(rule: str, verb: str) -> bool:
    """Whether it needs no key: OPTIONS and a look at an upload address tell nothing of any file."""
    return rule in PUBLIC or verb == "OPTIONS" or (rule in UPLOADS and verb in ("GET", "HEAD"))


def opened_by(rule: str, verb: str) -> str:
    return OPENED_BY[rule, "GET" if verb == "HEAD" else verb]


def token(subject: str | None = "42", *grants: str, **limits: Any) -> str:
    """An upload token of alice's account."""
    wanted = {"grants": list(grants) or ["upload", "read", "delete"], **limits}
    wanted |= {"subject": subject} if subject else {}
    return tokens.make(SECRET, "alice", tokens.read_request(wanted))[0]


def team_token(subject: str = "42") -> str:
    return jwt.encode({"sub": subject, "exp": time.time() + 600}, TEAM_SECRET, "HS256")


def test_without_a_right_key_nothing_opens_but_what_is_public(
    app: Flask, client: FlaskClient, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "FAILURES_PER_WINDOW", 10_000)
    file_id = upload(client, "async", headers=bearer(keys.alice)).json["id"]
    attempts = {
        "no key": {},
        "empty": {"Authorization": ""},
        "no scheme": {"Authorization": keys.alice},
        "another scheme": {"Authorization": f"Basic {keys.alice}"},
        "malformed": bearer("x"),
        "half": bearer(keys.alice.rpartition("_")[0]),
        "another prefix": bearer(keys.alice.replace("fm_", "fx_", 1)),
        "not ASCII": {"Authorization": "Bearer fm_\u00e9_\u00e9"},
        "wrong": bearer(keys.wrong),
        "revoked": bearer(keys.revoked),
    }
    seen = set()
    for rule, verb in routes(app):
        for name, headers in attempts.items():
            answer = ask(client, rule, verb, file_id, headers)
            if is_public(rule, verb):
                assert answer.status_code not in (401, 500), (rule, verb, name)
                continue
            seen.add(rule)
            assert answer.status_code == 401, (rule, verb, name)
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="Ferryman"'
            assert answer.content_type == "application/problem+json"
    assert {"/files", "/files/<file_id>", "/files/<file_id>/content", "/async_upload"} <= seen


def test_every_address_and_verb_is_in_the_table(app: Flask) -> None:
    closed = {(rule, verb) for rule, verb in routes(app) if not is_public(rule, verb) and verb != "HEAD"}
    assert closed == set(OPENED_BY)


def test_a_view_without_a_mark_is_closed_for_everyone(env: dict[str, str]) -> None:
    app = create_app(env)
    app.add_url_rule("/unmarked", view_func=lambda: "open")
    with app.app_context():
        db.create_all()
        presented = [create_key("alice"), create_key("bob", METRICS), token(), team_token()]
    for one in presented:
        assert app.test_client().get("/unmarked", headers=bearer(one)).status_code == 403


def test_a_credential_opens_what_it_is_for_and_nothing_else(app: Flask, client: FlaskClient, keys: Keys) -> None:
    users = {"upload", "read", "delete"}
    credentials = {
        "key": (keys.alice, users | {"tokens"}),
        "key for metrics": (keys.metrics, {"metrics"}),
        "token": (token(), users),
        "token of the account": (token(None), users),
        "token to upload": (token("42", "upload"), {"upload"}),
        "token to read": (token("42", "read"), {"read"}),
        "token to delete": (token("42", "delete"), {"delete"}),
        "JWT": (team_token(), users),
    }
    of_user = bearer(team_token())
    for name, (credential, opens) in credentials.items():
        for rule, verb in routes(app):
            if is_public(rule, verb):
                continue
            file_id = upload(client, "async", headers=of_user).json["id"] if "<file_id>" in rule else ""
            answer = ask(client, rule, verb, file_id, bearer(credential))
            if opened_by(rule, verb) in opens:
                assert answer.status_code not in (401, 403), (name, rule, verb)
                if answer.status_code == 404:
                    assert b"File not found." not in answer.data, (name, rule, verb)
            else:
                assert answer.status_code == 403, (name, rule, verb)


@pytest.mark.parametrize("stranger", ["another owner", "another user", "another user by JWT"])
def test_a_strangers_upload_in_progress_is_like_none(client: FlaskClient, keys: Keys, stranger: str) -> None:
    users = {"another owner": keys.bob, "another user": token("43"), "another user by JWT": team_token("43")}
    tus = {"Tus-Resumable": "1.0.0"}
    mine, theirs = {**bearer(token("42")), **tus}, {**bearer(users[stranger]), **tus}
    path = client.post("/uploads", headers={**mine, "Upload-Length": "3", "Upload-Concat": "partial"}).location
    more = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    for verb in ("HEAD", "GET", "PATCH", "DELETE"):
        answers = [
            client.open(one, method=verb, data=b"abc" if verb == "PATCH" else None, headers={**theirs, **more})
            for one in (path, "/uploads/" + "0" * 32)
        ]
        assert [answer.status_code for answer in answers] == [404, 404], verb
    answer = client.post("/uploads", headers={**theirs, "Upload-Concat": f"final;{path}"})
    unknown = client.post("/uploads", headers={**theirs, "Upload-Concat": f"final;/uploads/{'0' * 32}"})
    assert (answer.status_code, answer.json) == (unknown.status_code, unknown.json) == (400, unknown.json)
    assert client.head(path, headers={**bearer(keys.alice), **tus}).status_code == 200  # the account sees it
    assert client.patch(path, data=b"abc", headers={**mine, **more}).status_code == 204


@pytest.mark.parametrize("stranger", ["another owner", "another user", "another user by JWT"])
def test_a_strangers_file_is_like_one_that_does_not_exist(
    app: Flask, client: FlaskClient, keys: Keys, stranger: str
) -> None:
    users = {"another owner": keys.bob, "another user": token("43"), "another user by JWT": team_token("43")}
    theirs, mine = bearer(users[stranger]), bearer(token("42"))
    file_id = upload(client, "async", headers=mine).json["id"]
    tried = 0
    for rule, verb in routes(app):
        if "<file_id>" not in rule or verb == "OPTIONS":
            continue
        tried += 1
        of_stranger = ask(client, rule, verb, file_id, theirs)
        of_nobody = ask(client, rule, verb, NO_SUCH_ID, theirs)
        assert of_stranger.status_code == of_nobody.status_code == 404, (rule, verb)
        assert of_stranger.data == of_nobody.data
        assert set(of_stranger.headers.keys()) == set(of_nobody.headers.keys())
    assert tried >= 8
    for query in ("", "?subject=42", "?metadata.a=b"):
        assert ask(client, f"/files{query}", "GET", "", theirs).json["files"] == []
    seen: Any = client.get("/files", headers=mine).json
    assert [row["id"] for row in seen["files"]] == [file_id]


@pytest.mark.parametrize("stranger", ["another owner", "another user"])
def test_a_strangers_file_takes_as_long_as_one_that_does_not_exist(
    client: FlaskClient, keys: Keys, stranger: str
) -> None:
    file_id = upload(client, "async", headers=bearer(keys.alice)).json["id"]
    headers = bearer(keys.bob if stranger == "another owner" else token("43"))
    times: dict[str, list[float]] = {file_id: [], NO_SUCH_ID: []}
    for _ in range(150):
        for address, taken in times.items():
            began = time.perf_counter()
            assert client.get(f"/files/{address}", headers=headers).status_code == 404
            taken.append(time.perf_counter() - began)
    theirs, nobodys = (statistics.median(taken) for taken in times.values())
    assert 0.5 < theirs / nobodys < 2  # the same single statement; a second one would show


def test_keys_of_one_owner_see_the_same_files(app: Flask, client: FlaskClient, keys: Keys) -> None:
    with app.app_context():
        second = create_key("alice")
    file_id = upload(client, "async", headers=bearer(keys.alice)).json["id"]
    assert client.get(f"/files/{file_id}", headers=bearer(second)).status_code == 200


def test_equal_idempotency_keys_of_two_owners_are_two(client: FlaskClient, keys: Keys) -> None:
    first = upload(client, "async", headers=bearer(keys.alice) | {"Idempotency-Key": "k"}).json["id"]
    assert upload(client, "async", headers=bearer(keys.alice) | {"Idempotency-Key": "k"}).json["id"] == first
    assert upload(client, "async", headers=bearer(keys.bob) | {"Idempotency-Key": "k"}).json["id"] != first


def test_a_lost_key_is_replaced_by_the_command_line(app: Flask, client: FlaskClient) -> None:
    run = app.test_cli_runner()
    key = run.invoke(args=["keys", "create", "carol"]).output.strip()
    assert upload(client, "async", headers=bearer(key)).status_code == 202
    listed = run.invoke(args=["keys", "list"]).output
    assert "carol" in listed
    assert key.split("_")[1] in listed
    assert key.split("_", 2)[2] not in listed
    assert run.invoke(args=["keys", "revoke", key.split("_")[1]]).exit_code == 0
    assert upload(client, "async", headers=bearer(key)).status_code == 401
    assert run.invoke(args=["keys", "revoke", key.split("_")[1]]).exit_code == 1
    for bad in ("", " ", "anonymous", "x" * 65, "a\tb"):
        assert run.invoke(args=["keys", "create", bad]).exit_code == 2, bad


def test_the_secret_of_a_key_is_nowhere_in_the_database(app: Flask, keys: Keys, env: dict[str, str]) -> None:
    with app.app_context():
        assert len(all_keys()) == 4
    folder = Path(env["SQLALCHEMY_DATABASE_URI"].removeprefix("sqlite:///")).parent
    stored = b"".join(path.read_bytes() for path in folder.glob("files.db*"))
    assert keys.alice.split("_")[1].encode() in stored
    assert keys.alice.split("_", 2)[2].encode() not in stored


def test_after_too_many_wrong_keys_from_an_address_only_wrong_keys_are_refused(
    client: FlaskClient, keys: Keys
) -> None:
    def status(key: str, address: str = "192.0.2.1") -> int:
        answer = client.get("/files", headers=bearer(key), environ_base={"REMOTE_ADDR": address})
        if answer.status_code == 429:
            assert 0 < int(answer.headers["Retry-After"]) <= 60
        return answer.status_code

    def until_closed() -> bool:  # a new minute may begin in between
        return [status(keys.wrong) for _ in range(throttle.FAILURES_PER_WINDOW + 1)][-1] == 429

    wait_for(until_closed, 10)
    assert status(keys.alice) == 200
    assert {status(wrong) for wrong in (keys.wrong, keys.revoked, "x", "fm_x_y")} <= {401, 429}
    assert status(keys.alice) == 200
    assert status(keys.wrong, "192.0.2.2") == 401


@pytest.fixture(params=[0, 1])
def proxied(request: pytest.FixtureRequest, env: dict[str, str]) -> Iterator[tuple[Flask, int]]:
    with running_app({**env, "TRUSTED_PROXIES": str(request.param)}) as app:
        yield app, request.param


def test_forwarded_for_is_believed_only_as_configured(proxied: tuple[Flask, int]) -> None:
    app, trusted = proxied
    client = app.test_client()

    def closed(forwarded: str) -> bool:
        headers = {**bearer("fm_x_y"), "X-Forwarded-For": f"203.0.113.9, {forwarded}"}
        answers = [
            client.get("/files", headers=headers, environ_base={"REMOTE_ADDR": f"192.0.2.{50 + trusted}"})
            for _ in range(throttle.FAILURES_PER_WINDOW + 1)
        ]
        return answers[-1].status_code == 429

    wait_for(lambda: closed(f"198.51.100.{trusted}"), 10)
    other = {**bearer("fm_x_y"), "X-Forwarded-For": "203.0.113.9, 198.51.100.77"}
    answer = client.get("/files", headers=other, environ_base={"REMOTE_ADDR": f"192.0.2.{50 + trusted}"})
    assert answer.status_code == (401 if trusted else 429)
