"""The virus scan: what is infected, too large or not judged never reaches the bucket. With a real clamd."""

from __future__ import annotations

import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import requests
from flask import Flask

from access import keys
from config import Config, ConfigError
from core.errors import Infected, ScannerUnavailable, UploadError, UploadTooLarge
from core.services import services
from delivery.scanner import Scanner
from storage import file_queries
from tests.conftest import running_app
from tests.kit import zoo
from tests.kit.stack import BUCKET, Clamd, RedisServer, S3Server, Web, Worker, wait_for

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MIB = 1024 * 1024
MODES = {"normal": 201, "async": 202, "celery": 202}
STREAM_MAX = 22 * MIB
SCANNED_MAX = 24 * MIB
LARGE = os.urandom(20 * MIB)
INFECTED = "The file is infected: Local.Test.EICAR.UNOFFICIAL."


class Ward(NamedTuple):
    web: Web
    clamd: Clamd
    spool: Path


@pytest.fixture(scope="module")
def clamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clamd]:
    server = Clamd(tmp_path_factory.mktemp("clamd"), zoo.EICAR, STREAM_MAX)
    if not server.program:
        pytest.skip("THERE IS NO CLAMD: apt-get install clamav-daemon")
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def ward(
    s3: S3Server, redis_server: RedisServer, clamd: Clamd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ward]:
    """A web server and a worker that scan, and a clamd that takes less than they send."""
    folder = tmp_path_factory.mktemp("scan")
    env = {
        **s3.settings,
        "CELERY_BROKER_URL": redis_server.settings["CELERY_BROKER_URL"].replace("/0", "/3"),
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
        "CLAMD_ADDRESS": f"unix:{clamd.socket}",
        "CLAMD_MAX_BYTES": str(SCANNED_MAX),
    }
    web, worker = Web(folder, env), Worker(folder, env)
    try:
        web.start()
        worker.start()
        web.wait()
        worker.wait()
        yield Ward(web, clamd, folder / "spool")
    finally:
        web.stop()
        worker.stop()


def assert_nothing_in_s3(bucket: S3Client, key: str) -> None:
    assert bucket.list_objects_v2(Bucket=BUCKET, Prefix=key).get("KeyCount", 0) == 0
    uploads = bucket.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    assert key not in [upload["Key"] for upload in uploads]


def settled(ward: Ward, mode: str, answer: requests.Response, status: int = 0) -> dict[str, Any]:
    """Where an upload ends; one in the request has ended already, with a status of its own."""
    body = answer.json()
    if mode == "normal" and status:
        assert answer.status_code == status, answer.text
        row = ward.web.file(body["file_id"])
        assert (row["upload_status"], row["error"]) == ("ERROR", body["detail"])
        return row
    assert answer.status_code == MODES[mode], answer.text
    return ward.web.settled(body["id"])


SICK = {
    "EICAR": zoo.EICAR,
    "EICAR in a ZIP": zoo.ZIP_OF_EICAR,
    "EICAR at the end of a large file": LARGE + zoo.EICAR,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", SICK)
def test_an_infected_file_is_stopped(ward: Ward, bucket: S3Client, mode: str, case: str) -> None:
    row = settled(ward, mode, ward.web.upload(mode, "a.bin", SICK[case]), 422)
    assert (row["upload_status"], row["error"], row["attempts"]) == ("ERROR", INFECTED, 1)
    assert_nothing_in_s3(bucket, row["key"])


def test_an_infected_file_counts_for_its_owners_day(clamd: Clamd, env: dict[str, str]) -> None:
    limits = {"AUTH": "required", "KEY_BYTES_PER_DAY": "1000", "CLAMD_ADDRESS": f"unix:{clamd.socket}"}
    with running_app({**env, **limits}) as app:
        with app.app_context():
            headers = {"Authorization": f"Bearer {keys.create_key('carol')}"}
        codes = []
        for _ in range(4):
            form = {"file": (BytesIO(zoo.EICAR.ljust(300)), "a.bin")}
            codes.append(app.test_client().post("/normal_upload", data=form, headers=headers).status_code)
    assert codes == [422, 422, 429, 429]


def test_a_retry_scans_again(ward: Ward, bucket: S3Client) -> None:
    row = settled(ward, "async", ward.web.upload("async", "a.bin", zoo.EICAR))
    assert (ward.spool / row["id"]).read_bytes() == zoo.EICAR
    assert requests.post(f"{ward.web.url}/files/{row['id']}/retry", timeout=20).status_code == 202
    again = ward.web.settled(row["id"])
    assert (again["upload_status"], again["error"]) == ("ERROR", INFECTED)
    assert again["updated_at"] > row["updated_at"]
    assert_nothing_in_s3(bucket, row["key"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("content", [b"", b"clean", LARGE], ids=["empty", "small", "large"])
def test_a_clean_file_passes(ward: Ward, bucket: S3Client, mode: str, content: bytes) -> None:
    row = settled(ward, mode, ward.web.upload(mode, "a.bin", content))
    assert row["upload_status"] == "COMPLETE"
    stored = bucket.get_object(Bucket=BUCKET, Key=row["key"])
    assert stored["Body"].read() == content
    assert "-" not in stored["ETag"]  # no parts of it went ahead of the verdict


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [STREAM_MAX + MIB, SCANNED_MAX + 1], ids=["clamd's limit", "our limit"])
def test_a_file_too_large_to_scan_is_stopped(ward: Ward, bucket: S3Client, mode: str, size: int) -> None:
    row = settled(ward, mode, ward.web.upload(mode, "a.bin", b"x" * size), 413)
    assert row["upload_status"] == "ERROR"
    assert "too large" in row["error"]
    assert row["attempts"] == 1
    assert_nothing_in_s3(bucket, row["key"])


def failed_once(ward: Ward, file_id: str) -> dict[str, Any] | None:
    row = ward.web.file(file_id)
    return row if row["error"] else None


def test_without_a_scanner_files_wait(ward: Ward, bucket: S3Client) -> None:
    def checked() -> str:
        state: str = requests.get(f"{ward.web.url}/status", timeout=20).json()["checks"]["scanner"]
        return state

    assert checked() == "ok"
    ward.clamd.stop()
    try:
        wait_for(lambda: checked() == "failed", 5)
        failed = settled(ward, "normal", ward.web.upload("normal", "a.bin", b"clean"), 503)
        waiting = [ward.web.upload(mode, "a.bin", b"clean").json()["id"] for mode in ("async", "celery")]
        for file_id in waiting:
            row = wait_for(partial(failed_once, ward, file_id), what="failed attempt")
            assert row["upload_status"] in ("PENDING", "PROCESSING")
            assert row["error"] == failed["error"] == "The virus scanner does not answer."
            assert_nothing_in_s3(bucket, row["key"])
    finally:
        ward.clamd.start()
        ward.clamd.wait()
    assert requests.post(f"{ward.web.url}/files/{failed['id']}/retry", timeout=20).status_code == 202
    for file_id in [failed["id"], *waiting]:
        assert ward.web.settled(file_id)["upload_status"] == "COMPLETE"


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_clamd_says_what_is_too_large(clamd: Clamd, kind: str) -> None:
    scanner = Scanner({"unix": f"unix:{clamd.socket}", "tcp": f"127.0.0.1:{clamd.port}"}[kind], 1000 * MIB)
    scanner.ping()
    for size in (STREAM_MAX + 1, STREAM_MAX + 30 * MIB):
        with pytest.raises(UploadTooLarge):
            scanner.scan(BytesIO(b"x" * size), size, lambda sent: None)
    scanner.scan(BytesIO(b"x" * STREAM_MAX), STREAM_MAX, lambda sent: None)
    with pytest.raises(Infected):
        scanner.scan(BytesIO(zoo.EICAR), len(zoo.EICAR), lambda sent: None)


# A false clamd, for what a true one does not do on request.

Play = Callable[[socket.socket], None]


@contextmanager
def false_clamd(play: Play) -> Iterator[str]:
    """A server that plays a part with each client; its address."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            play(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def hear(client: socket.socket) -> bytes:
    """Read a whole INSTREAM, and give its bytes."""
    stream = client.makefile("rb")
    assert stream.read(10) == b"zINSTREAM\0"
    content = b""
    while size := int.from_bytes(stream.read(4), "big"):
        content += stream.read(size)
    stream.close()
    return content


def says(answer: bytes) -> Play:
    def play(client: socket.socket) -> None:
        hear(client)
        client.sendall(answer)

    return play


def says_at_once(client: socket.socket) -> None:
    client.sendall(b"stream: OK\0")
    client.recv(1)


def stalls(client: socket.socket) -> None:
    hear(client)
    client.recv(1)  # until the other side has enough of it


def hangs_up(client: socket.socket) -> None:
    client.recv(100_000)


def dribbles(client: socket.socket) -> None:
    hear(client)
    try:
        while True:
            client.sendall(b"stream: OK ")
            time.sleep(0.02)
    except OSError:
        pass


def speaks_without_end(client: socket.socket) -> None:
    hear(client)
    try:
        while True:
            client.sendall(b"x" * 1000)
    except OSError:
        pass


NO_VERDICTS: dict[str, Play] = {
    "garbage": says(b"\xff\xfe garbage\0"),
    "nothing": says(b""),
    "an empty answer": says(b"\0"),
    "an error": says(b"stream: Can't allocate memory ERROR\0"),
    "half an answer": says(b"stream: OK"),
    "more than an answer": says(b"stream: OK and more\0"),
    "another answer": says(b"PONG\0"),
    "an answer before it has heard the file": says_at_once,
    "it hangs up": lambda client: None,
    "it hangs up in the middle": hangs_up,
    "it stalls": stalls,
    "it dribbles": dribbles,
}


@pytest.mark.parametrize("case", NO_VERDICTS)
def test_no_verdict_is_no_pass(case: str) -> None:
    content = b"x" * 8 * MIB
    with false_clamd(NO_VERDICTS[case]) as address, pytest.raises(ScannerUnavailable):
        Scanner(address, SCANNED_MAX, 0.3).scan(BytesIO(content), len(content), lambda sent: None)


def test_a_scanner_that_does_not_listen_is_given_up() -> None:
    content = b"x" * 20 * MIB
    enough = threading.Event()

    def play(client: socket.socket) -> None:
        enough.wait(20)

    with false_clamd(play) as address:
        with pytest.raises(ScannerUnavailable, match="in time"):
            Scanner(address, SCANNED_MAX, 0.3).scan(BytesIO(content), len(content), lambda sent: None)
        enough.set()


def test_a_scanner_that_speaks_without_end_is_not_listened_to() -> None:
    began = time.monotonic()
    with false_clamd(speaks_without_end) as address, pytest.raises(ScannerUnavailable):
        Scanner(address, SCANNED_MAX, 15).scan(BytesIO(b"x"), 1, lambda sent: None)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("address", ["127.0.0.1:1", "unix:/nowhere/at/all", "no.such.host.invalid:3310"])
def test_nobody_is_no_pass(address: str) -> None:
    scanner = Scanner(address, SCANNED_MAX)
    for ask in (scanner.ping, lambda: scanner.scan(BytesIO(b"x"), 1, lambda sent: None)):
        with pytest.raises(ScannerUnavailable, match="does not answer"):
            ask()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"stream: OK\0", None),
        (b"stream: Win.Test.EICAR_HDB-1 FOUND\0", Infected),
        (b"INSTREAM size limit exceeded. ERROR\0", UploadTooLarge),
    ],
)
def test_what_clamd_says(answer: bytes, error: type[UploadError] | None) -> None:
    heard: list[bytes] = []

    def play(client: socket.socket) -> None:
        heard.append(hear(client))
        client.sendall(answer)

    file = BytesIO(LARGE)
    with false_clamd(play) as address:
        scanner = Scanner(address, SCANNED_MAX)
        if error is None:
            scanner.scan(file, len(LARGE), lambda sent: None)
            assert file.tell() == 0
        else:
            with pytest.raises(error):
                scanner.scan(file, len(LARGE), lambda sent: None)
    assert heard == [LARGE]


def test_what_is_known_to_be_too_large_is_not_sent() -> None:
    with pytest.raises(UploadTooLarge):
        Scanner("127.0.0.1:1", 10).scan(BytesIO(b"x" * 11), 11, lambda sent: None)


def test_a_long_scan_keeps_its_lease(env: dict[str, str]) -> None:
    apps: list[Flask] = []
    due: list[str] = []

    def play(client: socket.socket) -> None:
        hear(client)
        with apps[0].app_context():
            for _ in range(25):
                time.sleep(0.1)
                due.extend(file_queries.due(services().spool.id, 10))
        client.sendall(b"stream: OK\0")

    settings = {**env, "LEASE_SECONDS": "1"}
    with false_clamd(play) as address, running_app({**settings, "CLAMD_ADDRESS": address}) as app:
        apps.append(app)
        answer = app.test_client().post("/normal_upload", data={"file": (BytesIO(b"x"), "a.txt")})
        assert answer.status_code == 201, answer.text
    assert due == []


@pytest.mark.parametrize(
    "address", ["clamd", "host:", "unix:", "unix:relative", "/run/clamd", "host:port", "host:0", "host:65536"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="CLAMD_ADDRESS"):
        Config.from_mapping({"S3_BUCKET_NAME": "b", "CLAMD_ADDRESS": address})
