"""The bucket: verified uploads, downloads, links and deletions of objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

from config import Config
from core.errors import StoreError
from storage.checksum import Crc64Nvme
from storage.s3.client import Clients
from storage.s3.errors import translated_errors
from storage.s3.features import Capabilities, Features
from storage.s3.probe import probe
from storage.s3.requests import ObjectInfo, Part, Requests, SentPart
from storage.section import Section

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

Progress = Callable[[int], None]
CONDITION_FAILED = 412


class Found(Enum):
    """The state of a key in S3."""

    NOTHING = "nothing"
    RIGHT = "the very bytes"
    OTHER = "other bytes"


class Store:
    """One bucket. Never overwrites an object, if the store honors conditional requests.

    An object is delivered when a store that verifies checksums has confirmed ours of the whole object, or when the
    object was read back and compared.

    Args:
        config: the settings.
    """

    def __init__(self, config: Config) -> None:
        self.bucket = config.S3_BUCKET_NAME
        self._config = config
        self._clients = Clients(config)
        self.capabilities = Capabilities(
            config.S3_CHECKSUM_MODE, partial(probe, self.requests, config.S3_KEY_PREFIX)
        )

    @property
    def features(self) -> Features:
        """The store's features, as far as they are known."""
        return self.capabilities.current

    @property
    def client(self) -> S3Client:
        """The process's own boto3 client, created on first use."""
        return self._clients.get(self.features.unsigned_payload)

    @property
    def signing_client(self) -> S3Client:
        """The boto3 client that signs links for the public endpoint; it never connects."""
        return self._clients.signer()

    def requests(self, unsigned_payload: bool | None = None) -> Requests:
        """Return the plain requests to the bucket.

        Args:
            unsigned_payload: whether bodies may go unsigned; by default as the store accepts it.
        """
        unsigned = self.features.unsigned_payload if unsigned_payload is None else unsigned_payload
        return Requests(self._clients.get(unsigned), self.bucket)

    def url(self, key: str) -> str:
        """Return the URL of an object; the bucket's policy decides who can read it."""
        return f"{self._config.bucket_base_url}/{quote(key)}"

    def put(self, file: BinaryIO, info: ObjectInfo, on_progress: Progress = lambda sent: None) -> str:
        """Upload a file in one request, and verify that S3 holds exactly these bytes.

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

        def upload(features: Features) -> bool:
            body: Any = file
            if isinstance(file, BytesIO):
                file.seek(0)
            else:
                body = Section(file.fileno(), 0, info.size, on_progress)
            reported = self.requests(features.unsigned_payload).put(info, body, features.put)
            return reported == info.crc64nvme and self.features.put.verifies

        return self.settle(info, upload, on_progress)

    def begin_parts(self, key: str, content_type: str, features: Features) -> str:
        """Begin a multipart upload. Returns its id. All requests of one upload need the same features.

        Raises:
            StoreError: S3 refuses.
        """
        return self.requests(features.unsigned_payload).begin(key, content_type, features.parts)

    def put_part(
        self, key: str, upload_id: str, number: int, section: Section, crc64nvme: str, features: Features
    ) -> Part:
        """Send one part. Returns its entry for `complete`.

        Raises:
            StoreError: S3 did not take it, or got other bytes than the checksum is of.
        """
        requests = self.requests(features.unsigned_payload)
        return requests.part(key, upload_id, number, section, crc64nvme, features.parts)

    def sent_parts(self, key: str, upload_id: str) -> list[SentPart]:
        """Return the parts of a multipart upload that S3 has, in their order.

        Raises:
            StoreError: S3 refuses, or knows no such upload.
        """
        return self.requests().parts(key, upload_id)

    def complete_parts(self, info: ObjectInfo, upload_id: str, parts: list[Part], features: Features) -> bool:
        """Complete a multipart upload.

        Returns:
            True if S3 has confirmed the whole object's checksum.

        Raises:
            StoreError: S3 refuses.
        """
        reported = self.requests(features.unsigned_payload).complete(info, upload_id, parts, features.parts)
        return reported == info.crc64nvme and self.features.parts.verifies

    def abort_parts(self, key: str, upload_id: str) -> None:
        """Abort a multipart upload, which may be gone already.

        Raises:
            StoreError: S3 refuses.
        """
        self.requests().abort(key, upload_id)

    def settle(
        self, info: ObjectInfo, upload: Callable[[Features], bool], on_progress: Progress = lambda sent: None
    ) -> str:
        """Run an upload, and verify the object.

        Args:
            info: what the object must be.
            upload: sends the bytes with what may be sent, and returns True if S3 has confirmed the whole object's
                checksum. It is called again if S3 refuses a header.
            on_progress: called with 0 now and then while an object is read back.

        Returns:
            The object's url.

        Raises:
            StoreError: S3 did not take the bytes, or holds others under the key.
        """
        self.capabilities.begin()
        used = self.features
        try:
            is_confirmed = self.capabilities.attempt(upload)
        except StoreError as error:
            found = self._found_after(error, info, on_progress)
            if found is Found.RIGHT:
                return self.url(info.key)
            # A condition that fails though nothing is there: the store does not understand what we send.
            if not (_is_condition(error) and found is Found.NOTHING and self.capabilities.learn(used)):
                raise
            is_confirmed = upload(self.features)
        if not is_confirmed:
            self._confirm(info, on_progress)
        return self.url(info.key)

    def holds(self, info: ObjectInfo, on_progress: Progress = lambda sent: None) -> bool:
        """Returns True if the bucket has an object of this name and size with these bytes.

        The bytes are compared by the checksum that S3 tells, if it can be believed, or else by reading them.

        Raises:
            StoreError: S3 does not say.
        """
        return self._look(info, on_progress) is Found.RIGHT

    def read_checksum(self, key: str, on_progress: Progress = lambda sent: None) -> str:
        """Read an object to its end. Returns base64 of its CRC64NVME.

        Raises:
            StoreError: it cannot be read.
        """
        crc = Crc64Nvme()
        for chunk in self.requests().read(key):
            crc.update(chunk)
            on_progress(0)
        return crc.text()

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes of an object from a start to before a stop, in chunks.

        Raises:
            StoreError: it cannot be read; later, while it is read, a broken connection ends it early.
        """
        return self.requests().read(key, Range=f"bytes={start}-{stop - 1}")

    def presigned_url(self, key: str, disposition: str, seconds: int, content_type: str = "") -> str:
        """Return a presigned URL of an object, with its lifetime, Content-Disposition and, if given, its type.

        Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/ShareObjectPreSignedURL.html
        """
        parameters = {"Bucket": self.bucket, "Key": key, "ResponseContentDisposition": disposition}
        if content_type:
            parameters["ResponseContentType"] = content_type
        with translated_errors():
            return self.signing_client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=seconds)

    def delete(self, key: str) -> None:
        """Delete an object, which may be gone already.

        Raises:
            StoreError: S3 refuses.
        """
        self.requests().delete(key)

    def _look(self, info: ObjectInfo, on_progress: Progress) -> Found:
        head = self.capabilities.attempt(
            lambda features: self.requests(features.unsigned_payload).head(info.key, features.head_checksum)
        )
        if head is None:
            return Found.NOTHING
        if head.size != info.size:
            return Found.OTHER
        if head.crc64nvme == info.crc64nvme and self.features.verifies:
            return Found.RIGHT
        is_right = self.read_checksum(info.key, on_progress) == info.crc64nvme
        return Found.RIGHT if is_right else Found.OTHER

    def _found_after(self, error: StoreError, info: ObjectInfo, on_progress: Progress) -> Found | None:
        """Return the state of the key after a failed upload; None if S3 does not answer."""
        try:
            return self._look(info, on_progress)
        except StoreError as silent:
            if _is_condition(error):
                raise StoreError("S3 did not say what it holds under this key.") from silent
            return None

    def _confirm(self, info: ObjectInfo, on_progress: Progress) -> None:
        """Verify that S3 holds the bytes that it has just accepted."""
        found = self._look(info, on_progress)
        if found is Found.NOTHING:
            raise StoreError("S3 accepted the bytes but does not have them.")
        if found is Found.OTHER:
            self._discard(info, on_progress)
            raise StoreError("S3 holds different bytes from those sent.")

    def _discard(self, info: ObjectInfo, on_progress: Progress) -> None:
        """Delete an object whose bytes are wrong, since it would block all retries.

        That is where the store refuses to overwrite: there nobody else can have made it. Elsewhere it might be
        another run's by now, and a retry overwrites it.
        """
        features = self.capabilities.known()
        if features.put.exclusive and features.parts.exclusive:
            with suppress(StoreError):
                if self.read_checksum(info.key, on_progress) != info.crc64nvme:
                    self.delete(info.key)


def _is_condition(error: StoreError) -> bool:
    return error.s3_status == CONDITION_FAILED
