"""The objects of a bucket, without those of a probe, which may run beside the first upload of a process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from storage.s3.probe import NAME
from tests.conftest import running_app

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


def keys_of(client: S3Client, bucket: str, prefix: str = "") -> list[str]:
    """Return the keys of all objects that start with a prefix."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = (entry["Key"] for page in pages for entry in page.get("Contents", []))
    return [key for key in keys if NAME not in key]


def set_cors(env: Mapping[str, str]) -> None:
    """Let pages send to the bucket, as its operator does."""
    with running_app(dict(env)) as app:
        result = app.test_cli_runner().invoke(args=["set-cors"])
    assert result.exit_code == 0, result.output
