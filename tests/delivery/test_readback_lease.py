"""An object that is read back over a slow link: the run keeps its lease meanwhile, however long that takes."""

from __future__ import annotations

import time
from pathlib import Path

from tests.kit.proxy import Link, Proxy
from tests.kit.stack import RedisServer, S3Server, Web

SIZE = 6_000_000


def test_the_lease_is_renewed_while_an_object_is_read_back(
    s3: S3Server, redis_server: RedisServer, s3_link: Proxy, tmp_path: Path
) -> None:
    env = {
        **s3.settings,
        **redis_server.settings,
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{s3_link.port}",
        "S3_CHECKSUM_MODE": "readback",
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{tmp_path / 'files.db'}",
        "SPOOL_DIR": str(tmp_path / "spool"),
        "LEASE_SECONDS": "1",
    }
    web = Web(tmp_path, env, workers=2)  # the other one sweeps what has lost its lease

    def be_slow(link: Link, data: bytes) -> bool:
        if link.request.startswith(b"GET ") and b".bin" in link.request:
            time.sleep(0.03)
        return False

    try:
        web.start()
        web.wait()
        s3_link.on_response = be_slow
        began = time.monotonic()
        file_id = web.upload("async", "a.bin", bytes(SIZE)).json()["id"]
        row = web.settled(file_id, 60)
        assert time.monotonic() - began > 2, "the read was too quick to lose a lease"
        assert (row["upload_status"], row["attempts"]) == ("COMPLETE", 1)
    finally:
        s3_link.on_response = lambda link, data: False
        web.stop()
