"""reconcile and the sweep on listings that fail, or that are not what they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from click.testing import Result
from flask import Flask

from core.errors import StoreError
from core.services import services
from file import rename_file
from storage import bucket as buckets
from tests.conftest import running_app
from tests.kit import lying_proxy as lies
from tests.kit.lying_proxy import LyingProxy
from tests.kit.stack import BUCKET, KEY, SECRET, S3Server

OBJECTS = lies.operation("ListObjectsV2")
UPLOADS = lies.operation("ListMultipartUploads")


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[LyingProxy]:
    with LyingProxy(s3.port, KEY, SECRET) as proxy:
        yield proxy


@pytest.fixture
def app(env: dict[str, str], proxy: LyingProxy) -> Iterator[Flask]:
    proxy.tell(lies.honest)
    own = {"S3_ENDPOINT_URL": proxy.url, "S3_KEY_PREFIX": f"{uuid4().hex}/"}
    with running_app({**env, **own}) as app, app.app_context():
        yield app


@pytest.fixture
def key(app: Flask) -> str:
    """The key of an object without a row; under another one there is an unfinished upload."""
    store = services().store
    prefix = services().config.S3_KEY_PREFIX
    key = prefix + rename_file("a.txt")
    store.client.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    store.client.create_multipart_upload(Bucket=BUCKET, Key=prefix + rename_file("b.txt"))
    return key


def reconcile(app: Flask, *options: str) -> Result:
    return app.test_cli_runner().invoke(args=["reconcile", "--grace", "0", *options])


FAILS: dict[str, Callable[[lies.When], lies.Lie]] = {
    "501": lambda when: lies.refuse(501, "NotImplemented", "not here", when),
    "403": lambda when: lies.refuse(403, "AccessDenied", "no", when),
    "empty": lies.empty,
    "garbage": lies.garbage,
    "half": lies.half,
    "web page": lies.html,
    "redirect": lies.redirects_for_ever,
}


@pytest.mark.parametrize("kind", FAILS)
def test_a_listing_that_fails_does_not_hide_the_other(app: Flask, proxy: LyingProxy, key: str, kind: str) -> None:
    proxy.tell(FAILS[kind](UPLOADS))
    result = reconcile(app)
    assert result.exit_code == 1
    found, failed, total = result.output.splitlines()
    assert found == f"object without a row: {key} (would be mended by --apply)"
    assert failed.startswith("Unfinished uploads cannot be listed here: ")
    assert total == "1 found."
    proxy.tell(FAILS[kind](OBJECTS))
    result = reconcile(app)
    assert result.exit_code == 1
    failed, found, total = result.output.splitlines()
    assert failed.startswith("Objects cannot be listed here: ")
    assert found.startswith("unfinished upload that nobody works on: ")


@pytest.mark.parametrize("element", ["LastModified", "Initiated", "UploadId", "Size", "ETag"])
def test_a_listing_may_lack_a_field(app: Flask, proxy: LyingProxy, key: str, element: str) -> None:
    """What has no id or no known age is left alone."""
    proxy.tell(lies.leaves_out(element, lambda request: OBJECTS(request) or UPLOADS(request)))
    result = reconcile(app, "--apply")
    assert result.exit_code == 0, result.output
    left = {"LastModified": 1, "Initiated": 1, "UploadId": 1}.get(element, 2)
    assert result.output.splitlines()[-1] == f"{left} found."


def test_uploads_of_no_known_age_can_be_aborted(app: Flask, proxy: LyingProxy, key: str) -> None:
    store = services().store
    proxy.tell(lies.leaves_out("Initiated", UPLOADS))
    [upload] = buckets.multiparts(store, services().config.S3_KEY_PREFIX)
    buckets.abort_all(store, upload.key)
    assert not list(buckets.multiparts(store, services().config.S3_KEY_PREFIX))


@pytest.mark.parametrize("kind", FAILS)
def test_a_failing_listing_is_an_error_of_ours(app: Flask, proxy: LyingProxy, key: str, kind: str) -> None:
    proxy.tell(FAILS[kind](lambda request: OBJECTS(request) or UPLOADS(request)))
    store = services().store
    for listing in (buckets.objects, buckets.multiparts):
        with pytest.raises(StoreError):
            list(listing(store, services().config.S3_KEY_PREFIX))


def test_what_cannot_be_mended_is_told(app: Flask, proxy: LyingProxy, key: str) -> None:
    proxy.tell(lies.refuse(403, "AccessDenied", "no", lies.operation("DeleteObject")))
    result = reconcile(app, "--apply")
    assert result.exit_code == 1
    assert f"object without a row: {key} (not mended: S3 denies access to the bucket.)" in result.output
    assert "(mended)" in result.output
