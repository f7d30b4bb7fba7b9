"""Settings: strict, and naming the variable that is wrong."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from config import Config, ConfigError
from tests.kit.settings import READ_BY_CLIENT, READ_BY_OTHERS
from tests.kit.stack import ROOT

NEEDED = {"S3_BUCKET_NAME": "bucket"}


def test_only_the_bucket_is_needed() -> None:
    config = Config.from_mapping(NEEDED)
    assert config.bucket_base_url == "https://bucket.s3.us-east-1.amazonaws.com"
    assert config.CELERY_INLINE_MAX_BYTES == 256 * 1024


def test_an_endpoint_makes_the_base_url() -> None:
    config = Config.from_mapping({**NEEDED, "S3_ENDPOINT_URL": "http://localhost:8333/"})
    assert config.bucket_base_url == "http://localhost:8333/bucket"


def test_values_are_cast(tmp_path: Path) -> None:
    config = Config.from_mapping(
        {
            **NEEDED,
            "SPOOL_DIR": str(tmp_path),
            "SPOOL_FSYNC": "True",
            "UPLOAD_THREADS": "7",
            "ALLOWED_CONTENT_TYPES": "image/*, text/csv",
        }
    )
    assert tmp_path == config.SPOOL_DIR
    assert config.SPOOL_FSYNC is True
    assert config.UPLOAD_THREADS == 7
    assert config.ALLOWED_CONTENT_TYPES == ("image/*", "text/csv")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("S3_BUCKET_NAME", ""),
        ("SPOOL_FSYNC", "yes please"),
        ("UPLOAD_THREADS", "four"),
        ("UPLOAD_THREADS", "0"),
        ("UPLOAD_THREADS", "-1"),
        ("UPLOAD_THREADS", "\u0661"),
        ("LEASE_SECONDS", "1.5"),
        ("MAX_CONTENT_LENGTH", "10MB"),
        ("PUBLIC_URL", "files.example.com"),
        ("UPLOAD_EXPIRES_SECONDS", "59"),
        ("UPLOADS_UNFINISHED", "0"),
        ("DIRECT", "maybe"),
        ("DIRECT_EXPIRES_SECONDS", "59"),
        ("DIRECT_EXPIRES_SECONDS", "604801"),
        ("DIRECT_MAX_BYTES", "0"),
        ("S3_CHECKSUM_MODE", "crc32"),
        ("S3_KEY_PREFIX", "no-slash"),
        ("S3_KEY_PREFIX", "/absolute/"),
        ("AWS_ACCESS_KEY", "only-the-key"),
        ("AWS_ACCESS_SECRET", "only-the-secret"),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Config.from_mapping({**NEEDED, name: value})


def test_a_value_may_be_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n\n")
    (tmp_path / "number").write_text("7")
    config = Config.from_mapping(
        {
            **NEEDED,
            "AWS_ACCESS_KEY": "k",
            "AWS_ACCESS_SECRET": "",
            "AWS_ACCESS_SECRET_FILE": str(secret),
            "UPLOAD_THREADS_FILE": str(tmp_path / "number"),
        }
    )
    assert config.AWS_ACCESS_SECRET == "s3cret\n"
    assert config.UPLOAD_THREADS == 7


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named_by_its_variable(tmp_path: Path, content: bytes | None) -> None:
    secret = tmp_path / "secret"
    if content:
        secret.write_bytes(content)
    with pytest.raises(ConfigError, match="CELERY_BROKER_URL_FILE names a file that cannot be read"):
        Config.from_mapping({**NEEDED, "CELERY_BROKER_URL_FILE": str(secret)})


def test_a_value_and_a_file_are_too_much(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from-the-file")
    source = {**NEEDED, "CELERY_BROKER_URL": "redis://:s3cret@h", "CELERY_BROKER_URL_FILE": str(secret)}
    with pytest.raises(ConfigError, match="CELERY_BROKER_URL and CELERY_BROKER_URL_FILE") as raised:
        Config.from_mapping(source)
    assert "s3cret" not in str(raised.value)
    assert "from-the-file" not in str(raised.value)


def test_a_wrong_value_in_a_file_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("s3cret")
    with pytest.raises(ConfigError, match="UPLOAD_THREADS") as raised:
        Config.from_mapping({**NEEDED, "UPLOAD_THREADS_FILE": str(tmp_path / "number")})
    assert "s3cret" not in str(raised.value)


def test_secrets_do_not_show() -> None:
    secrets = {
        "AWS_ACCESS_KEY": "k",
        "AWS_ACCESS_SECRET": "s3cret",
        "SQLALCHEMY_DATABASE_URI": "postgresql://u:s3cret@h/d",
        "CELERY_BROKER_URL": "redis://:s3cret@h",
        "CELERY_RESULT_BACKEND": "redis://:s3cret@h",
    }
    assert "s3cret" not in repr(Config.from_mapping({**NEEDED, **secrets}))


def test_the_example_names_nothing_that_nobody_reads() -> None:
    example = (ROOT / ".env.example").read_text()
    named = set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]*)=", example, re.MULTILINE))
    assert named - {setting.name for setting in fields(Config)} == READ_BY_OTHERS
    for name in READ_BY_CLIENT:
        assert f'envvar="{name}"' in (ROOT / "ferryman" / "cli.py").read_text()


def test_the_example_has_every_setting_with_its_default() -> None:
    example = (ROOT / ".env.example").read_text()
    defaults = Config.from_mapping(NEEDED)
    for setting in fields(Config):
        line = re.search(rf"^(# )?{setting.name}=(.*)$", example, re.MULTILINE)
        assert line, f"{setting.name} is not in .env.example"
        shown, default = line.group(2), getattr(defaults, setting.name)
        if isinstance(default, bool | int):
            assert shown == str(default).lower(), setting.name


@pytest.mark.parametrize(
    ("host", "bind", "is_loopback"),
    [
        ("", "127.0.0.1:5000", True),
        ("localhost", "localhost:5000", True),
        ("::1", "[::1]:5000", True),
        ("[::1]", "[::1]:5000", True),
        ("::", "[::]:5000", False),
        ("0.0.0.0", "0.0.0.0:5000", False),
    ],
)
def test_the_address_to_listen_at(host: str, bind: str, is_loopback: bool) -> None:
    config = Config.from_mapping({**NEEDED, "HOST": host})
    assert (config.bind, config.is_loopback) == (bind, is_loopback)
