"""Making boto3's clients."""

from __future__ import annotations

import os
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config as ClientConfig
from botocore.credentials import Credentials
from botocore.loaders import Loader, create_loader

from config import Config
from core.errors import StoreError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

CONNECT_SECONDS = 3
READ_SECONDS = 20
# Their answers have the media type of the object.
OF_OBJECTS = ("GetObject", "HeadObject")


class Clients:
    """The S3 clients of a process, each created on first use.

    Args:
        config: the settings.

    Source: https://boto3.amazonaws.com/v1/documentation/api/latest/guide/clients.html: threads may share a client,
    processes may not, and making clients in threads at once is not safe.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._clients: dict[tuple[int, bool], S3Client] = {}
        self._signer: S3Client | None = None

    def get(self, unsigned_payload: bool) -> S3Client:
        """Return the client that leaves bodies out of the signature, or the one that signs them."""
        with self._lock:
            name = (os.getpid(), unsigned_payload)
            if name not in self._clients:
                self._clients[name] = make_client(self._config, unsigned_payload=unsigned_payload)
            return self._clients[name]

    def signer(self) -> S3Client:
        """Return the client that signs links for the public address."""
        with self._lock:
            if self._signer is None:  # it never connects, so every process may use it
                self._signer = make_client(self._config, self._config.S3_PUBLIC_ENDPOINT_URL)
            return self._signer


def make_client(config: Config, endpoint: str | None = None, unsigned_payload: bool = True) -> S3Client:
    """Return a new boto3 client, which connects on its first call.

    Args:
        config: the settings.
        endpoint: the store's address; by default as in the settings.
        unsigned_payload: whether bodies may go without being hashed for the signature.

    Source: https://docs.aws.amazon.com/botocore/latest/reference/config.html
    """
    s3: Any = {
        "addressing_style": config.addressing_style,
        # The checksum's header is signed, so signing the payload too would only cost a second hash.
        "payload_signing_enabled": not unsigned_payload,
    }
    session = botocore.session.Session()
    session.register_component("data_loader", _loader())
    client = boto3.session.Session(botocore_session=session).client(
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
            s3=s3,
        ),
    )
    client.meta.events.register("after-call.s3", _refuse_web_pages)
    client.meta.events.register("before-call.s3.HeadBucket", _follow_no_redirect)
    return client


def make_credentials(config: Config) -> Credentials | None:
    """Return the credentials of the settings, or those that boto3 finds; None if there are none."""
    if config.AWS_ACCESS_KEY and config.AWS_ACCESS_SECRET:
        return Credentials(config.AWS_ACCESS_KEY, config.AWS_ACCESS_SECRET)
    return botocore.session.Session().get_credentials()


@cache
def _loader() -> Loader:
    """Return the loader of boto3's S3 model, which takes 0.1 s to read; later clients find it cached."""
    return create_loader()


def _refuse_web_pages(http_response: Any, model: Any, **_: object) -> None:
    """Raise on a web page with 200: another server answers at the store's address."""
    # The media type alone says nothing: some stores give text/html to empty answers and to XML.
    if model.name in OF_OBJECTS or http_response.status_code >= 300:
        return
    if http_response.content.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise StoreError("S3_ENDPOINT_URL answers with a web page: it is not an S3 endpoint.")


def _follow_no_redirect(params: Any, **_: object) -> None:
    """Keep boto3 from following redirects by HeadBucket, which may be redirected too, without end."""
    params["context"].setdefault("s3_redirect", {})["redirected"] = True
