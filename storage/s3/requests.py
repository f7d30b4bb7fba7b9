"""The object requests to S3, each with the headers that the store accepts."""

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
NO_CONTENT = 204
NOT_FOUND = 404

Part = dict[str, Any]  # CompletedPart, as boto3 wants it


class ObjectInfo(NamedTuple):
    """The expected object: key, media type, size in bytes, base64 of its CRC64NVME."""

    key: str
    content_type: str
    size: int
    crc64nvme: str


class Head(NamedTuple):
    """S3's report of an object: its size in bytes, and base64 of a CRC64NVME, which may be of another kind."""

    size: int
    crc64nvme: str
    etag: str
    content_type: str


class SentPart(NamedTuple):
    """A part that S3 has: its entry for `complete`, and its size in bytes."""

    entry: Part
    size: int


class Requests:
    """Plain requests to one bucket, without retries or comparisons.

    Args:
        client: boto3's client.
        bucket: its name.

    All raise StoreError.
    """

    def __init__(self, client: S3Client, bucket: str) -> None:
        self.client = client
        self.bucket = bucket

    def put(self, info: ObjectInfo, body: Any, way: Way) -> str:
        """Create an object in one request. Returns the checksum that S3 reports, or an empty text."""
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
        """Begin a multipart upload. Returns its id."""
        full: Any = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"} if way.checksum else {}
        with translated_errors():
            return self.client.create_multipart_upload(
                Bucket=self.bucket, Key=key, ContentType=content_type, **_disposition(way), **full
            )["UploadId"]

    def part(self, key: str, upload_id: str, number: int, body: Any, crc64nvme: str, way: Way) -> Part:
        """Send one part. Returns its entry for `complete`."""
        checksum = _checksum(way, crc64nvme)
        with translated_errors():
            sent = self.client.upload_part(
                Bucket=self.bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=body, **checksum
            )
            return {"PartNumber": number, "ETag": sent["ETag"], **checksum}

    def parts(self, key: str, upload_id: str) -> list[SentPart]:
        """Return the parts that S3 has, in their order."""
        with translated_errors():
            pages = self.client.get_paginator("list_parts").paginate(
                Bucket=self.bucket, Key=key, UploadId=upload_id
            )
            return [_sent(entry) for page in pages for entry in page.get("Parts", [])]

    def complete(self, info: ObjectInfo, upload_id: str, parts: list[Part], way: Way) -> str:
        """Complete a multipart upload. Returns the checksum that S3 reports, or an empty text.

        Without a checksum in `info`, S3 compares nothing.
        """
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
        """Abort a multipart upload, which may be gone already."""
        with translated_errors(), suppress(self.client.exceptions.NoSuchUpload):
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload_id)

    def head(self, key: str, with_checksum: bool) -> Head | None:
        """Return S3's report of an object, or None if there is none."""
        mode: Any = {"ChecksumMode": "ENABLED"} if with_checksum else {}
        try:
            with translated_errors():
                found = self.client.head_object(Bucket=self.bucket, Key=key, **mode)
                return Head(
                    found["ContentLength"],
                    found.get("ChecksumCRC64NVME", ""),
                    found.get("ETag", ""),
                    found.get("ContentType", ""),
                )
        except StoreError as error:
            if error.s3_status == NOT_FOUND:
                return None
            raise

    def copy(self, source: str, etag: str, key: str, way: Way) -> None:
        """Copy an object of the bucket, with its type, unless it has changed or the target exists.

        Args:
            source: the key of what is copied.
            etag: what it must be.
            key: the key of the copy.
            way: the headers that the store accepts.

        Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html
        """
        conditions: Any = {"CopySourceIfMatch": etag, **_condition(way)} if way.condition else {}
        checksum: Any = {"ChecksumAlgorithm": "CRC64NVME"} if way.checksum else {}
        with translated_errors():
            self.client.copy_object(
                Bucket=self.bucket,
                Key=key,
                CopySource={"Bucket": self.bucket, "Key": source},
                **conditions,
                **checksum,
            )

    def read(self, key: str, **span: Any) -> Iterator[bytes]:
        """Return the chunks of an object, or of a `Range` of it; the request is made at once."""
        with translated_errors():
            chunks = self.client.get_object(Bucket=self.bucket, Key=key, **span)["Body"].iter_chunks(CHUNK_BYTES)
        return _translated(chunks)

    def delete(self, key: str) -> None:
        """Delete an object, which may be gone already.

        Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObject.html: the answer is 204. Another
        proves nothing: some other server may have given it at this address.
        """
        with translated_errors():
            status = self.client.delete_object(Bucket=self.bucket, Key=key)["ResponseMetadata"]["HTTPStatusCode"]
        if status != NO_CONTENT and self.head(key, with_checksum=False):
            raise StoreError("S3 has not deleted the object.")


def _sent(entry: Any) -> SentPart:
    named = {name: entry[name] for name in ("PartNumber", "ETag", "ChecksumCRC64NVME") if name in entry}
    return SentPart(named, entry["Size"])


def _translated(chunks: Iterator[bytes]) -> Iterator[bytes]:
    with translated_errors():
        yield from chunks


def _disposition(way: Way) -> dict[str, Any]:
    return {"ContentDisposition": DISPOSITION} if way.disposition else {}


def _condition(way: Way) -> dict[str, Any]:
    return {"IfNoneMatch": "*"} if way.condition else {}


def _checksum(way: Way, crc64nvme: str) -> dict[str, Any]:
    return {"ChecksumCRC64NVME": crc64nvme} if way.checksum and crc64nvme else {}
