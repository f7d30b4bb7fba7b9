"""Objects to be uploaded."""

from __future__ import annotations

from pathlib import Path

from file import rename_file
from storage.s3.requests import ObjectInfo
from storage.spool import Spool


def info_of(content: bytes, tmp_path: Path) -> ObjectInfo:
    with Spool(tmp_path / "spool").receive("0" * 32) as incoming:
        incoming.write(content)
        incoming.discard()
        return ObjectInfo(rename_file("a.bin"), "text/x-test", incoming.size, incoming.crc64nvme)
