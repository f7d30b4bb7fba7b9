"""Signed addresses, by which a client sends bytes to the bucket itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from core.errors import StoreRefused
from storage.s3.errors import translated_errors
from storage.s3.features import Way
from storage.s3.requests import DISPOSITION

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

FORM_CREATED = "201"


class Announced(NamedTuple):
    """An object as its client announces it."""

    key: str
    content_type: str
    size: int
    """In bytes."""
    crc64nvme: str = ""
    """In base64; empty if the client does not say."""


class Address(NamedTuple):
    """An address for one PUT, with the headers that must be sent to it as they are."""

    url: str
    headers: dict[str, str]


class Form(NamedTuple):
    """An address for one POST, with the fields that stand in front of the file."""

    url: str
    fields: dict[str, str]


class Signer:
    """Signs addresses of one bucket; asks nobody.

    Args:
        client: boto3's client, for the endpoint that the addresses name.
        credentials: those that sign.
        bucket: its name.
        seconds: how long an address is good; with temporary credentials it ends with them, if that is sooner.

    All raise StoreError if there are no credentials.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html. botocore signs, without
    the making of a whole request for each part of a file.
    """

    def __init__(self, client: S3Client, credentials: Credentials | None, bucket: str, seconds: int) -> None:
        self._client = client
        self._credentials = credentials
        self._bucket = bucket
        self._seconds = seconds

    def put(self, announced: Announced, way: Way) -> Address:
        """Sign the address of an object, over all that is known of it.

        The length is signed too. A client need not set it, since every client of HTTP does.

        Args:
            announced: the object.
            way: the headers that the store accepts.
        """
        headers = {"Content-Type": announced.content_type}
        if way.disposition:
            headers["Content-Disposition"] = DISPOSITION
        if way.condition:
            headers["If-None-Match"] = "*"
        if way.checksum and announced.crc64nvme:
            headers["x-amz-checksum-crc64nvme"] = announced.crc64nvme
        url = self._sign(announced.key, {}, {**headers, "Content-Length": str(announced.size)})
        return Address(url, headers)

    def part(self, key: str, upload_id: str, number: int, crc64nvme: str = "") -> Address:
        """Sign the address of one part of an object.

        Args:
            key: the object's key.
            upload_id: S3's name for the upload.
            number: of the part, from 1.
            crc64nvme: of the part, in base64; empty if the client does not say.
        """
        headers = {"x-amz-checksum-crc64nvme": crc64nvme} if crc64nvme else {}
        return Address(self._sign(key, {"partNumber": str(number), "uploadId": upload_id}, headers), headers)

    def form(self, key: str, content_type: str, most_bytes: int) -> Form:
        """Sign the fields of a form that creates an object.

        Args:
            key: the object's key. A form may overwrite it as long as it is good.
            content_type: its media type.
            most_bytes: how large it may be.

        Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html
        """
        fixed = {
            "Content-Type": content_type,
            "Content-Disposition": DISPOSITION,
            "success_action_status": FORM_CREATED,
        }
        conditions: list[Any] = [{name: value} for name, value in fixed.items()]
        conditions.append(["content-length-range", 0, most_bytes])
        with translated_errors():
            form = self._client.generate_presigned_post(
                self._bucket, key, Fields=fixed, Conditions=conditions, ExpiresIn=self._seconds
            )
        return Form(form["url"], form["fields"])

    @property
    def origin(self) -> str:
        """The scheme and host of all addresses."""
        url = urlsplit(self._place[0])
        return f"{url.scheme}://{url.netloc}"

    def _sign(self, key: str, parameters: Mapping[str, str], headers: Mapping[str, str]) -> str:
        if self._credentials is None:
            raise StoreRefused("There are no S3 credentials.")
        with translated_errors():
            start, service, region = self._place
            request = AWSRequest(method="PUT", url=start + quote(key), params=parameters, headers=headers)
            S3SigV4QueryAuth(self._credentials, service, region, expires=self._seconds).add_auth(request)
            return str(request.url)

    @cached_property
    def _place(self) -> tuple[str, str, str]:
        """The start of all addresses in the bucket, and the service and region that they are signed for."""
        with translated_errors():
            link = self._client.generate_presigned_url("get_object", {"Bucket": self._bucket, "Key": "k"})
        url = urlsplit(link)
        _, _, region, service, _ = parse_qs(url.query)["X-Amz-Credential"][0].rsplit("/", 4)
        return f"{url.scheme}://{url.netloc}{url.path.removesuffix('k')}", service, region
