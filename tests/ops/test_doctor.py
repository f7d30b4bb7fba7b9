"""s3-doctor before a store that lies: what it calls safe, what it says is given up, and why it says no."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from click.testing import Result

from config import Config
from storage.store import Store
from tests.conftest import running_app
from tests.kit import lying_proxy as lies
from tests.kit.lying_proxy import LyingProxy
from tests.kit.stack import BUCKET, KEY, SECRET, S3Server

CONDITION = lies.header("If-None-Match")
CHECKSUM = lies.header("x-amz-checksum-", "x-amz-sdk-checksum-")
KEEP_OUT = "keep others out of the prefix"


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[LyingProxy]:
    with LyingProxy(s3.port, KEY, SECRET) as proxy:
        yield proxy


def flask(env: dict[str, str], proxy: LyingProxy, command: str, **settings: str) -> Result:
    own = {"S3_ENDPOINT_URL": proxy.url, "S3_KEY_PREFIX": f"{uuid4().hex}/", **settings}
    with running_app({**env, **own}) as app:
        return app.test_cli_runner().invoke(args=[command])


def left(s3: S3Server, prefix: str) -> list[str]:
    client = Store(Config.from_mapping(s3.settings)).client
    objects = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    uploads = client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix).get("Uploads", [])
    return [entry["Key"] for entry in (*objects, *uploads)]


# A lie, the mode that runs, and what the last line says; "Error" means exit code 1.
JUDGED: dict[str, tuple[Callable[[], lies.Lie], str, list[str]]] = {
    "honest": (lambda: lies.honest, "auto", ["Safe: S3_CHECKSUM_MODE=auto"]),
    "B2, auto": (
        lambda: lies.refuse(501, "NotImplemented", "not here", CONDITION),
        "auto",
        ["Safe", "If-None-Match is left out", KEEP_OUT],
    ),
    "B2, readback": (
        lambda: lies.refuse(501, "NotImplemented", "not here", CONDITION),
        "readback",
        ["Safe", KEEP_OUT],
    ),
    "400 to the condition": (
        lambda: lies.refuse(400, "InvalidArgument", "what is that", CONDITION),
        "auto",
        ["Safe", KEEP_OUT],
    ),
    "overwrites": (lambda: lies.ignores("If-None-Match"), "auto", ["Safe", KEEP_OUT]),
    "no checksums": (lambda: lies.keeps_no_checksum, "auto", ["Safe: S3_CHECKSUM_MODE=auto"]),
    "refuses checksums": (
        lambda: lies.refuse(400, "InvalidArgument", "unsupported", CHECKSUM),
        "auto",
        ["Safe", "x-amz-checksum-crc64nvme is left out"],
    ),
    "composite": (lambda: lies.composite_checksum, "auto", ["Safe: S3_CHECKSUM_MODE=auto"]),
    "echo, auto": (lies.echoes_checksums, "auto", ["Error: No mode is safe"]),
    "flips, readback": (lambda: lies.flips_last_byte, "readback", ["Error: No mode is safe"]),
    "stores nothing": (lambda: lies.stores_nothing, "auto", ["Error: No mode is safe"]),
    "no disposition": (
        lambda: lies.refuse(501, "NotImplemented", "not here", lies.header("content-disposition")),
        "auto",
        ["Safe", "Content-Disposition is left out"],
    ),
    "region": (lambda: lies.wants_region("garage"), "auto", ["Error", "AWS_REGION=garage"]),
    "virtual style": (lambda: lies.wants_virtual_style(BUCKET), "auto", ["Error", "SecondLevelDomainForbidden"]),
}


@pytest.mark.parametrize("name", JUDGED)
def test_the_doctor_judges(env: dict[str, str], proxy: LyingProxy, s3: S3Server, name: str) -> None:
    lie, mode, words = JUDGED[name]
    proxy.tell(lie())
    prefix = f"{uuid4().hex}/"
    result = flask(env, proxy, "s3-doctor", S3_CHECKSUM_MODE=mode, S3_KEY_PREFIX=prefix)
    last = result.output.splitlines()[-1]
    assert result.exit_code == (1 if words[0].startswith("Error") else 0), result.output
    assert all(word in last for word in words), result.output
    assert "Traceback" not in result.output
    proxy.tell(lies.honest)
    assert left(s3, prefix) == [] or name == "stores nothing"  # it forgets to end uploads in parts


def test_a_mode_that_is_not_safe_is_named_with_the_one_to_set(env: dict[str, str], proxy: LyingProxy) -> None:
    """A store that gives back checksums nobody has looked at."""
    echo = lies.echoes_checksums(flips=False)
    proxy.tell(echo)
    result = flask(env, proxy, "s3-doctor", S3_CHECKSUM_MODE="crc64nvme")
    assert result.exit_code == 1
    assert "NO   damage on the way is noticed (one request): " in result.output
    assert result.output.splitlines()[-1] == "Error: You run crc64nvme: set S3_CHECKSUM_MODE=readback."
    assert flask(env, proxy, "s3-doctor", S3_CHECKSUM_MODE="auto").exit_code == 0


def test_where_nothing_is_taken_nothing_else_is_said(env: dict[str, str], proxy: LyingProxy) -> None:
    proxy.tell(lies.refuse(403, "AccessDenied", "read only", lies.operation("PutObject", "CreateMultipartUpload")))
    result = flask(env, proxy, "s3-doctor")
    assert result.exit_code == 1
    assert "NO   takes a file in one request: S3 denies access to the bucket." in result.output
    assert "damage" not in result.output
    assert "overwritten" not in result.output


CONVENIENCES: dict[str, tuple[lies.Lie, str]] = {
    "uploads": (
        lies.refuse(501, "NotImplemented", "not here", lies.operation("ListMultipartUploads")),
        "lists unfinished uploads: S3 refuses (NotImplemented)",
    ),
    "lifecycle": (
        lies.refuse(501, "NotImplemented", "no", lies.operation("GetBucketLifecycleConfiguration")),
        "has lifecycle rules: This store has no lifecycle rules.",
    ),
    "link": (
        lies.refuse(403, "AccessDenied", "no", lambda request: "X-Amz-Signature" in request.target),
        "a link downloads, under the file's name: Links answer 403; use ?proxy=1.",
    ),
    "type": (lies.ignores("content-type"), "keeps the media type: It is "),
}


@pytest.mark.parametrize("name", CONVENIENCES)
def test_what_is_only_a_convenience_is_no_failure(env: dict[str, str], proxy: LyingProxy, name: str) -> None:
    lie, words = CONVENIENCES[name]
    proxy.tell(lie)
    result = flask(env, proxy, "s3-doctor")
    assert result.exit_code == 0, result.output
    assert f"  no   {words}" in result.output


NO_CORS = "Error: This store has no CORS rules.\n"


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (lies.refuse(501, "NotImplemented", "no", lies.operation("GetBucketCors", "PutBucketCors")), NO_CORS),
        (lies.refuse(501, "NotImplemented", "no", lies.operation("PutBucketCors")), NO_CORS),
        (lies.empty(lies.operation("PutBucketCors")), NO_CORS),
        (
            lies.refuse(403, "AccessDenied", "no", lies.operation("PutBucketCors")),
            "Error: S3 denies access to the bucket.\n",
        ),
        (lies.refuse(501, "NotImplemented", "no", lies.writes_with("x-amz-checksum-", "x-amz-sdk-")), ""),
    ],
)
def test_set_cors_says_what_is_wrong(env: dict[str, str], proxy: LyingProxy, lie: lies.Lie, said: str) -> None:
    name = f"cors-{uuid4().hex}"
    proxy.tell(lies.honest)
    assert flask(env, proxy, "create-bucket", S3_BUCKET_NAME=name).exit_code == 0
    proxy.tell(lie)
    result = flask(env, proxy, "set-cors", S3_BUCKET_NAME=name)
    assert (result.exit_code, result.output) == (1 if said else 0, said)


NO_LIFECYCLE = "Error: This store has no lifecycle rules.\n"
GET, PUT = "GetBucketLifecycleConfiguration", "PutBucketLifecycleConfiguration"


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (lies.refuse(501, "NotImplemented", "no", lies.operation(GET, PUT)), NO_LIFECYCLE),
        (lies.refuse(501, "NotImplemented", "no", lies.operation(PUT)), NO_LIFECYCLE),
        (lies.refuse(405, "MethodNotAllowed", "no", lies.operation(PUT)), NO_LIFECYCLE),
        (lies.empty(lies.operation(GET)), NO_LIFECYCLE),
        (lies.empty(lies.operation(PUT)), NO_LIFECYCLE),
        (lies.refuse(403, "AccessDenied", "no", lies.operation(PUT)), "Error: S3 denies access to the bucket.\n"),
        (lies.refuse(501, "NotImplemented", "no", lies.writes_with("x-amz-checksum-", "x-amz-sdk-")), ""),
    ],
)
def test_set_lifecycle_says_what_is_wrong(
    env: dict[str, str], proxy: LyingProxy, lie: lies.Lie, said: str
) -> None:
    name = f"lifecycle-{uuid4().hex}"
    proxy.tell(lies.honest)
    assert flask(env, proxy, "create-bucket", S3_BUCKET_NAME=name).exit_code == 0
    proxy.tell(lie)
    result = flask(env, proxy, "set-lifecycle", S3_BUCKET_NAME=name)
    assert (result.exit_code, result.output) == (1 if said else 0, said)
