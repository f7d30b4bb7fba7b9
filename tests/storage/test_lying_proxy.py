"""The lying proxy passes on what is honest, and lies as it is told: the tests of stores rest on it."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config as ClientConfig
from botocore.exceptions import ClientError

from tests.kit import lying_proxy as lies
from tests.kit.lying_proxy import LyingProxy
from tests.kit.stack import BUCKET, KEY, SECRET, S3Server

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[LyingProxy]:
    with LyingProxy(s3.port, KEY, SECRET) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def client(proxy: LyingProxy) -> S3Client:
    return boto3.client(
        "s3",
        endpoint_url=proxy.url,
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=ClientConfig(
            signature_version="s3v4",
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path", "payload_signing_enabled": False},
        ),
    )


@pytest.fixture
def at(proxy: LyingProxy) -> Iterator[dict[str, Any]]:
    """A new object's place; in the end the proxy is honest again."""
    proxy.tell(lies.honest)
    yield {"Bucket": BUCKET, "Key": f"lies/ä {uuid4().hex}"}
    proxy.tell(lies.honest)


def test_honest_it_changes_nothing(proxy: LyingProxy, client: S3Client, at: dict[str, Any]) -> None:
    client.put_object(**at, Body=b"hello", IfNoneMatch="*", ChecksumAlgorithm="CRC64NVME")
    link = client.generate_presigned_url("get_object", Params=at)
    assert urllib.request.urlopen(link).read() == b"hello"
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(**at, Body=b"other", IfNoneMatch="*")
    client.delete_object(**at)
    assert [name for name, _ in proxy.log] == ["PutObject", "GetObject", "PutObject", "DeleteObject"]


def test_it_refuses_a_header(proxy: LyingProxy, client: S3Client, at: dict[str, Any]) -> None:
    proxy.tell(lies.refuse(501, "NotImplemented", "not here", lies.header("If-None-Match")))
    with pytest.raises(ClientError, match="not here"):
        client.put_object(**at, Body=b"hello", IfNoneMatch="*")
    client.put_object(**at, Body=b"hello")


@pytest.mark.parametrize(("lie", "kept"), [(lies.keeps_no_checksum, b"hello"), (lies.flips_last_byte, b"helln")])
def test_it_signs_again_what_it_changes(
    proxy: LyingProxy, client: S3Client, at: dict[str, Any], lie: lies.Lie, kept: bytes
) -> None:
    proxy.tell(lie)
    told = client.put_object(**at, Body=b"hello", ChecksumAlgorithm="CRC64NVME")
    assert "ChecksumCRC64NVME" not in told
    assert client.get_object(**at)["Body"].read() == kept


def test_parts_lose_their_checksums_too(proxy: LyingProxy, client: S3Client, at: dict[str, Any]) -> None:
    proxy.tell(lies.flips_last_byte)
    upload: Any = {
        **at,
        "UploadId": client.create_multipart_upload(
            **at, ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT"
        )["UploadId"],
    }
    part = client.upload_part(**upload, PartNumber=1, Body=b"hello", ChecksumAlgorithm="CRC64NVME")
    parts: Any = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"], "ChecksumCRC64NVME": "AAAAAAAAAAA="}]}
    done = client.complete_multipart_upload(**upload, MultipartUpload=parts, ChecksumCRC64NVME="AAAAAAAAAAA=")
    assert "ChecksumCRC64NVME" not in done
    assert client.get_object(**at)["Body"].read() == b"helln"
    names = ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "GetObject"]
    assert [name for name, _ in proxy.log] == names


def test_it_echoes_checksums(proxy: LyingProxy, client: S3Client, at: dict[str, Any]) -> None:
    proxy.tell(lies.echoes_checksums())
    told = client.put_object(**at, Body=b"hello", ChecksumAlgorithm="CRC64NVME")
    head = client.head_object(**at, ChecksumMode="ENABLED")
    assert told["ChecksumCRC64NVME"] == head["ChecksumCRC64NVME"]
    assert client.get_object(**at)["Body"].read() == b"helln"


def test_it_leaves_out_a_field(proxy: LyingProxy, client: S3Client, at: dict[str, Any]) -> None:
    client.put_object(**at, Body=b"hello")
    proxy.tell(lies.leaves_out("LastModified", lies.operation("ListObjectsV2")))
    [entry] = client.list_objects_v2(Bucket=BUCKET, Prefix=at["Key"])["Contents"]
    assert "LastModified" not in entry
    assert entry["Key"] == at["Key"]
