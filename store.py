"""S3: the only module that knows boto3, and turns its errors into ours."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from urllib.parse import quote

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config as ClientConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from config import MIB, Config
from errors import StoreError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

REASONS = {
    "NoSuchBucket": "The bucket does not exist.",
    "AccessDenied": "S3 denies access to the bucket.",
    "InvalidAccessKeyId": "S3 does not accept the credentials.",
    "SignatureDoesNotMatch": "S3 does not accept the credentials.",
    "ExpiredToken": "The S3 credentials have expired.",
    "BadDigest": "The bytes were damaged on their way to S3.",
    "SlowDown": "S3 asks to slow down.",
}
# A HEAD answer has no body to name the error.
HEAD_REASONS = {"403": "AccessDenied", "404": "NoSuchBucket"}
CONNECT_SECONDS = 3
READ_SECONDS = 20

Progress = Callable[[int], None]


class ObjectInfo(NamedTuple):
    """What an object in the bucket must be: name, media type, size in bytes, base64 of its CRC64NVME."""

    key: str
    content_type: str
    size: int
    crc64nvme: str


class Store:
    """One bucket, behind put, head, delete and url. It never overwrites an object.

    Args:
        config: the settings.

    Source: https://boto3.amazonaws.com/v1/documentation/api/latest/guide/clients.html: a client may be shared by
    threads but not by processes, and making clients in threads at once is not safe.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._bucket = config.S3_BUCKET_NAME
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._client_pid = 0
        self._transfer = TransferConfig(
            multipart_threshold=16 * MIB, multipart_chunksize=8 * MIB, max_concurrency=4
        )

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

    def put(self, stream: BinaryIO, info: ObjectInfo, on_progress: Progress | None = None) -> str:
        """Bring a stream into the bucket, and see that S3 holds these very bytes; closes the stream.

        An object that is already there and right is adopted: an earlier run may have died just after its upload.

        Args:
            stream: the bytes, at their start.
            info: what the object must be; S3 verifies the checksum.
            on_progress: called with a number of bytes whenever so many more are sent.

        Returns:
            The object's url.

        Raises:
            StoreError: S3 did not take the bytes, or holds others under the key.

        Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
        and https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
        """
        arguments = {"ContentType": info.content_type, "ChecksumCRC64NVME": info.crc64nvme}
        try:
            self.client.upload_fileobj(stream, self._bucket, info.key, arguments, on_progress, self._transfer)
        except (ClientError, BotoCoreError) as error:
            if not self._is_there(info):
                raise _translate(error) from error
        else:
            if not self.holds(info):
                raise StoreError("S3 holds other bytes than were sent.")
        return self.url(info.key)

    def holds(self, info: ObjectInfo) -> bool:
        """Whether the bucket has an object of this name, size and, where the store keeps it, checksum.

        Raises:
            StoreError: S3 does not say.
        """
        try:
            found = self.client.head_object(Bucket=self._bucket, Key=info.key, ChecksumMode="ENABLED")
        except ClientError as error:
            if error.response["Error"]["Code"] == "404":
                return False
            raise _translate(error) from error
        except BotoCoreError as error:
            raise _translate(error) from error
        checksum = found.get("ChecksumCRC64NVME", info.crc64nvme)
        return (found["ContentLength"], checksum) == (info.size, info.crc64nvme)

    def check(self) -> None:
        """See that the bucket can be reached.

        Raises:
            StoreError: it cannot, and why.
        """
        try:
            self.client.head_bucket(Bucket=self._bucket)
        except (ClientError, BotoCoreError) as error:
            raise _translate(error) from error

    def make_bucket(self, public_read: bool = False) -> None:
        """Make the bucket unless it is there.

        Args:
            public_read: let everyone read its objects, as the article does.

        Raises:
            StoreError: S3 refuses.
        """
        place: dict[str, Any] = {}
        if self._config.AWS_REGION != "us-east-1":  # S3 takes every region as a constraint but its first
            place = {"CreateBucketConfiguration": {"LocationConstraint": self._config.AWS_REGION}}
        try:
            self.client.create_bucket(Bucket=self._bucket, **place)
        except self.client.exceptions.BucketAlreadyOwnedByYou:
            pass
        except (ClientError, BotoCoreError) as error:
            raise _translate(error) from error
        if public_read:
            policy = json.dumps(_public_read_policy(self._bucket))
            self.client.put_bucket_policy(Bucket=self._bucket, Policy=policy)

    def _is_there(self, info: ObjectInfo) -> bool:
        try:
            return self.holds(info)
        except StoreError:
            return False


def _make_client(config: Config) -> S3Client:
    client: S3Client = boto3.session.Session().client(
        "s3",
        endpoint_url=config.S3_ENDPOINT_URL,
        region_name=config.AWS_REGION,
        aws_access_key_id=config.AWS_ACCESS_KEY,
        aws_secret_access_key=config.AWS_ACCESS_SECRET,
        config=ClientConfig(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": 2},
            max_pool_connections=50,
            s3={"addressing_style": "path" if config.S3_ENDPOINT_URL else "auto"},
        ),
    )
    # boto3's transfer functions do not take IfNoneMatch, so it is added where the request is built.
    for operation in ("PutObject", "CompleteMultipartUpload"):
        client.meta.events.register(f"before-parameter-build.s3.{operation}", _never_overwrite)
    return client


def _never_overwrite(params: dict[str, Any], **_: Any) -> None:
    params["IfNoneMatch"] = "*"


def _translate(error: Exception) -> StoreError:
    if isinstance(error, ClientError):
        code = error.response["Error"]["Code"]
        code = HEAD_REASONS.get(code, code)
        return StoreError(REASONS.get(code, f"S3 refused the upload ({code})."))
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StoreError("There are no S3 credentials.")
    return StoreError("S3 does not answer.")


def _public_read_policy(bucket: str) -> dict[str, Any]:
    statement = {
        "Sid": "PublicRead",
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{bucket}/*"],
    }
    return {"Version": "2012-10-17", "Statement": [statement]}
