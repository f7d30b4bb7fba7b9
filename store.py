"""S3 objects: the only module that knows boto3, and turns its errors into ours."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from urllib.parse import quote

import boto3
from botocore.config import Config as ClientConfig
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from checksum import Crc64Nvme
from config import Config
from errors import StoreError, StoreRefused
from section import CHUNK_BYTES, Section

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

HEALING = {
    "BadDigest": "The bytes were damaged on their way to S3.",
    "ConditionalRequestConflict": "S3 is taking the same object twice.",
    "ExpiredToken": "The S3 credentials have expired.",
    "NoSuchUpload": "S3 has dropped the unfinished upload.",
    "RequestTimeout": "S3 did not receive the bytes in time.",
    "RequestTimeTooSkewed": "The clock is wrong.",
    "SlowDown": "S3 asks to slow down.",
}
REFUSING = {
    "AccessDenied": "S3 denies access to the bucket.",
    "InvalidAccessKeyId": "S3 does not accept the credentials.",
    "NoSuchBucket": "The bucket does not exist.",
    "PreconditionFailed": "S3 holds other bytes under this key.",
    "SignatureDoesNotMatch": "S3 does not accept the credentials.",
}
# A HEAD answer has no body to name the error.
HEAD_CODES = {"403": "AccessDenied", "404": "NoSuchBucket"}
DISPOSITION = "attachment"  # a browser must not run what somebody uploaded
CONNECT_SECONDS = 3
READ_SECONDS = 20

Progress = Callable[[int], None]
Part = dict[str, Any]  # CompletedPart, as boto3 wants it


class ObjectInfo(NamedTuple):
    """What an object in the bucket must be: name, media type, size in bytes, base64 of its CRC64NVME."""

    key: str
    content_type: str
    size: int
    crc64nvme: str


class Store:
    """One bucket, behind put, holds, delete and url. It never overwrites an object.

    Args:
        config: the settings.

    Source: https://boto3.amazonaws.com/v1/documentation/api/latest/guide/clients.html: threads may share a client,
    processes may not, and making clients in threads at once is not safe.
    """

    def __init__(self, config: Config) -> None:
        self.bucket = config.S3_BUCKET_NAME
        self._config = config
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._client_pid = 0
        self._signer: S3Client | None = None
        self._has_checksums = config.S3_CHECKSUM_MODE == "crc64nvme"

    @property
    def client(self) -> S3Client:
        """The process's own boto3 client, made on first use."""
        with self._lock:
            if self._client is None or self._client_pid != os.getpid():
                self._client = _make_client(self._config)
                self._client_pid = os.getpid()
            return self._client

    def url(self, key: str) -> str:
        """The address of an object; who may read it is up to the bucket's policy."""
        return f"{self._config.S3_BUCKET_BASE_URL.rstrip('/')}/{quote(key)}"

    def put(self, file: BinaryIO, info: ObjectInfo, on_progress: Progress | None = None) -> str:
        """Bring a file into the bucket in one request, and see that S3 holds these very bytes.

        An object that is already there and right is adopted: an earlier run may have died just after its upload.

        Args:
            file: an open file, which is read from its start, or a stream in memory.
            info: what the object must be.
            on_progress: called with a number of bytes whenever so many more are sent.

        Returns:
            The object's url.

        Raises:
            StoreError: S3 did not take the bytes, or holds others under the key.

        Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
        and https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
        """

        def upload() -> bool:
            body: Any = file
            if not isinstance(file, BytesIO):
                body = Section(file.fileno(), 0, info.size, on_progress)
            stored = self.client.put_object(
                Bucket=self.bucket,
                Key=info.key,
                Body=body,
                ContentType=info.content_type,
                ContentDisposition=DISPOSITION,
                IfNoneMatch="*",
                **self._checksum(info.crc64nvme),
            )
            return stored.get("ChecksumCRC64NVME") == info.crc64nvme

        return self.settle(info, upload)

    def begin_parts(self, key: str, content_type: str) -> str:
        """Begin an upload in parts; the answer is its id.

        Raises:
            StoreError: S3 refuses.
        """
        full: Any = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}
        with translated_errors():
            return self.client.create_multipart_upload(
                Bucket=self.bucket,
                Key=key,
                ContentType=content_type,
                ContentDisposition=DISPOSITION,
                **(full if self._has_checksums else {}),
            )["UploadId"]

    def put_part(self, key: str, upload_id: str, number: int, section: Section, crc64nvme: str) -> Part:
        """Send one part; the answer is what S3 wants to hear of it in the end.

        Raises:
            StoreError: S3 did not take it, or got other bytes than the checksum is of.
        """
        checksum = self._checksum(crc64nvme)
        body: Any = section
        with translated_errors():
            sent = self.client.upload_part(
                Bucket=self.bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=body, **checksum
            )
        return {"PartNumber": number, "ETag": sent["ETag"], **checksum}

    def complete_parts(self, info: ObjectInfo, upload_id: str, parts: list[Part]) -> None:
        """Make an object of its parts; S3 compares its checksum.

        Raises:
            StoreError: S3 refuses.
        """
        whole: Any = {"Parts": parts}
        with translated_errors():
            self.client.complete_multipart_upload(
                Bucket=self.bucket,
                Key=info.key,
                UploadId=upload_id,
                MultipartUpload=whole,
                IfNoneMatch="*",
                **self._checksum(info.crc64nvme),
            )

    def abort_parts(self, key: str, upload_id: str) -> None:
        """Take back an upload in parts; it may be gone already.

        Raises:
            StoreError: S3 refuses.
        """
        with translated_errors(), suppress(self.client.exceptions.NoSuchUpload):
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload_id)

    def _checksum(self, crc64nvme: str) -> dict[str, Any]:
        return {"ChecksumCRC64NVME": crc64nvme} if self._has_checksums else {}

    def settle(self, info: ObjectInfo, upload: Callable[[], bool | None]) -> str:
        """Run an upload, and whether it failed or not, see what S3 holds afterwards.

        Args:
            info: what the object must be.
            upload: sends the bytes; True says that S3 has already confirmed the whole object's checksum.

        Returns:
            The object's url.

        Raises:
            StoreError: S3 did not take the bytes, or holds others under the key.
        """
        try:
            with translated_errors():
                is_confirmed = upload()
        except StoreError:
            if not self._is_there_after_all(info):
                raise
        else:
            if not is_confirmed and not self.holds(info):
                # Nobody else can have made it (If-None-Match), and left there it would block all retries.
                self.delete(info.key)
                raise StoreError("S3 holds other bytes than were sent.")
        return self.url(info.key)

    def holds(self, info: ObjectInfo) -> bool:
        """Whether the bucket has an object of this name and size with these bytes.

        The bytes are compared by the checksum that S3 keeps, or in the mode `readback` by reading them.

        Raises:
            StoreError: S3 does not say.
        """
        try:
            found = self.client.head_object(Bucket=self.bucket, Key=info.key, ChecksumMode="ENABLED")
        except ClientError as error:
            if error.response["Error"]["Code"] == "404":
                return False
            raise _translate(error) from error
        except BotoCoreError as error:
            raise _translate(error) from error
        if found["ContentLength"] != info.size:
            return False
        if self._config.S3_CHECKSUM_MODE == "readback":
            return self.read_checksum(info.key) == info.crc64nvme
        return found.get("ChecksumCRC64NVME", info.crc64nvme) == info.crc64nvme

    def read_checksum(self, key: str) -> str:
        """Read an object to its end; the answer is base64 of its CRC64NVME.

        Raises:
            StoreError: it cannot be read.
        """
        crc = Crc64Nvme()
        with translated_errors():
            body = self.client.get_object(Bucket=self.bucket, Key=key)["Body"]
            for chunk in body.iter_chunks(CHUNK_BYTES):
                crc.update(chunk)
        return crc.text()

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """Read the bytes of an object from one position to before another, in chunks.

        Raises:
            StoreError: it cannot be read; later, while it is read, a broken connection ends it early.
        """
        with translated_errors():
            span = f"bytes={start}-{stop - 1}"
            return self.client.get_object(Bucket=self.bucket, Key=key, Range=span)["Body"].iter_chunks(CHUNK_BYTES)

    def presigned_url(self, key: str, disposition: str, seconds: int) -> str:
        """An address that gives an object to whoever has it, for so long, with that Content-Disposition.

        Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/ShareObjectPreSignedURL.html
        """
        parameters = {"Bucket": self.bucket, "Key": key, "ResponseContentDisposition": disposition}
        with self._lock:
            if self._signer is None:  # it never connects, so every process may use it
                self._signer = _make_client(self._config, self._config.S3_PUBLIC_ENDPOINT_URL)
        with translated_errors():
            return self._signer.generate_presigned_url("get_object", Params=parameters, ExpiresIn=seconds)

    def delete(self, key: str) -> None:
        """Delete an object; it may be gone already.

        Raises:
            StoreError: S3 refuses.
        """
        with translated_errors():
            self.client.delete_object(Bucket=self.bucket, Key=key)

    def _is_there_after_all(self, info: ObjectInfo) -> bool:
        try:
            return self.holds(info)
        except StoreError:
            return False


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn boto3's errors into ours.

    Raises:
        StoreError: what failed may heal.
        StoreRefused: S3 will not do it.
    """
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise _translate(error) from error


def _translate(error: Exception) -> StoreError:
    if isinstance(error, ClientError):
        code = error.response["Error"]["Code"]
        code = HEAD_CODES.get(code, code)
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        if code in HEALING or status >= 500:
            return StoreError(HEALING.get(code, "S3 is out of order."))
        return StoreRefused(REFUSING.get(code, f"S3 refuses ({code})."))
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StoreRefused("There are no S3 credentials.")
    return StoreError("S3 does not answer.")


def _make_client(config: Config, endpoint: str | None = None) -> S3Client:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint or config.S3_ENDPOINT_URL,
        region_name=config.AWS_REGION,
        aws_access_key_id=config.AWS_ACCESS_KEY,
        aws_secret_access_key=config.AWS_ACCESS_SECRET,
        config=ClientConfig(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": 2},
            max_pool_connections=50,
            signature_version="s3v4",  # or addresses that expire would be signed as of old
            # The checksums are ours, sent as headers; the SDK's own would be trailers of chunked bodies.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={
                "addressing_style": "path" if config.S3_ENDPOINT_URL else "auto",
                # The checksum's header is signed, so signing the payload too would only cost a second hash.
                "payload_signing_enabled": False,
            },
        ),
    )
