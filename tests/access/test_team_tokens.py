"""A team's own JWTs, by secret, public key and JWKS: who is let in, who is not, and what a sick provider does."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flask.testing import FlaskClient
from jwt.utils import base64url_encode

from access import provider_keys
from config import Config, ConfigError
from tests.conftest import running_app
from tests.kit.stack import RedisServer
from tests.kit.uploads import upload

SECRET = "the team's own secret, which has some sixty-four bytes, as SHA-512 wants them"
ISSUER, AUDIENCE = "https://login.example.com/", "https://files.example.com"
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
KEYS = {
    "RS256": RSA,
    "RS512": RSA,
    "PS256": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
Make = Callable[..., FlaskClient]


def pem(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


def jwk(key: Any, algorithm: str, **more: Any) -> dict[str, Any]:
    found = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**found, "use": "sig", **more}


def claims(**changed: Any) -> dict[str, Any]:
    found = {"sub": "42", "exp": time.time() + 600, "iss": ISSUER, "aud": AUDIENCE, **changed}
    return {name: value for name, value in found.items() if value is not None}


def signed(key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **changed: Any) -> str:
    return jwt.encode(claims(**changed), key, algorithm, {"kid": kid} if kid else None)


@pytest.fixture
def make(env: dict[str, str], redis_server: RedisServer) -> Iterator[Make]:
    """Makes the client of a service that takes JWTs."""
    with redis_server.client as client:
        client.flushdb()
    entered = []

    def made(**settings: str) -> FlaskClient:
        team = {"JWT_OWNER": "alice", "JWT_ISSUER": ISSUER, "JWT_AUDIENCE": AUDIENCE}
        running = running_app({**env, "AUTH": "required", **team, **settings})
        app = running.__enter__()
        entered.append(running)
        return app.test_client()

    yield made
    for running in entered:
        running.__exit__(None, None, None)


def ask(client: FlaskClient, token: str) -> Any:
    return client.get("/files", headers={"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_jwt_by_secret_is_its_users(make: Make, algorithm: str) -> None:
    client, token = make(JWT_SECRET=SECRET), signed(algorithm=algorithm)
    row = upload(client, headers={"Authorization": f"Bearer {token}"}).json
    assert row["subject"] == "42"
    assert [one["id"] for one in ask(client, token).json["files"]] == [row["id"]]
    assert ask(client, signed(algorithm=algorithm, sub="43")).json["files"] == []


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_jwt_by_public_key(make: Make, algorithm: str) -> None:
    key = KEYS[algorithm]
    client = make(JWT_PUBLIC_KEY=pem(key))
    assert ask(client, signed(key, algorithm)).status_code == 200


def hmac_of_the_public_key() -> str:
    """The classic: the public key as the secret of HS256 (RFC 8725, section 2.1)."""
    head = (
        base64url_encode(b'{"alg":"HS256","typ":"JWT"}') + b"." + base64url_encode(json.dumps(claims()).encode())
    )
    signature = hmac.new(pem(RSA).encode(), head, hashlib.sha256).digest()
    return (head + b"." + base64url_encode(signature)).decode()


HOSTILE_BY_KEY: dict[str, Callable[[], str]] = {
    "HS256 by the public key": hmac_of_the_public_key,
    "another key": lambda: signed(OTHER_RSA, "RS256"),
    "another curve's algorithm": lambda: signed(KEYS["ES256"], "ES256"),
    "alg none": lambda: jwt.encode(claims(), "", "none"),
    "signature cut": lambda: signed(RSA, "RS256").rpartition(".")[0] + ".",
}


@pytest.mark.parametrize("what", HOSTILE_BY_KEY)
def test_a_forged_jwt_opens_nothing(make: Make, what: str) -> None:
    answer = ask(make(JWT_PUBLIC_KEY=pem(RSA)), HOSTILE_BY_KEY[what]())
    assert answer.status_code == 401
    assert answer.json["detail"] == "The token is not valid."


HOSTILE_CLAIMS: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://evil.example.com/"},
    "no issuer": {"iss": None},
    "another audience": {"aud": "https://other.example.com"},
    "no audience": {"aud": None},
    "not yet valid": {"nbf": time.time() + 600},
    "no expiry": {"exp": None},
    "an expiry beyond all numbers": {"exp": 1e400},
    "an expiry that is a text": {"exp": "soon"},
    "a number as subject": {"sub": 42},
    "an empty subject": {"sub": ""},
    "a subject that is a list": {"sub": ["42"]},
    "a subject of 10 kB": {"sub": "x" * 10_000},
    "a subject with a newline": {"sub": "a\nb"},
    "a subject with NUL": {"sub": "a\0b"},
    "a subject with half a character": {"sub": "\ud800"},
    "no subject": {"sub": None},
}


@pytest.mark.parametrize("what", HOSTILE_CLAIMS)
def test_claims_that_are_not_right_open_nothing(make: Make, what: str) -> None:
    client = make(JWT_SECRET=SECRET)
    answer = ask(client, signed(**HOSTILE_CLAIMS[what]))
    assert answer.status_code == 401
    assert answer.json["detail"].startswith("The token")
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("subject", ["auth0|42", "https://login.example.com/users/42", "ä ö@example.com", "../x"])
def test_any_other_text_is_a_user(make: Make, subject: str) -> None:
    client = make(JWT_SECRET=SECRET)
    row = upload(client, headers={"Authorization": f"Bearer {signed(sub=subject)}"}).json
    assert row["subject"] == subject
    assert len(ask(client, signed(sub=subject)).json["files"]) == 1


def test_a_jwt_that_nests_without_end_opens_nothing(make: Make) -> None:
    client = make(JWT_SECRET=SECRET)
    for head, body in ((b"[" * 5000, b"{}"), (b'{"alg":"HS256"}', b"[" * 5000)):
        answer = ask(client, f"{base64url_encode(head).decode()}.{base64url_encode(body).decode()}.c2ln")
        assert answer.status_code == 401


def test_expired_is_told_apart_after_a_leeway(make: Make) -> None:
    client = make(JWT_SECRET=SECRET)
    assert ask(client, signed(exp=time.time() - 10)).status_code == 200
    answer = ask(client, signed(exp=time.time() - 40))
    assert (answer.status_code, answer.json["detail"]) == (401, "The token has expired; fetch a new one.")


def test_a_user_may_be_named_by_another_claim(make: Make) -> None:
    client = make(JWT_SECRET=SECRET, JWT_SUBJECT_CLAIM="email")
    row = upload(client, headers={"Authorization": f"Bearer {signed(email='a@example.com')}"}).json
    assert row["subject"] == "a@example.com"
    assert ask(client, signed()).status_code == 401


def test_without_an_audience_of_ours_a_token_for_another_is_refused(make: Make) -> None:
    client = make(JWT_SECRET=SECRET, JWT_AUDIENCE="", JWT_ISSUER="")
    assert ask(client, signed(aud=None, iss=None)).status_code == 200
    assert ask(client, signed()).status_code == 401


class Provider:
    """An identity provider's JWKS address, which behaves as it is told."""

    def __init__(self) -> None:
        self.body: bytes = b""
        self.asked = 0
        self.pause = 0.0
        self.is_slow = False
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                self.send_response(200)
                self.end_headers()
                step = 1 if provider.is_slow else len(provider.body)
                for start in range(0, len(provider.body), step or 1):
                    try:
                        self.wfile.write(provider.body[start : start + step])
                    except OSError:
                        return
                    time.sleep(0.3 if provider.is_slow else 0)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks.json"

    def publish(self, **keys: tuple[Any, str]) -> None:
        self.body = json.dumps({"keys": [jwk(key, alg, kid=kid) for kid, (key, alg) in keys.items()]}).encode()


@pytest.fixture
def provider() -> Iterator[Provider]:
    found = Provider()
    yield found
    found.server.shutdown()
    found.server.server_close()
    found.thread.join()


def test_keys_of_a_provider_are_found_by_their_id_and_kept(make: Make, provider: Provider) -> None:
    provider.publish(one=(RSA, "RS256"), two=(KEYS["ES256"], "ES256"))
    client = make(JWT_JWKS_URL=provider.url)
    assert provider.asked == 0
    for _ in range(3):
        assert ask(client, signed(RSA, "RS256", "one")).status_code == 200
        assert ask(client, signed(KEYS["ES256"], "ES256", "two")).status_code == 200
        assert ask(client, signed(RSA, "RS256", "two")).status_code == 401
        assert ask(client, signed(RSA, "RS256")).status_code == 401  # which of the two it is, is not said
        assert ask(client, signed(SECRET, "HS256", "one")).status_code == 401
    assert provider.asked == 1


def test_a_token_without_an_id_is_of_the_only_key(make: Make, provider: Provider) -> None:
    provider.publish(one=(RSA, "RS256"))
    assert ask(make(JWT_JWKS_URL=provider.url), signed(RSA, "RS256")).status_code == 200


def test_a_new_key_is_looked_up_once_a_minute_at_most(
    make: Make, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.publish(old=(RSA, "RS256"))
    client = make(JWT_JWKS_URL=provider.url)
    assert ask(client, signed(RSA, "RS256", "old")).status_code == 200
    provider.publish(new=(OTHER_RSA, "RS256"))
    for number in range(20):
        assert ask(client, signed(OTHER_RSA, "RS256", f"made-up-{number}")).status_code in (401, 429)
    assert provider.asked == 1
    later = time.monotonic() + provider_keys.LOOK_SECONDS + 1
    monkeypatch.setattr("access.provider_keys.time.monotonic", lambda: later)
    assert ask(client, signed(OTHER_RSA, "RS256", "new")).status_code == 200
    assert ask(client, signed(RSA, "RS256", "old")).status_code in (401, 429)
    assert provider.asked == 2


SICK: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"<html>",
    "a list": b"[]",
    "no keys": b'{"keys": []}',
    "a secret": json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "one"}]}).encode(),
    "5 MB": b" " * 5_000_000,
    "nested without end": b"[" * 200_000,
}


@pytest.mark.parametrize("what", SICK)
def test_a_provider_that_sends_nonsense_lets_nobody_in_and_stops_nobody_else(
    make: Make, provider: Provider, what: str
) -> None:
    provider.body = SICK[what]
    client = make(JWT_JWKS_URL=provider.url)
    answer = ask(client, signed(RSA, "RS256", "one"))
    expected = (401,) if what == "a secret" else (503,)
    assert answer.status_code in expected, answer.text
    assert client.get("/healthz").status_code == 200


def test_a_provider_that_is_slow_or_silent_holds_nobody_for_long(
    make: Make, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_keys, "ANSWER_SECONDS", 1.0)
    provider.publish(one=(RSA, "RS256"))
    provider.is_slow = True
    for address in (provider.url, "http://127.0.0.1:9/jwks.json"):
        client = make(JWT_JWKS_URL=address)
        for _ in range(2):  # the second is not even tried
            began = time.monotonic()
            answer = ask(client, signed(RSA, "RS256", "one"))
            assert (answer.status_code, answer.json["title"]) == (503, "Service Unavailable")
            assert int(answer.headers["Retry-After"]) > 0
            assert time.monotonic() - began < 4
        assert provider.asked <= 1


def test_keys_are_kept_while_the_provider_is_away(
    make: Make, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.publish(one=(RSA, "RS256"))
    client = make(JWT_JWKS_URL=provider.url)
    assert ask(client, signed(RSA, "RS256", "one")).status_code == 200
    provider.body = b"away"
    later = time.monotonic() + provider_keys.KEPT_SECONDS + 1
    monkeypatch.setattr("access.provider_keys.time.monotonic", lambda: later)
    assert ask(client, signed(RSA, "RS256", "one")).status_code == 200
    assert provider.asked == 2


GOOD = {"S3_BUCKET_NAME": "any", "JWT_OWNER": "alice"}
BAD_SETTINGS = [
    ({"JWT_SECRET": "short"}, "JWT_SECRET"),
    ({"TOKEN_SECRET": "short"}, "TOKEN_SECRET"),
    ({"JWT_SECRET": SECRET, "JWT_JWKS_URL": "https://login.example.com/jwks"}, "Only one of"),
    ({"JWT_SECRET": SECRET, "JWT_OWNER": ""}, "JWT_OWNER"),
    ({"JWT_JWKS_URL": "file:///etc/passwd"}, "JWT_JWKS_URL"),
    ({"JWT_PUBLIC_KEY": "-----BEGIN"}, "JWT_PUBLIC_KEY"),
    ({"CORS_ORIGINS": "app.example.com"}, "CORS_ORIGINS"),
    ({"CORS_ORIGINS": "https://app.example.com/"}, "CORS_ORIGINS"),
    ({"CORS_ORIGINS": "https://App.example.com"}, "CORS_ORIGINS"),
    ({"CORS_ORIGINS": "https://app.example.com:443"}, "CORS_ORIGINS"),
    ({"CORS_ORIGINS": "https://app.example.com."}, "CORS_ORIGINS"),
    ({"CORS_ORIGINS": "null"}, "CORS_ORIGINS"),
]


@pytest.mark.parametrize(("settings", "named"), BAD_SETTINGS, ids=lambda value: str(value)[:60])
def test_a_setting_that_cannot_be_right_is_named_without_its_secret(settings: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Config.from_mapping({**GOOD, **settings})
    assert named in str(refused.value)
    assert "short" not in str(refused.value)
    assert SECRET not in repr(partial(Config.from_mapping, {**GOOD, "JWT_SECRET": SECRET})())
