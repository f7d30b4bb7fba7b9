"""docs/aws.md: its policy is enough and no more than that, its lifecycle rule is the one that is set."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import boto3
import pytest
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count

from config import Config
from core.errors import StoreError
from storage import bucket
from storage.checksum import Crc64Nvme
from storage.s3.requests import ObjectInfo
from storage.section import Section
from storage.store import Store
from tests.conftest import running_app
from tests.kit.documents import json_of, prose
from tests.kit.stack import ROOT

POLICY = json_of("aws.md", "Statement")
ALLOWED = sorted({action for statement in POLICY["Statement"] for action in statement["Action"]})
# What boto3's calls need at AWS: https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html
ACTIONS = {
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "complete_multipart_upload": "s3:PutObject",
    "copy_object": "s3:PutObject",  # and s3:GetObject of the source
    "create_bucket": "s3:CreateBucket",
    "create_multipart_upload": "s3:PutObject",
    "delete_object": "s3:DeleteObject",
    "get_bucket_cors": "s3:GetBucketCORS",
    "get_bucket_lifecycle_configuration": "s3:GetLifecycleConfiguration",
    "get_object": "s3:GetObject",
    "head_bucket": "s3:ListBucket",
    "head_object": "s3:GetObject",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "list_objects_v2": "s3:ListBucket",
    "list_parts": "s3:ListMultipartUploadParts",
    "put_bucket_cors": "s3:PutBucketCORS",
    "put_bucket_lifecycle_configuration": "s3:PutLifecycleConfiguration",
    "put_bucket_policy": "s3:PutBucketPolicy",
    "put_object": "s3:PutObject",
    "upload_part": "s3:PutObject",
}
OPERATORS = {
    "make": "create-bucket",
    "lifecycle_rules": "set-lifecycle",
    "_put_rules": "set-lifecycle",
    "cors_rules": "set-cors",
    "set_cors": "set-cors",
}


def test_the_least_policy_allows_what_is_called_and_no_more() -> None:
    needed = actions_by_command()
    assert set(ALLOWED) == needed.pop("")
    text = prose(ROOT / "docs" / "aws.md")
    for command, actions in needed.items():
        [line] = [line for line in text.splitlines() if line.startswith(f"| `flask --app app {command}")][-1:]
        assert set(re.findall(r"`(s3:\w+)`", line)) == actions, command


def actions_by_command() -> dict[str, set[str]]:
    """What the code asks of S3: by the operator's command that does it, or under no name for the service."""
    needed: dict[str, set[str]] = {}
    for module in ("storage/s3/requests.py", "storage/bucket.py"):
        for function in ast.walk(ast.parse((ROOT / module).read_text())):
            if isinstance(function, ast.FunctionDef):
                calls = re.findall(r"client\.(?:get_paginator\(['\"])?(\w+)", ast.unparse(function))
                actions = {
                    ACTIONS[call]
                    for call in calls
                    if call not in ("exceptions", "generate_presigned_post", "get_paginator", "meta")
                }
                needed.setdefault(OPERATORS.get(function.name, ""), set()).update(actions)
    return needed


def test_the_lifecycle_rule_is_the_one_that_is_set(env: dict[str, str]) -> None:
    with running_app({**env, "S3_BUCKET_NAME": "lifecycle-of-the-docs"}) as app:
        store = app.extensions["ferryman"].store
        for command in ("create-bucket", "set-lifecycle"):
            assert app.test_cli_runner().invoke(args=[command]).exit_code == 0
        [rule] = store.client.get_bucket_lifecycle_configuration(Bucket=store.bucket)["Rules"]
        shown = json_of("aws.md", "AbortIncompleteMultipartUpload")
        assert {name: rule.get(name, shown[name]) for name in shown} == shown


@pytest.fixture
def at_aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cloud of moto's with the bucket; beyond what makes that, it asks for permission."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "operator")
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="your-bucket")
        yield


def store_of_a_user_without(missing: str) -> Store:
    """The store of a user who has the policy of the docs, but for one action."""
    # moto asks for an action that AWS does not have; there HeadBucket needs s3:ListBucket.
    extra = {"Effect": "Allow", "Action": ["s3:HeadBucket"], "Resource": "*"}
    statements = [
        {**statement, "Action": [action for action in statement["Action"] if action != missing]}
        for statement in [*POLICY["Statement"], extra]
    ]
    policy = {**POLICY, "Statement": [statement for statement in statements if statement["Action"]]}
    iam = boto3.client("iam", region_name="us-east-1")
    iam.create_user(UserName="ferryman")
    iam.put_user_policy(UserName="ferryman", PolicyName="ferryman", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="ferryman")["AccessKey"]
    settings = {"AWS_ACCESS_KEY": key["AccessKeyId"], "AWS_ACCESS_SECRET": key["SecretAccessKey"]}
    return Store(
        Config.from_mapping({**settings, "S3_BUCKET_NAME": "your-bucket", "S3_CHECKSUM_MODE": "readback"})
    )


def failures(store: Store, path: Path) -> list[str]:
    """Do all that a running service does, and tell what fails."""
    crc = Crc64Nvme()
    crc.update(b"hello")
    info = ObjectInfo("a.txt", "text/plain", 5, crc.text())
    path.write_bytes(b"hello")

    def in_parts() -> None:
        with path.open("rb") as file:
            upload_id = store.begin_parts("b.txt", "text/plain", store.features)
            part = store.put_part(
                "b.txt", upload_id, 1, Section(file.fileno(), 0, 5), info.crc64nvme, store.features
            )
            assert [one.size for one in store.sent_parts("b.txt", upload_id)] == [5]
            store.complete_parts(info._replace(key="b.txt"), upload_id, [part], store.features)

    works: dict[str, Callable[[], object]] = {
        "check": lambda: bucket.check(store),
        "put": lambda: store.put(BytesIO(b"hello"), info),
        "in parts": in_parts,
        "read": lambda: b"".join(store.read("a.txt", 0, 5)),
        "list": lambda: list(bucket.objects(store, "")),
        "abort": lambda: store.abort_parts("c.txt", store.begin_parts("c.txt", "text/plain", store.features)),
        "list unfinished": lambda: bucket.abort_all(store, "c.txt"),
        "delete": lambda: store.delete("a.txt"),
    }
    return [f"{name}: {reason}" for name, work in works.items() if (reason := failure(work))]


def failure(work: Callable[[], object]) -> str:
    try:
        work()
    except StoreError as error:
        return error.detail
    return ""


@pytest.mark.usefixtures("at_aws")
@pytest.mark.parametrize("missing", ["", *ALLOWED])
def test_the_least_policy_suffices_and_each_of_its_actions_is_needed(missing: str, tmp_path: Path) -> None:
    store = store_of_a_user_without(missing)
    failed = set_initial_no_auth_action_count(0)(failures)(store, tmp_path / "file")
    assert any("denies access" in reason for reason in failed) == bool(missing), failed
    assert missing or not failed
