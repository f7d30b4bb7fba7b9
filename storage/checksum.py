"""CRC64NVME, the checksum that S3 keeps of a whole object however it was uploaded."""

from __future__ import annotations

import base64
from collections.abc import Iterable

from awscrt import checksums


class Crc64Nvme:
    """A running CRC64NVME.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
    """

    def __init__(self) -> None:
        self._crc = 0

    def update(self, chunk: bytes | memoryview) -> None:
        """Add a chunk of bytes."""
        self._crc = checksums.crc64nvme(chunk, self._crc)

    def append(self, other: Crc64Nvme, size: int) -> None:
        """Append bytes of which only the checksum is known."""
        self._crc = checksums.combine_crc64nvme(self._crc, other._crc, size)

    @classmethod
    def of(cls, chunks: Iterable[bytes]) -> Crc64Nvme:
        """Return the checksum of chunks of bytes."""
        crc = cls()
        for chunk in chunks:
            crc.update(chunk)
        return crc

    @classmethod
    def parse(cls, text: str) -> Crc64Nvme:
        """Return the checksum that `text` has written."""
        crc = cls()
        crc._crc = int.from_bytes(base64.b64decode(text), "big")
        return crc

    def text(self) -> str:
        """Return base64 of the big-endian value, as S3 writes it."""
        return base64.b64encode(self._crc.to_bytes(8, "big")).decode()
