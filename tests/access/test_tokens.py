"""Upload tokens: what they are made of, what their limits allow, and what is wrong with all the others."""

from __future__ import annotations

import base64
import gzip
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from sqlalchemy import func, select

from access import keys, tokens
from access.quota import ReservationRow
from core.database import db
from models import File
from tests.conftest import running_app
from tests.kit.ports import free_port
from tests.kit.stack import RedisServer, wait_for
from tests.kit.tokens import SECRET, Ferry, running_ferry
from tests.kit.zoo import PNG, SVG


@pytest.fixture(scope="module")
def ferry(s3: Any, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ferry]:
    with redis_server.client as client:
        client.flushdb()
    with running_ferry(tmp_path_factory.mktemp("tokens"), {**s3.settings, **redis_server.settings}) as found:
        yield found


REFUSED_REQUESTS = [
    ([], "Send a JSON object."),
    ({"owner": "bob"}, "Unknown: owner."),
    ({"subject": ""}, "subject must"),
    ({"subject": "a\nb"}, "subject must"),
    ({"subject": "x" * 256}, "subject must"),
    ({"subject": 42}, "subject must"),
    ({"expires_in": 59}, "expires_in must"),
    ({"expires_in": 86_401}, "expires_in must"),
    ({"expires_in": "900"}, "expires_in must"),
    ({"expires_in": True}, "expires_in must"),
    ({"grants": []}, "grants must"),
    ({"grants": ["tokens"]}, "grants must"),
    ({"grants": ["metrics"]}, "grants must"),
    ({"grants": "read"}, "grants must"),
    ({"max_bytes": 0}, "max_bytes must"),
    ({"max_files": -1}, "max_files must"),
    ({"content_types": ["image"]}, "content_types must"),
    ({"modes": ["fast"]}, "modes must"),
    ({"process": ["A B"]}, "process must"),
    ({"metadata": {"a": 1}}, "Each value in metadata"),
    ({"metadata": {"a": "x" * 5000}}, "metadata must not exceed"),
    ({"file_expires_in": 0}, "file_expires_in must"),
    ({"metadata": {"a": "\u00fc" * 1500}}, "The token would have"),
]


@pytest.mark.parametrize(("body", "detail"), REFUSED_REQUESTS, ids=lambda value: str(value)[:40])
def test_a_token_request_that_is_wrong_names_what_is(ferry: Ferry, body: Any, detail: str) -> None:
    answer = ferry.post("/tokens", json=body)
    assert answer.status_code == 400
    assert detail in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"subject": "a", "subject": "b"}', "application/json", 400),
        (b"[" * 60_000, "application/json", 400),
        (b'{"subject": "\xff"}', "application/json", 400),
        (b"subject=a", "application/x-www-form-urlencoded", 415),
        (b"{}", "text/plain", 415),
        (b'{"subject": "' + b"a" * 70_000 + b'"}', "application/json", 413),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(ferry: Ferry, body: bytes, kind: str, status: int) -> None:
    answer = ferry.post("/tokens", data=body, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_chunked_or_compressed_body_is_judged_alike(ferry: Ferry) -> None:
    headers = {"Content-Type": "application/json"}
    for body, status in ((b'{"subject": "a"}', 201), (b'{"subject": "' + b"a" * 70_000 + b'"}', 413)):
        assert ferry.post("/tokens", data=iter([body]), headers=headers).status_code == status
    encoded = {**headers, "Content-Encoding": "gzip"}
    assert ferry.post("/tokens", data=gzip.compress(b"{}"), headers=encoded).status_code == 415


def test_a_token_is_for_a_quarter_of_an_hour_and_for_its_user(ferry: Ferry) -> None:
    answer = ferry.post("/tokens", json={"subject": "42"})
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    body = answer.json()
    claims = jwt.decode(body["token"].removeprefix("fmu_"), SECRET, ["HS256"], audience="ferryman:upload")
    assert claims["exp"] - claims["iat"] == 900
    uploaded = ferry.upload(body["token"])
    assert uploaded.status_code == 202
    assert uploaded.json()["subject"] == "42"
    assert ferry.get("/files?subject=42").json()["files"][0]["id"] == uploaded.json()["id"]


def test_without_a_secret_no_token_is_made(env: dict[str, str]) -> None:
    with running_app({**env, "AUTH": "required"}) as app, app.app_context():
        client = app.test_client()
        headers = {"Authorization": f"Bearer {keys.create_key('alice')}"}
        answer: Any = client.post("/tokens", json={}, headers=headers)
        assert answer.status_code == 501
        assert "TOKEN_SECRET" in answer.json["detail"]
        made, _ = tokens.make(SECRET, "alice", tokens.TokenRequest())
        assert client.get("/files", headers={"Authorization": f"Bearer {made}"}).status_code == 401


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    good = {"aud": tokens.AUDIENCE, "jti": os.urandom(4).hex(), "iat": now, "exp": now + 600, "owner": "alice"}
    found = {**good, "sub": "42", "grants": ["upload", "read"], "limits": {}, **changed}
    return {name: value for name, value in found.items() if value is not None}


def signed(secret: str = SECRET, algorithm: str = "HS256", **changed: Any) -> str:
    return "fmu_" + jwt.encode(claims(**changed), secret, algorithm)


def unsigned() -> str:
    head, body = ({"alg": "none", "typ": "JWT"}, claims())
    return "fmu_" + ".".join([*(_base64(json.dumps(one).encode()) for one in (head, body)), ""])


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def altered(place: int) -> str:
    token = signed()
    letter = "A" if token[place] != "A" else "B"
    return token[:place] + letter + token[place + 1 :]


HOSTILE: dict[str, Callable[[], str]] = {
    "a byte of the header": lambda: altered(8),
    "a byte of the claims": lambda: altered(60),
    "a byte of the signature": lambda: altered(-10),
    "another secret": lambda: signed("another secret, just as long as the right one"),
    "alg none": unsigned,
    "another algorithm": lambda: signed(algorithm="HS512"),
    "another audience": lambda: signed(aud="https://api.example.com"),
    "no audience": lambda: signed(aud=None),
    "not yet valid": lambda: signed(nbf=int(time.time()) + 600),
    "issued in the future": lambda: signed(iat=int(time.time()) + 600),
    "no expiry": lambda: signed(exp=None),
    "no owner": lambda: signed(owner=None),
    "no id": lambda: signed(jti=None),
    "a limit of another version": lambda: signed(limits={"max_colors": 3}),
    "limits that are a list": lambda: signed(limits=[1]),
    "an unknown grant": lambda: signed(grants=["everything"]),
    "an empty subject": lambda: signed(sub=""),
    "a subject with NUL": lambda: signed(sub="a\0b"),
    "a subject that is a number": lambda: signed(sub=42),
    "a JWT of the team": lambda: jwt.encode({"sub": "42", "exp": time.time() + 600}, SECRET, "HS256"),
    "without its prefix": lambda: signed().removeprefix("fmu_"),
    "the prefix alone": lambda: "fmu_",
    "no JWT": lambda: "fmu_hello",
    "two dots": lambda: "fmu_..",
    "nested without end": lambda: "fmu_" + _base64(b"[" * 4000) + ".e30.",
    "nested claims": lambda: "fmu_" + _base64(b'{"alg":"HS256"}') + "." + _base64(b"[" * 3000) + ".c2ln",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_token_that_is_not_right_opens_nothing(ferry: Ferry, what: str) -> None:
    token = HOSTILE[what]()
    before = ferry.count()
    for answer in (ferry.upload(token), ferry.get("/files", token)):
        assert answer.status_code in (401, 429), answer.text
        if answer.status_code == 401:
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="Ferryman"'
            assert "valid" in answer.json()["detail"]
        assert token not in answer.text
    assert ferry.count() == before


def test_an_expired_token_is_told_apart_and_not_counted_as_a_guess(ferry: Ferry) -> None:
    old = signed(exp=int(time.time()) - 1)
    for _ in range(30):  # more than an address may guess wrong
        answer = ferry.get("/files", old)
        assert answer.status_code == 401
        assert "expired" in answer.json()["detail"]
        assert 'error_description="expired"' in answer.headers["WWW-Authenticate"]
    assert old not in ferry.web.text()


def test_an_old_secret_is_accepted_until_it_is_taken_away(env: dict[str, str]) -> None:
    new = "a new secret, which is as long as the one before"
    headers = {"Authorization": f"Bearer {signed()}"}
    for settings, expected in (({"TOKEN_SECRET_OLD": SECRET}, {200}), ({}, {401, 429})):
        with running_app({**env, "AUTH": "required", "TOKEN_SECRET": new, **settings}) as app:
            assert app.test_client().get("/files", headers=headers).status_code in expected


LIMITED = [
    ({"modes": ["celery"]}, {}, 403, "celery uploads"),
    ({"max_bytes": 4}, {}, 413, "must not exceed 4 bytes"),
    ({"content_types": ["image/*"]}, {}, 415, "text/plain"),
    ({"content_types": ["image/*"]}, {"part": ("a.png", b"hello", "image/png")}, 415, "text/plain"),
    ({"content_types": ["image/*"]}, {"part": ("a.png", SVG, "image/png")}, 415, "image/svg+xml"),
    ({"metadata": {"album": "7"}}, {"data": {"metadata": '{"album": "8"}'}}, 403, "album"),
    ({"file_expires_in": 60}, {"data": {"expires_in": "61"}}, 400, "60 seconds"),
    ({"process": ["thumb"]}, {"data": {"process": "large"}}, 403, "large"),
    ({}, {"data": {"process": "thumb"}}, 400, "thumb"),
    ({"grants": ["read"]}, {}, 403, "does not grant"),
]


@pytest.mark.parametrize(("limits", "sent", "status", "detail"), LIMITED, ids=lambda value: str(value)[:40])
def test_what_a_token_does_not_allow_is_refused_and_leaves_nothing(
    ferry: Ferry, limits: dict[str, Any], sent: dict[str, Any], status: int, detail: str
) -> None:
    before = ferry.count()
    answer = ferry.upload(ferry.token(subject="42", **limits), **sent)
    assert answer.status_code == status
    assert detail in answer.json()["detail"]
    assert ferry.count() == before
    assert not list(Path(ferry.web.env["SPOOL_DIR"]).glob("*.part"))


ALLOWED = [
    ({"modes": ["async"]}, {}),
    ({"max_bytes": 5}, {}),
    ({"content_types": ["image/*", "text/plain"]}, {"part": ("a.png", PNG, "image/png")}),
    ({"metadata": {"album": "7"}}, {"data": {"metadata": '{"album": "7", "order": "1"}'}}),
    ({"file_expires_in": 600}, {"data": {"expires_in": "600"}}),
]


@pytest.mark.parametrize(("limits", "sent"), ALLOWED, ids=lambda value: str(value)[:40])
def test_what_a_token_allows_is_accepted(ferry: Ferry, limits: dict[str, Any], sent: dict[str, Any]) -> None:
    answer = ferry.upload(ferry.token(subject="42", **limits), **sent)
    assert answer.status_code == 202, answer.text


def test_what_a_token_fixes_is_on_the_file_and_stays(ferry: Ferry) -> None:
    token = ferry.token(subject="42", metadata={"album": "7"}, file_expires_in=600)
    row = ferry.upload(token, data={"metadata": '{"order": "1"}'}).json()
    assert row["metadata"] == {"order": "1", "album": "7"}
    assert row["expires_at"]
    for change, status in (({"album": "8"}, 403), ({"album": None}, 403), (None, 403), ({"order": "2"}, 200)):
        answer = ferry.patch(f"/files/{row['id']}", token, {"metadata": change})
        assert answer.status_code == status, (change, answer.text)
    assert ferry.get(f"/files/{row['id']}", token).json()["metadata"] == {"order": "2", "album": "7"}


def test_a_token_uploads_so_many_files_whatever_becomes_of_them(ferry: Ferry) -> None:
    token = ferry.token(subject="42", max_files=2, grants=["upload", "read", "delete"])
    assert ferry.upload(token, mode="fast").status_code == 404
    assert ferry.upload(token, part=("", b"x", "text/plain")).status_code == 400
    first = ferry.upload(token, headers={"Idempotency-Key": "a"})
    assert ferry.upload(token, headers={"Idempotency-Key": "a"}).json()["id"] == first.json()["id"]
    second = ferry.upload(token, headers={"Idempotency-Key": "b"})
    assert (first.status_code, second.status_code) == (202, 202)
    assert ferry.delete(f"/files/{first.json()['id']}", token).status_code == 204
    refused = ferry.upload(token)
    assert refused.status_code == 403
    assert "all its files" in refused.json()["detail"]
    # A repeated request uses up nothing, so it is answered as before.
    assert ferry.upload(token, headers={"Idempotency-Key": "b"}).json()["id"] == second.json()["id"]


def test_a_token_has_the_keys_of_its_own_user(ferry: Ferry) -> None:
    repeated = {"Idempotency-Key": "same"}
    tokens_of = [ferry.token(subject="u1"), ferry.token(subject="u2"), ferry.token(subject="u1")]
    ids = [ferry.upload(token, headers=repeated).json()["id"] for token in tokens_of]
    assert ids[0] == ids[2] != ids[1]
    assert ferry.upload(ferry.key, headers=repeated).json()["id"] not in ids


@pytest.mark.parametrize("what", ["max_files", "SUBJECT_BYTES_PER_DAY", "SUBJECT_FILES_IN_FLIGHT"])
def test_fifty_at_once_with_one_token_never_overshoot(
    env: dict[str, str], database_uri: str, tmp_path: Path, what: str
) -> None:
    allowed, size = 7, 10_000
    # Nothing is delivered without a broker.
    nothing = {"CELERY_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0", "UPLOAD_THREADS": "1"}
    settings = {**env, **nothing, "SQLALCHEMY_DATABASE_URI": database_uri, "LEASE_SECONDS": "5"}
    settings["S3_ENDPOINT_URL"] = f"http://127.0.0.1:{free_port()}"
    limits = {"max_files": allowed} if what == "max_files" else {}
    if what != "max_files":
        settings[what] = str(allowed * (size + 300) if "BYTES" in what else allowed)
    with running_ferry(tmp_path, settings, workers=2) as ferry:
        token = ferry.token(subject="42", **limits)
        part = ("a.txt", os.urandom(size), "text/plain")

        def post(_: int, token: str = token, part: Any = part, ferry: Ferry = ferry) -> int:
            return ferry.upload(token, part=part).status_code

        with ThreadPoolExecutor(50) as clients:
            codes = list(clients.map(post, range(50)))
        assert set(codes) <= {202, 403, 429}
        assert 0 < codes.count(202) <= allowed
        codes += [post(0) for _ in range(allowed + 1)]
        assert codes.count(202) == allowed
        assert codes[-1] == (403 if what == "max_files" else 429)
        if what != "max_files":  # which counts for each user
            assert ferry.upload(ferry.token(subject="43"), part=part).status_code == 202
        with running_app(ferry.web.env) as app, app.app_context():
            assert db.session.scalars(select(func.count()).select_from(ReservationRow)).one() == 0
            mine = select(func.count()).select_from(File).where(File.subject == "42")
            assert db.session.scalars(mine).one() == allowed


def test_a_crash_gives_a_tokens_file_back(env: dict[str, str], tmp_path: Path) -> None:
    with running_ferry(tmp_path, {**env, "LEASE_SECONDS": "2"}) as ferry:
        token = ferry.token(subject="42", max_files=1)

        def answers(status: int, ferry: Ferry = ferry, token: str = token) -> bool:
            return ferry.upload(token).status_code == status

        with ferry.stuck_upload(token):
            wait_for(partial(answers, 429), 10)
            ferry.web.kill()
        ferry.web.start()
        ferry.web.wait()
        wait_for(partial(answers, 202), 10)
        assert answers(403)


def test_a_stream_ends_with_its_token(ferry: Ferry) -> None:
    token = signed(exp=int(time.time()) + 3)
    began = time.monotonic()
    with requests.get(f"{ferry.web.url}/events", headers=ferry.bearer(token), stream=True, timeout=20) as stream:
        assert stream.status_code == 200
        for _ in stream.iter_content(None):
            pass
    assert time.monotonic() - began < 10
    assert ferry.get("/events", token).status_code == 401


def test_users_are_limited_in_a_minute_and_each_alone(env: dict[str, str], tmp_path: Path) -> None:
    with running_ferry(tmp_path, {**env, "SUBJECT_REQUESTS_PER_MINUTE": "5"}) as ferry:
        one, other = ferry.token(subject=os.urandom(8).hex()), ferry.token(subject=os.urandom(8).hex())

        def refused(one: str = one, ferry: Ferry = ferry) -> Any:
            answers = [ferry.get("/files", one) for _ in range(6)]
            assert answers[0].headers["RateLimit-Limit"] == "5"
            return answers[-1].status_code == 429

        wait_for(refused, 10)
        assert ferry.get("/files", other).status_code == 200
        assert ferry.get("/files").headers["RateLimit-Limit"] == "6000"
