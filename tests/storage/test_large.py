"""A file larger than S3 takes in one request."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import requests

from config import MIB, Config
from file import upload_file
from storage.checksum import Crc64Nvme
from storage.s3.requests import ObjectInfo
from storage.store import Store
from tests.kit.ports import free_port
from tests.kit.stack import Service, wait_for

SIZE = 5 * 1024 * MIB + 12_345


@pytest.mark.scale
@pytest.mark.timeout(300)
def test_more_than_5_gib_is_delivered(tmp_path: Path) -> None:
    """From a sparse file, into a sink that tells the size and checksum it was given."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(SIZE)
    crc, zeros, left = Crc64Nvme(), bytes(MIB), SIZE
    while left:
        crc.update(zeros[: min(left, MIB)])
        left -= min(left, MIB)
    port = free_port()
    sink = Service("sink", [sys.executable, "-m", "bench.s3_sink", str(port)], {}, tmp_path / "sink.log")
    sink.start()
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: listens(url), what="sink")
        keys = {"AWS_ACCESS_KEY": "key", "AWS_ACCESS_SECRET": "secret"}
        settings = {"S3_BUCKET_NAME": "bucket", "S3_ENDPOINT_URL": url, **keys}
        store = Store(Config.from_mapping(settings))
        info = ObjectInfo("large.bin", "application/octet-stream", SIZE, crc.text())
        with path.open("rb") as file:
            assert upload_file(store, file, info).url == f"{url}/bucket/large.bin"
        assert store.holds(info)
        assert not store.holds(info._replace(size=SIZE - 1))
        store.client.close()
    finally:
        sink.kill()


def listens(url: str) -> bool:
    try:
        return requests.get(f"{url}/-/landed", timeout=5).ok
    except requests.ConnectionError:
        return False
