"""Stores that refuse a header, keep no checksum or lie: what is delivered is right, and a refusal is met once."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest

from config import MIB, Config
from core.errors import StoreError, StoreRefused
from file import rename_file
from storage.checksum import Crc64Nvme
from storage.parts import PartsUpload
from storage.s3.requests import ObjectInfo
from storage.store import Store
from tests.kit import lying_proxy as lies
from tests.kit.lying_proxy import LyingProxy
from tests.kit.stack import BUCKET, KEY, SECRET, RedisServer, S3Server, Web, wait_for

SMALL = b"some bytes"
LARGE = os.urandom(11 * MIB)
MODES = ["auto", "crc64nvme", "readback"]
BAD_CONDITION = "A header you provided implies functionality that is not implemented."


def never_at_head(request: lies.Request) -> bool:
    return request.method == "HEAD" and "x-amz-checksum-mode" in request.headers


def nothing_there_and_412(request: lies.Request, send: lies.Send) -> lies.Answer:
    """As Google does where it does not know the checksum of an upload in parts."""
    if request.operation == "CompleteMultipartUpload" and lies.header("x-amz-checksum-")(request):
        return lies.error(412, "PreconditionFailed", "At least one of the preconditions did not hold.")
    return send(request)


def both(first: lies.Lie, second: lies.Lie) -> lies.Lie:
    def lie(request: lies.Request, send: lies.Send) -> lies.Answer:
        return first(request, lambda passed: second(passed, send))

    return lie


CHECKSUMS = lies.header("x-amz-checksum-")
REFUSALS: dict[str, tuple[lies.Lie, list[str]]] = {
    "501 to the condition, as Backblaze B2": (
        lies.refuse(501, "NotImplemented", BAD_CONDITION, lies.header("If-None-Match")),
        ["If-None-Match"],
    ),
    "400 to the condition": (
        lies.refuse(400, "InvalidArgument", "unknown header", lies.header("If-None-Match")),
        ["If-None-Match"],
    ),
    "400 to checksums on writes": (
        lies.refuse(400, "InvalidArgument", "unknown header", lies.writes_with("x-amz-checksum-")),
        ["x-amz-checksum-crc64nvme"],
    ),
    "400 to checksums, also on HEAD": (
        lies.refuse(400, "InvalidArgument", "unknown header", CHECKSUMS),
        ["x-amz-checksum-crc64nvme", "x-amz-checksum-mode"],
    ),
    "400 to the checksum's mode": (
        lies.refuse(400, "InvalidArgument", "unknown header", never_at_head),
        ["x-amz-checksum-mode"],
    ),
    "501 to the disposition": (
        lies.refuse(501, "NotImplemented", BAD_CONDITION, lies.header("Content-Disposition")),
        ["Content-Disposition"],
    ),
    "400 to unsigned payloads": (
        lies.refuse(400, "InvalidRequest", "The payload must be signed.", lies.unsigned_payload),
        ["UNSIGNED-PAYLOAD"],
    ),
    "412 to the checksum of parts, as Google": (nothing_there_and_412, ["x-amz-checksum-crc64nvme"]),
    "501 to the condition and 400 to checksums": (
        both(
            lies.refuse(501, "NotImplemented", BAD_CONDITION, lies.header("If-None-Match")),
            lies.refuse(400, "InvalidArgument", "unknown header", CHECKSUMS),
        ),
        ["x-amz-checksum-crc64nvme", "If-None-Match", "x-amz-checksum-mode"],
    ),
}


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[LyingProxy]:
    with LyingProxy(s3.port, KEY, SECRET) as proxy:
        yield proxy


@contextmanager
def store_behind(proxy: LyingProxy, lie: lies.Lie, mode: str = "auto") -> Iterator[Store]:
    settings = {"S3_BUCKET_NAME": BUCKET, "AWS_ACCESS_KEY": KEY, "AWS_ACCESS_SECRET": SECRET}
    proxy.tell(lie)
    store = Store(Config.from_mapping({**settings, "S3_ENDPOINT_URL": proxy.url, "S3_CHECKSUM_MODE": mode}))
    with closing(store.client):
        yield store
    proxy.tell(lies.honest)


def described(content: bytes, claimed: bytes | None = None) -> ObjectInfo:
    crc = Crc64Nvme()
    crc.update(content if claimed is None else claimed)
    return ObjectInfo(rename_file("a.bin"), "application/x-test", len(content), crc.text())


def send_in_one(store: Store, path: Path) -> ObjectInfo:
    info = described(SMALL)
    store.put(BytesIO(SMALL), info)
    return info


def send_in_parts(store: Store, path: Path) -> ObjectInfo:
    """As in normal mode: some parts are sent while the file arrives."""
    info = described(LARGE)
    path.write_bytes(LARGE)
    parts = PartsUpload(store, path, info.key, info.content_type, info.size, part_bytes=5 * MIB)
    parts.update(LARGE[: 6 * MIB])
    parts.finish(info, lambda sent: None)
    return info


WAYS: dict[str, tuple[Callable[[Store, Path], ObjectInfo], bytes]] = {
    "one request": (send_in_one, SMALL),
    "parts": (send_in_parts, LARGE),
}


@pytest.mark.parametrize(
    ("way", "mode"),
    [("one request", "auto"), ("parts", "auto"), ("one request", "readback"), ("parts", "crc64nvme")],
)
@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_a_store_refuses_is_left_out_from_then_on(
    proxy: LyingProxy, tmp_path: Path, refusal: str, way: str, mode: str
) -> None:
    lie, left_out = REFUSALS[refusal]
    send, content = WAYS[way]
    with store_behind(proxy, lie, mode) as store:
        info = send(store, tmp_path / "file")
        assert b"".join(store.read(info.key, 0, info.size)) == content
        if mode == "auto":
            settled_features(store)
        proxy.log.clear()
        again = send(store, tmp_path / "file")
        assert [entry for entry in proxy.log if entry[1] >= 400 and entry[0] != "HeadBucket"] == []
        wanted = set(left_out)
        if mode == "readback":
            wanted |= {"x-amz-checksum-crc64nvme", "x-amz-checksum-mode"}
        assert set(store.capabilities.known().left_out()) == wanted
        for key in (info.key, again.key):
            store.delete(key)


def settled_features(store: Store) -> None:
    wait_for(lambda: store.features.is_probed, what="probe")


def test_a_store_that_verifies_is_never_read_back(proxy: LyingProxy, tmp_path: Path) -> None:
    with store_behind(proxy, lies.honest) as store:
        send_in_one(store, tmp_path / "file")
        settled_features(store)
        wait_for(lambda: proxy.asked("DeleteObject") >= 5, what="end of the probe")
        proxy.log.clear()
        send_in_one(store, tmp_path / "file")
        assert [name for name, _ in proxy.log] == ["PutObject"]
        proxy.log.clear()
        send_in_parts(store, tmp_path / "file")
        assert "GetObject" not in [name for name, _ in proxy.log]
        assert "HeadObject" not in [name for name, _ in proxy.log]


def test_until_the_store_is_known_objects_are_read_back(proxy: LyingProxy, tmp_path: Path) -> None:
    with store_behind(proxy, lies.refuse(403, "AccessDenied", "no", probing)) as store:
        send_in_one(store, tmp_path / "file")
        assert proxy.asked("GetObject") == 1
        assert not store.features.is_probed


def probing(request: lies.Request) -> bool:
    return "s3-probe-" in request.target


DAMAGE: dict[str, lies.Lie] = {
    "keeps no checksum": lies.flips_last_byte,
    "echoes the checksum": lies.echoes_checksums(),
    "keeps no checksum, and overwrites": both(lies.ignores("If-None-Match"), lies.flips_last_byte),
}


# In the mode crc64nvme the store's word is believed, and s3-doctor warns of a store that only echoes it.
BELIEVED = ("echoes the checksum", "crc64nvme")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("damage", "mode"), [pair for pair in itertools.product(DAMAGE, MODES) if pair != BELIEVED]
)
def test_other_bytes_are_never_delivered(
    proxy: LyingProxy, tmp_path: Path, damage: str, way: str, mode: str
) -> None:
    with store_behind(proxy, DAMAGE[damage], mode) as store, pytest.raises(StoreError, match="different bytes"):
        WAYS[way][0](store, tmp_path / "file")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lie", [lies.composite_checksum, lies.keeps_no_checksum, lies.tells_no_checksum])
@pytest.mark.parametrize("way", WAYS)
def test_a_right_object_is_delivered_and_never_deleted(
    proxy: LyingProxy, tmp_path: Path, lie: lies.Lie, way: str, mode: str
) -> None:
    """Whatever the store tells of its checksum: none, or one of another kind."""
    send, content = WAYS[way]
    with store_behind(proxy, both(lies.refuse(403, "AccessDenied", "no", deletes_ours), lie), mode) as store:
        info = send(store, tmp_path / "file")
        assert b"".join(store.read(info.key, 0, info.size)) == content
        assert ("DeleteObject", 403) not in proxy.log


def deletes_ours(request: lies.Request) -> bool:
    return request.operation == "DeleteObject" and not probing(request)


def test_where_a_store_overwrites_nothing_is_deleted(proxy: LyingProxy) -> None:
    """The object may be another run's by now."""
    with store_behind(proxy, lies.ignores("If-None-Match"), "readback") as store:
        info = described(b"wrong", claimed=b"right")
        with pytest.raises(StoreError, match="different bytes from those sent"):
            store.put(BytesIO(b"wrong"), info)
        assert b"".join(store.read(info.key, 0, 5)) == b"wrong"
        right = described(b"right")._replace(key=info.key)
        store.put(BytesIO(b"right"), right)
        assert store.holds(right)


def test_where_it_does_not_what_is_wrong_is_deleted(proxy: LyingProxy) -> None:
    with store_behind(proxy, lies.honest, "readback") as store:
        info = described(b"wrong", claimed=b"right")
        with pytest.raises(StoreError, match="different bytes from those sent"):
            store.put(BytesIO(b"wrong"), info)
        store.put(BytesIO(b"right"), described(b"right")._replace(key=info.key))


def test_a_condition_that_fails_and_a_head_that_fails_say_nothing(proxy: LyingProxy) -> None:
    with store_behind(proxy, lies.honest) as store:
        info = described(SMALL)
        store.put(BytesIO(SMALL), info)
        proxy.tell(lies.refuse(503, "ServiceUnavailable", "", lies.operation("HeadObject")))
        with pytest.raises(StoreError, match="did not say what it holds") as raised:
            store.put(BytesIO(b"other byte"), info)
        assert type(raised.value) is StoreError


GARBAGE: dict[str, Callable[[lies.When], lies.Lie]] = {
    "a web page": lies.html,
    "endless redirects": lies.redirects_for_ever,
    "nothing": lies.empty,
    "garbage": lies.garbage,
    "half an answer": lies.half,
}


def in_all_ways(store: Store, info: ObjectInfo, path: Path) -> dict[str, Callable[[], object]]:
    return {
        "put": lambda: store.put(BytesIO(SMALL), described(SMALL)),
        "parts": lambda: send_in_parts(store, path),
        "holds": lambda: store.holds(info),
        "read": lambda: b"".join(store.read(info.key, 0, info.size)),
        "abort": lambda: store.abort_parts(info.key, "no-such-upload"),
        "delete": lambda: store.delete(info.key),
    }


@pytest.mark.parametrize("garbage", GARBAGE)
def test_whatever_answers_only_our_errors_come_out(proxy: LyingProxy, tmp_path: Path, garbage: str) -> None:
    with store_behind(proxy, GARBAGE[garbage](lies.always), "readback") as store:
        for name, work in in_all_ways(store, described(SMALL), tmp_path / "file").items():
            try:
                work()
            except StoreError:
                continue
            assert name not in ("put", "parts"), "nothing was stored"


class Region(NamedTuple):
    """How a store says that it is elsewhere."""

    lie: lies.Lie
    said: str


REGIONS = {
    "another region": Region(lies.wants_region("garage"), "set AWS_REGION=garage"),
    "another address": Region(
        lies.refuse(301, "PermanentRedirect", "The bucket must be addressed by another endpoint."),
        "check AWS_REGION and S3_ENDPOINT_URL",
    ),
    "a web page": Region(
        lambda request, send: lies.Answer(404, {"content-type": "text/html"}, b"<html>nothing</html>"), "web page"
    ),
    "another style": Region(lies.wants_virtual_style(BUCKET), "Please use virtual hosted style"),
}


@pytest.mark.parametrize("place", REGIONS)
def test_the_setting_that_is_wrong_is_named(proxy: LyingProxy, place: str) -> None:
    with store_behind(proxy, REGIONS[place].lie) as store:
        with pytest.raises(StoreRefused) as raised:
            store.put(BytesIO(SMALL), described(SMALL))
        assert REGIONS[place].said in raised.value.detail


def test_the_bucket_may_stand_in_the_hosts_name(
    proxy: LyingProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo  # not every resolver knows names below localhost
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **named: resolve("127.0.0.1", *rest, **named))
    proxy.tell(lies.wants_virtual_style(BUCKET))
    settings = {
        "S3_BUCKET_NAME": BUCKET,
        "AWS_ACCESS_KEY": KEY,
        "AWS_ACCESS_SECRET": SECRET,
        "S3_ENDPOINT_URL": proxy.url.replace("127.0.0.1", "localhost"),
        "S3_ADDRESSING_STYLE": "virtual",
    }
    store = Store(Config.from_mapping(settings))
    with closing(store.client):
        info = send_in_one(store, tmp_path / "file")
        assert store.url(info.key).startswith(f"http://{BUCKET}.localhost:")
        link = store.presigned_url(info.key, "attachment", 60)
        assert link.startswith(f"http://{BUCKET}.localhost:")
    proxy.tell(lies.honest)


def test_a_file_waits_as_long_as_the_store_asks(
    s3: S3Server, proxy: LyingProxy, redis_server: RedisServer, tmp_path: Path
) -> None:
    """And not only for the second that comes after a first attempt otherwise."""
    later = {"retry-after": "5"}
    proxy.tell(lies.refuse(429, "TooManyRequests", "wait", lies.operation("PutObject"), later))
    env = {
        **s3.settings,
        **redis_server.settings,
        "S3_ENDPOINT_URL": proxy.url,
        "S3_CHECKSUM_MODE": "crc64nvme",
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{tmp_path / 'files.db'}",
        "SPOOL_DIR": str(tmp_path / "spool"),
    }
    web = Web(tmp_path, env)
    web.start()
    try:
        web.wait()
        file_id = web.upload("async", "a.bin", SMALL).json()["id"]
        wait_for(lambda: web.file(file_id)["error"] == "S3 asks to slow down.", what="a try")
        refused_at = time.monotonic()
        proxy.tell(lies.honest)
        assert web.settled(file_id)["upload_status"] == "COMPLETE"
        assert time.monotonic() - refused_at > 4
    finally:
        web.stop()
