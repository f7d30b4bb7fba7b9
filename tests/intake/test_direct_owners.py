"""Direct uploads of owners, users, tokens and tickets; and what a hostile client tries, against a real S3."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import requests
from sqlalchemy import update

from access.keys import DIRECT, ApiKey
from core.database import transaction, utcnow
from tests.conftest import running_app
from tests.kit.bucket import keys_of
from tests.kit.direct import Direct, crc64nvme, post, put
from tests.kit.stack import BUCKET, RedisServer, S3Server, wait_for
from tests.kit.tokens import Ferry, running_ferry

MIB = 1024 * 1024
HELLO = b"hello"
PAGE = "https://app.example.com"


@pytest.fixture(scope="module")
def ferry(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ferry]:
    settings = {
        "DIRECT": "true",
        "CORS_ORIGINS": PAGE,
        "SUBJECT_REQUESTS_PER_MINUTE": "30",
        "KEY_REQUESTS_PER_MINUTE": "0",
    }
    folder = tmp_path_factory.mktemp("owners")
    with running_ferry(folder, {**s3.settings, **redis_server.settings, **settings}, workers=2) as ferry:
        yield ferry


def as_(ferry: Ferry, credential: str = "") -> Direct:
    return Direct(ferry.web.url, credential or ferry.key)


class Companion:
    """Asks as @uppy/aws-s3 does: without headers of its own."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = f"{endpoint}/s3"

    def params(self, name: str = "a.txt", kind: str = "text/plain", **meta: str) -> requests.Response:
        words = {"filename": name, "type": kind, **{f"metadata[{key}]": value for key, value in meta.items()}}
        return requests.get(f"{self.endpoint}/params", params=words, timeout=20)

    def create(self, name: str = "a.txt", kind: str = "text/plain", **meta: str) -> requests.Response:
        body = {"filename": name, "type": kind, "metadata": meta}
        return requests.post(f"{self.endpoint}/multipart", json=body, timeout=20)

    def ask(self, method: str, upload: dict[str, str], rest: str = "", body: Any = None) -> requests.Response:
        address = f"{self.endpoint}/multipart/{quote(upload['uploadId'], safe='')}{rest}"
        return requests.request(method, address, params={"key": upload["key"]}, json=body, timeout=30)

    def send(self, upload: dict[str, str], number: int, content: bytes) -> dict[str, Any]:
        url = self.ask("GET", upload, f"/{number}").json()["url"]
        etag = requests.put(url, data=content, timeout=30).headers["ETag"]
        return {"PartNumber": number, "ETag": etag.strip('"')}

    def complete(self, upload: dict[str, str], parts: Any) -> requests.Response:
        return self.ask("POST", upload, "/complete", {"parts": parts})


def ticket(ferry: Ferry, credential: str | None = None) -> Companion:
    answer = ferry.post("/direct/tickets", credential)
    assert answer.status_code == 201, answer.text
    assert answer.json()["companionEndpoint"].startswith("/direct/fm_")
    return Companion(ferry.web.url + answer.json()["companionEndpoint"])


def test_a_form_becomes_a_file_by_itself(ferry: Ferry, bucket: Any) -> None:
    form = ticket(ferry).params("Bericht für 東京.txt", "text/plain", expires_in="3600", unknown="ü").json()
    assert (form["method"], form["expires"]) == ("POST", 900)
    assert post(form, HELLO).status_code == 201
    upload_id = form["fields"]["key"].rpartition("/")[2]
    wait_for(lambda: ferry.get(f"/files/{upload_id}").ok, 20, "file")
    file = ferry.get(f"/files/{upload_id}").json()
    assert (file["name"], file["upload_status"], file["size"]) == ("Bericht für 東京.txt", "COMPLETE", 5)
    assert file["expires_at"]
    assert as_(ferry).content(upload_id) == HELLO
    wait_for(lambda: form["fields"]["key"] not in keys_of(bucket, BUCKET), what="end of what came in")
    assert file["key"] in keys_of(bucket, BUCKET)


def test_parts_by_companion(ferry: Ferry) -> None:
    companion = ticket(ferry)
    upload = companion.create("ü.bin", "").json()
    first, second = bytes(5 * MIB), b"end"
    parts = [companion.send(upload, 1, first), companion.send(upload, 2, second)]
    listed = companion.ask("GET", upload).json()
    assert [(one["PartNumber"], one["Size"]) for one in listed] == [(1, 5 * MIB), (2, 3)]
    answer = companion.complete(upload, parts)
    assert answer.status_code == 200, answer.text
    assert answer.json()["key"] == upload["key"]
    again = companion.complete(upload, [{**part, "ETag": f'"{part["ETag"]}"'} for part in parts])
    assert again.json() == answer.json()
    file = ferry.get(f"/files/{upload['uploadId']}").json()
    assert (file["name"], file["size"], file["url"]) == ("ü.bin", 5 * MIB + 3, answer.json()["location"])
    assert as_(ferry).content(upload["uploadId"]) == first + second
    assert companion.ask("GET", upload, "/3").status_code == 410


BAD_PARTS: list[Any] = [
    None,
    [],
    {},
    "x",
    [{}],
    [{"PartNumber": 1}],
    [{"PartNumber": 0, "ETag": "x"}],
    [{"PartNumber": 1, "ETag": "x"}, {"PartNumber": 1, "ETag": "x"}],
    [{"PartNumber": 10_001, "ETag": "x"}],
    [{"PartNumber": [], "ETag": "x"}],
    [{"PartNumber": float("1e300"), "ETag": "x"}],
]


def test_bad_lists_of_parts(ferry: Ferry) -> None:
    companion = ticket(ferry)
    upload = companion.create().json()
    part = companion.send(upload, 1, HELLO)
    for parts in BAD_PARTS:
        assert companion.complete(upload, parts).status_code == 400, parts
    missing = companion.complete(upload, [part, {"PartNumber": 2, "ETag": "0" * 32}])
    assert (missing.status_code, "part 2" in missing.json()["detail"]) == (409, True)
    assert companion.complete(upload, [{**part, "ETag": "0" * 32}]).status_code == 409
    assert companion.complete(upload, [part]).status_code == 200


def test_cancel(ferry: Ferry) -> None:
    companion = ticket(ferry)
    upload = companion.create().json()
    companion.send(upload, 1, HELLO)
    assert (companion.ask("DELETE", upload).status_code, companion.ask("DELETE", upload).status_code) == (200, 410)
    assert companion.complete(upload, [{"PartNumber": 1, "ETag": "x"}]).status_code == 410


def test_a_key_does_without_a_ticket(ferry: Ferry) -> None:
    assert ferry.get("/direct/s3/params?filename=a.txt&type=").json()["method"] == "POST"
    assert ferry.post("/direct/s3/multipart", json={"filename": "a"}).status_code == 200
    assert requests.get(f"{ferry.web.url}/direct/s3/params?filename=a.txt", timeout=20).status_code == 401


def test_a_ticket_opens_nothing_else(ferry: Ferry) -> None:
    companion = ticket(ferry)
    secret = companion.endpoint.split("/")[-2]
    for path in ("/files", "/direct/s3/params?filename=a", "/metrics", "/events"):
        assert ferry.get(path, secret).status_code == 403, path
    for path in ("/direct", "/async_upload", "/tokens", "/direct/tickets"):
        assert ferry.post(path, secret).status_code == 403, path


def test_wrong_tickets(ferry: Ferry) -> None:
    right = ticket(ferry)
    for wrong in ("x", ferry.key, ferry.token(subject="42"), "fm_000000000000_" + "x" * 43):
        assert Companion(f"{ferry.web.url}/direct/{wrong}").params().status_code == 401, wrong
    upload = right.create().json()
    other = ticket(ferry, ferry.key_of("bob"))
    assert other.ask("GET", upload, "/1").status_code == 404
    assert other.complete(upload, [{"PartNumber": 1, "ETag": "x"}]).status_code == 404
    assert other.ask("DELETE", upload).status_code == 404
    for another in ({**upload, "key": "other"}, {**upload, "uploadId": "0" * 32}, {**upload, "uploadId": "../x"}):
        assert right.ask("GET", another, "/1").status_code == 404


def test_an_expired_ticket(ferry: Ferry) -> None:
    companion = ticket(ferry)
    with running_app(ferry.web.env) as app, app.app_context(), transaction() as connection:
        connection.execute(update(ApiKey).where(ApiKey.role == DIRECT).values(expires_at=utcnow()))
    answer = companion.params()
    assert (answer.status_code, "expired" in answer.json()["detail"]) == (401, True)
    assert ferry.post("/direct/tickets", json={"expires_in": 60}).status_code == 201
    for wrong in (59, 86_401, "x"):
        assert ferry.post("/direct/tickets", json={"expires_in": wrong}).status_code == 400


def test_a_page_of_another_origin(ferry: Ferry) -> None:
    endpoint = ticket(ferry).endpoint
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    preflight = requests.options(f"{endpoint}/multipart", headers=asked, timeout=20)
    assert preflight.headers["Access-Control-Allow-Origin"] == PAGE
    failed = requests.get(f"{endpoint}/params?filename=a&type=x", headers={"Origin": PAGE}, timeout=20)
    assert (failed.status_code, failed.headers["Access-Control-Allow-Origin"]) == (400, PAGE)
    assert failed.headers["Referrer-Policy"] == "no-referrer"


def test_secrets_stay_out_of_the_log(ferry: Ferry) -> None:
    companion = ticket(ferry)
    companion.create()
    requests.get(f"{companion.endpoint}/multipart/x/1", timeout=20)
    secret = companion.endpoint.split("/")[-2]
    log = ferry.web.text()
    assert "/direct/***" in log
    assert secret not in log
    assert "X-Amz-Signature" not in log


def test_another_owner_and_another_user(ferry: Ferry) -> None:
    mine = as_(ferry)
    begun = mine.begin(multipart=True)
    for credential in (ferry.key_of("bob"), ferry.token(subject="eve")):
        other = as_(ferry, credential)
        answers = [
            other.ask("GET", f"/direct/{begun['id']}"),
            other.address(begun["id"], 1),
            other.finish(begun["id"]),
            other.delete(begun["id"]),
        ]
        assert [answer.status_code for answer in answers] == [404] * 4
    users = as_(ferry, ferry.token(subject="42")).begin(multipart=True)
    assert mine.address(users["id"], 1).status_code == 200  # the account sees all of its users


def test_limits_of_a_token(ferry: Ferry) -> None:
    def begun(**limits: Any) -> Direct:
        return as_(ferry, ferry.token(subject="42", **limits))

    assert begun(max_bytes=4).create().status_code == 413
    assert begun(modes=["async"]).create().status_code == 403
    assert begun(modes=["direct"]).create().status_code == 201
    assert begun(content_types=["image/*"]).create().status_code == 415
    assert begun(file_expires_in=60).create(expires_in=61).status_code == 400
    assert begun(process=["large"]).create(process="thumb").status_code == 403
    once = begun(max_files=1)
    first = once.begin()
    assert once.create().status_code == 429
    put(first["put"], HELLO)
    assert once.finish(first["id"]).status_code == 201
    assert once.create().status_code == 403
    fixed = begun(metadata={"order": "17"})
    assert fixed.create(metadata={"order": "18"}).status_code == 403
    mine = fixed.begin()
    put(mine["put"], HELLO)
    assert fixed.finish(mine["id"]).json()["metadata"] == {"order": "17"}


def test_limits_of_a_token_reach_its_tickets(ferry: Ferry) -> None:
    token = ferry.token(subject="42", max_bytes=4, content_types=["text/*"])
    companion = ticket(ferry, token)
    assert companion.params("a.png", "image/png").status_code == 415
    form = companion.params().json()
    assert post(form, HELLO).status_code >= 400
    assert post(form, b"four").status_code == 201
    upload = companion.create().json()
    part = companion.send(upload, 1, HELLO)
    assert companion.complete(upload, [part]).status_code == 422


def test_no_part_is_refused_for_its_number(ferry: Ferry) -> None:
    """A user may ask 30 times a minute here; a file of 100 parts needs more."""
    token = ferry.token(subject="many-parts")
    companion = ticket(ferry, token)
    upload = companion.create().json()
    assert {companion.ask("GET", upload, f"/{number}").status_code for number in range(1, 61)} == {200}
    direct = as_(ferry, token)
    begun = direct.begin(size=100 * 64 * MIB // 2)
    assert {direct.address(begun["id"], 1 + number % 40).status_code for number in range(40)} == {200}


# What a hostile client tries at the addresses themselves.


def test_the_object_cannot_be_replaced(ferry: Ferry) -> None:
    direct = as_(ferry)
    begun = direct.begin()
    assert put(begun["put"], HELLO).status_code == 200
    assert put(begun["put"], b"other").status_code == 412
    direct.finish(begun["id"])
    assert put(begun["put"], b"other").status_code == 412
    assert direct.content(begun["id"]) == HELLO


def test_the_signed_headers_must_be_sent(ferry: Ferry) -> None:
    direct = as_(ferry)
    for name in ("If-None-Match", "Content-Type", "Content-Disposition", "x-amz-checksum-crc64nvme"):
        begun = direct.begin(crc64nvme=crc64nvme(HELLO))
        headers = begun["put"]["headers"]
        assert name in headers
        without = {other: value for other, value in headers.items() if other != name}
        for given in (without, {**headers, name: "text/html"}):
            assert requests.put(begun["put"]["url"], data=HELLO, headers=given, timeout=20).status_code == 403
        assert direct.finish(begun["id"]).status_code == 409


def test_the_size_cannot_grow_or_shrink(ferry: Ferry) -> None:
    begun = as_(ferry).begin()
    assert put(begun["put"], HELLO + b"!").status_code == 403
    assert put(begun["put"], HELLO[:-1]).status_code == 403
    assert put(begun["put"], HELLO).status_code == 200


def test_other_bytes_of_the_same_size(ferry: Ferry) -> None:
    begun = as_(ferry).begin(crc64nvme=crc64nvme(HELLO))
    assert put(begun["put"], b"other").status_code == 400
    assert put(begun["put"], HELLO).status_code == 200


def test_the_key_and_the_verb_are_signed(ferry: Ferry) -> None:
    begun = as_(ferry).begin()
    url = urlsplit(begun["put"]["url"])
    elsewhere = url._replace(path=url.path + "x").geturl()
    headers = begun["put"]["headers"]
    assert requests.put(elsewhere, data=HELLO, headers=headers, timeout=20).status_code == 403
    assert put(begun["put"], HELLO).ok
    for method in ("GET", "DELETE", "POST"):
        assert requests.request(method, begun["put"]["url"], timeout=20).status_code in (400, 403, 405)


def test_an_address_ends(ferry: Ferry) -> None:
    begun = as_(ferry).begin()
    query = parse_qs(urlsplit(begun["put"]["url"]).query)
    assert query["X-Amz-Expires"] == ["900"]
    longer = begun["put"]["url"].replace("X-Amz-Expires=900", "X-Amz-Expires=90000")
    assert requests.put(longer, data=HELLO, headers=begun["put"]["headers"], timeout=20).status_code == 403


def test_a_form_is_bound(ferry: Ferry) -> None:
    form = ticket(ferry).params().json()
    for fields in ({"Content-Type": "text/html"}, {"key": "other"}, {"Content-Disposition": "inline"}):
        changed = {**form, "fields": {**form["fields"], **fields}}
        assert post(changed, HELLO).status_code == 403, fields
    policy = json.loads(base64.b64decode(form["fields"]["policy"]))
    assert ["content-length-range", 0, 5 * 1024 * MIB] in policy["conditions"]


def test_a_form_posted_again_changes_nothing(ferry: Ferry) -> None:
    """It may be posted as long as it is good, but to a place that the file does not come from any more."""
    form = ticket(ferry).params().json()
    upload_id = form["fields"]["key"].rpartition("/")[2]
    post(form, HELLO)
    wait_for(lambda: ferry.get(f"/files/{upload_id}").ok, 20, "file")
    assert post(form, b"other").status_code == 201
    assert as_(ferry).content(upload_id) == HELLO
    assert ferry.get(f"/files/{upload_id}").json()["size"] == 5


def test_parts_after_the_end(ferry: Ferry) -> None:
    direct = as_(ferry)
    begun = direct.begin(multipart=True)
    address = direct.address(begun["id"], 1).json()
    put(address, HELLO)
    assert direct.finish(begun["id"]).status_code == 201
    assert put(address, b"other").status_code == 404
    assert direct.content(begun["id"]) == HELLO


def test_headers_are_not_smuggled(ferry: Ferry) -> None:
    companion = ticket(ferry)
    for name in ("a\r\nX-Evil: 1.txt", "../../etc/passwd", "a b\tc.txt"):
        answer = companion.params(name)
        if answer.ok:
            assert re.fullmatch(r"incoming/[0-9a-f]{32}", answer.json()["fields"]["key"])
    assert companion.params("a.txt", "text/plain\r\nX-Evil: 1").status_code == 400
