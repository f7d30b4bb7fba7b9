"""The requests to S3 that carry objects, each with the headers that a store takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from core.errors import StoreError
from storage.s3.errors import translated_errors
from storage.s3.features import Way
from storage.section import CHUNK_BYTES

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

DISPOSITION = "attachment"  # a browser must not run what somebody uploaded
NOT_FOUND = 404

Part = dict[str, Any]  # CompletedPart, as boto3 wants it


class ObjectInfo(NamedTuple):
    """What an object in the bucket must be: name, media type, size in bytes, base64 of its CRC64NVME."""

    key: str
    content_type: str
    size: int
    crc64nvme: str


class Head(NamedTuple):
    """What S3 tells of an object: its size in bytes, and base64 of a CRC64NVME, which may be of another kind."""

    size: int
    crc64nvme: str


class Requests:
    """Requests to one bucket, as they are: nothing is tried twice, and nothing is compared.

    Args:
        client: boto3's client.
        bucket: its name.

    All raise StoreError.
    """

    def __init__(self, client: S3Client, bucket: str) -> None:
        self.client = client
        self.bucket = bucket

    def put(self, info: ObjectInfo, body: Any, way: Way) -> str:
        """Make an object in one request; the answer is the checksum that S3 tells of it, or nothing."""
        with translated_errors():
            stored = self.client.put_object(
                Bucket=self.bucket,
                Key=info.key,
                Body=body,
                ContentType=info.content_type,
                **_disposition(way),
                **_condition(way),
                **_checksum(way, info.crc64nvme),
            )
        return stored.get("ChecksumCRC64NVME", "")

    def begin(self, key: str, content_type: str, way: Way) -> str:
        """Begin an upload in parts; the answer is its id."""
        full: Any = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"} if way.checksum else {}
        with translated_errors():
            return self.client.create_multipart_upload(
                Bucket=self.bucket, Key=key, ContentType=content_type, **_disposition(way), **full
            )["UploadId"]

    def part(self, key: str, upload_id: str, number: int, body: Any, crc64nvme: str, way: Way) -> Part:
        """Send one part; the answer is what S3 wants to hear of it in the end."""
        checksum = _checksum(way, crc64nvme)
        with translated_errors():
            sent = self.client.upload_part(
                Bucket=self.bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=body, **checksum
            )
            return {"PartNumber": number, "ETag": sent["ETag"], **checksum}

    def complete(self, info: ObjectInfo, upload_id: str, parts: list[Part], way: Way) -> str:
        """Make an object of its parts; the answer is the checksum that S3 tells of it, or nothing."""
        whole: Any = {"Parts": parts}
        with translated_errors():
            stored = self.client.complete_multipart_upload(
                Bucket=self.bucket,
                Key=info.key,
                UploadId=upload_id,
                MultipartUpload=whole,
                **_condition(way),
                **_checksum(way, info.crc64nvme),
            )
        return stored.get("ChecksumCRC64NVME", "")

    def abort(self, key: str, upload_id: str) -> None:
        """Take back an upload in parts; it may be gone already."""
        with translated_errors(), suppress(self.client.exceptions.NoSuchUpload):
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload_id)

    def head(self, key: str, with_checksum: bool) -> Head | None:
        """Ask what S3 has under a key; the answer is nothing if it has nothing."""
        mode: Any = {"ChecksumMode": "ENABLED"} if with_checksum else {}
        try:
            with translated_errors():
                found = self.client.head_object(Bucket=self.bucket, Key=key, **mode)
                return Head(found["ContentLength"], found.get("ChecksumCRC64NVME", ""))
        except StoreError as error:
            if error.s3_status == NOT_FOUND:
                return None
            raise

    def read(self, key: str, **span: Any) -> Iterator[bytes]:
        """Read an object, or the span of it that `Range` names, in chunks; the request is made at once."""
        with translated_errors():
            chunks = self.client.get_object(Bucket=self.bucket, Key=key, **span)["Body"].iter_chunks(CHUNK_BYTES)
        return _translated(chunks)

    def delete(self, key: str) -> None:
        """Delete an object; it may be gone already."""
        with translated_errors():
            self.client.delete_object(Bucket=self.bucket, Key=key)


def _translated(chunks: Iterator[bytes]) -> Iterator[bytes]:
    with translated_errors():
        yield from chunks


def _disposition(way: Way) -> dict[str, Any]:
    return {"ContentDisposition": DISPOSITION} if way.disposition else {}


def _condition(way: Way) -> dict[str, Any]:
    return {"IfNoneMatch": "*"} if way.condition else {}


def _checksum(way: Way, crc64nvme: str) -> dict[str, Any]:
    return {"ChecksumCRC64NVME": crc64nvme} if way.checksum else {}
