"""The bucket for its operator: creation, listings, unfinished multipart uploads, lifecycle rules."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from http import HTTPStatus
from typing import Any, NamedTuple

from core.errors import StoreError, StoreRefused
from storage.s3.errors import translated_errors
from storage.store import Store

CORS_RULES = ("ferryman-links", "ferryman-uploads")
READING = ["GET", "HEAD"]
NO_CORS = "This store has no CORS rules."
LIFECYCLE_RULE = "ferryman-abandoned-multiparts"
CORS_EXPOSED = ["ETag", "Content-Range", "Accept-Ranges", "Content-Disposition"]
NO_LIFECYCLE = "This store has no lifecycle rules."


class StoredObject(NamedTuple):
    """An object in the bucket."""

    key: str
    modified_at: datetime | None
    """Some stores do not say; such an object is of no known age."""


class Multipart(NamedTuple):
    """An unfinished multipart upload."""

    key: str
    upload_id: str
    initiated_at: datetime | None


def check(store: Store) -> None:
    """Check that the bucket can be reached.

    Raises:
        StoreError: it cannot, and why.
    """
    try:
        with translated_errors():
            store.client.head_bucket(Bucket=store.bucket)
    except StoreRefused:
        # An answer to HEAD has no body; the one to a listing says what is refused.
        with translated_errors():
            store.client.list_objects_v2(Bucket=store.bucket, MaxKeys=1)


def make(store: Store, region: str, public_read: bool = False) -> None:
    """Create the bucket unless it exists.

    Args:
        store: which bucket.
        region: where.
        public_read: let everyone read its objects, as the article does.

    Raises:
        StoreError: S3 refuses.
    """
    place: dict[str, Any] = {}
    if region != "us-east-1":  # S3 takes every region as a constraint but its first
        place = {"CreateBucketConfiguration": {"LocationConstraint": region}}
    with translated_errors():
        try:
            store.client.create_bucket(Bucket=store.bucket, **place)
        except store.client.exceptions.BucketAlreadyOwnedByYou:
            pass
        if public_read:
            policy = json.dumps(_public_read_policy(store.bucket))
            store.client.put_bucket_policy(Bucket=store.bucket, Policy=policy)


def objects(store: Store, prefix: str) -> Iterator[StoredObject]:
    """List the objects whose key starts with a prefix.

    Raises:
        StoreError: S3 refuses.
    """
    with translated_errors():
        pages = store.client.get_paginator("list_objects_v2").paginate(Bucket=store.bucket, Prefix=prefix)
        for page in pages:
            for entry in _entries(page, "Contents"):
                if "Key" in entry:
                    yield StoredObject(entry["Key"], entry.get("LastModified"))


def content_type(store: Store, key: str) -> str:
    """Return the media type of an object.

    Raises:
        StoreError: S3 refuses.
    """
    with translated_errors():
        return store.client.head_object(Bucket=store.bucket, Key=key)["ContentType"]


def multiparts(store: Store, prefix: str) -> Iterator[Multipart]:
    """List the unfinished multipart uploads whose key starts with a prefix.

    Raises:
        StoreError: S3 refuses.
    """
    with translated_errors():
        pages = store.client.get_paginator("list_multipart_uploads").paginate(Bucket=store.bucket, Prefix=prefix)
        for page in pages:
            for entry in _entries(page, "Uploads"):
                if "Key" in entry and "UploadId" in entry:
                    yield Multipart(entry["Key"], entry["UploadId"], entry.get("Initiated"))


def _entries(page: Mapping[str, Any], name: str) -> list[Any]:
    """Return the entries of a page of a listing; an entry may lack fields.

    Raises:
        StoreError: it is no page of a listing, and must not be taken for an empty one.
    """
    if name not in page and not {"IsTruncated", "Bucket", "Name"} & page.keys():
        raise StoreError("S3 returned a listing that cannot be parsed.")
    return list(page.get(name, []))


def abort(store: Store, upload: Multipart) -> None:
    """Abort an unfinished multipart upload; it may be gone already.

    Raises:
        StoreError: S3 refuses.
    """
    store.abort_parts(upload.key, upload.upload_id)


def abort_all(store: Store, key: str) -> None:
    """Abort every unfinished multipart upload of one key.

    Raises:
        StoreError: S3 refuses.
    """
    for upload in list(multiparts(store, key)):
        if upload.key == key:
            abort(store, upload)


def set_lifecycle(store: Store, prefix: str, days: int) -> None:
    """Let S3 abort multipart uploads that were abandoned for some days; keep the bucket's other rules.

    Raises:
        StoreError: S3 refuses.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpu-abort-incomplete-mpu-lifecycle-config.html
    """
    rule: Any = {
        "ID": LIFECYCLE_RULE,
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days},
    }
    others = [other for other in lifecycle_rules(store) if other.get("ID") != LIFECYCLE_RULE]
    _put_rules(store, [*others, rule])
    kept = [found.get("AbortIncompleteMultipartUpload") for found in lifecycle_rules(store)]
    if rule["AbortIncompleteMultipartUpload"] not in kept:
        raise StoreRefused(NO_LIFECYCLE)


def lifecycle_rules(store: Store) -> list[Any]:
    """Read the bucket's lifecycle rules.

    Raises:
        StoreError: S3 refuses, or has no such thing.
    """
    try:
        with translated_errors():
            found = store.client.get_bucket_lifecycle_configuration(Bucket=store.bucket)
    except StoreError as error:
        if error.code == "NoSuchLifecycleConfiguration":
            return []
        raise _unknown_as(NO_LIFECYCLE, error) from error
    if "Rules" not in found:  # some stores answer this with a listing of the bucket
        raise StoreRefused(NO_LIFECYCLE)
    return list(found["Rules"])


def set_cors(store: Store, origins: Sequence[str]) -> None:
    """Let pages read links, and pages of some origins send bytes; keep the bucket's other rules.

    A page comes to a link by a redirect from this service, for which its browser sends `Origin: null`; whoever has
    a link may read the object anyway.

    Args:
        store: which bucket.
        origins: CORS_ORIGINS.

    Raises:
        StoreError: S3 refuses, or has no such thing.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/ManageCorsUsing.html;
    https://fetch.spec.whatwg.org/#concept-http-redirect-fetch for the origin after a redirect.
    """
    links, uploads = CORS_RULES
    same: dict[str, Any] = {"AllowedHeaders": ["*"], "ExposeHeaders": CORS_EXPOSED, "MaxAgeSeconds": 3600}
    rules = [{"ID": links, "AllowedOrigins": ["*"], "AllowedMethods": READING, **same}]
    if origins:
        # SeaweedFS goes by the first rule with a page's origin, whatever its methods are.
        methods = [*READING, "PUT", "POST"]
        rules.insert(0, {"ID": uploads, "AllowedOrigins": list(origins), "AllowedMethods": methods, **same})
    try:
        others = [rule for rule in cors_rules(store) if rule.get("ID") not in CORS_RULES]
        with translated_errors(), _content_md5(store, "PutBucketCors"):
            configuration: Any = {"CORSRules": [*others, *rules]}
            store.client.put_bucket_cors(Bucket=store.bucket, CORSConfiguration=configuration)
        kept = [rule["AllowedMethods"] for rule in cors_rules(store)]
    except StoreError as error:
        raise _unknown_as(NO_CORS, error) from error
    if not all(rule["AllowedMethods"] in kept for rule in rules):
        raise StoreRefused(NO_CORS)


def cors_rules(store: Store) -> list[Any]:
    """Read the bucket's CORS rules.

    Raises:
        StoreError: S3 refuses, or has no such thing.
    """
    try:
        with translated_errors():
            return list(store.client.get_bucket_cors(Bucket=store.bucket).get("CORSRules", []))
    except StoreError as error:
        if error.code == "NoSuchCORSConfiguration":
            return []
        raise


def _put_rules(store: Store, rules: list[Any]) -> None:
    try:
        with translated_errors(), _content_md5(store, "PutBucketLifecycleConfiguration"):
            store.client.put_bucket_lifecycle_configuration(
                Bucket=store.bucket, LifecycleConfiguration={"Rules": rules}
            )
    except StoreError as error:
        raise _unknown_as(NO_LIFECYCLE, error) from error


@contextmanager
def _content_md5(store: Store, operation: str) -> Iterator[None]:
    """Send Content-MD5 with an operation, which every store accepts; boto3 would send a newer checksum."""
    event, events = f"before-call.s3.{operation}", store.client.meta.events
    events.register(event, _use_content_md5)
    try:
        yield
    finally:
        events.unregister(event, _use_content_md5)


def _use_content_md5(params: dict[str, Any], **_: object) -> None:
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()
    params["context"].pop("checksum", None)


def _unknown_as(sentence: str, error: StoreError) -> StoreError:
    is_unknown = error.s3_status in (HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.METHOD_NOT_ALLOWED)
    return StoreRefused(sentence) if is_unknown else error


def _public_read_policy(bucket: str) -> dict[str, Any]:
    statement = {
        "Sid": "PublicRead",
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{bucket}/*"],
    }
    return {"Version": "2012-10-17", "Statement": [statement]}
