"""Settings: read from a mapping, cast strictly, failing with the variable's name."""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self, get_type_hints

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError
from urllib3.util import parse_url

KIB = 1024
MIB = 1024 * KIB
FOLDER_PREFIX = re.compile(r"([A-Za-z0-9._-]+/)+", re.ASCII)
CLAMD = re.compile(r"unix:/.+|[^/]+:(?P<port>\d{1,5})", re.ASCII)
HOST_NAME = re.compile(r"[\w-]+(\.[\w-]+)*", re.ASCII)
MAX_PORT = 65_535
MIN_SECRET_BYTES = 32
ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::(?P<port>[1-9]\d{0,4}))?", re.ASCII
)
USUAL_PORTS = {"http": "80", "https": "443"}
CHECKSUM_MODES = ("auto", "crc64nvme", "readback")
ADDRESSING_STYLES = ("auto", "path", "virtual")
# As botocore takes them: other values would fail each request.
BUCKET_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}|arn:[!-~]+", re.ASCII)
REGION = re.compile(r"(?!\d+$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)
AUTH_MODES = ("required", "open")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LOG_FORMATS = ("json", "text")
LOG_LEVELS = ("debug", "info", "warning")
WEBHOOK_SECRET_PREFIX = "whsec_"


class ConfigError(click.ClickException, ValueError):
    """A setting is missing or invalid; `flask` reports it in one line."""


def _integer(text: str) -> int:
    if not re.fullmatch(r"\d+", text, re.ASCII):
        raise ValueError("a whole number")
    return int(text)


def _boolean(text: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
        raise ValueError("true or false")
    return known[text.lower()]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


CASTS: dict[Any, Callable[[str], Any]] = {
    int: _integer,
    bool: _boolean,
    Path: lambda text: Path(text).resolve(),
    tuple[str, ...]: _words,
}


def _at_least(minimum: int, default: int) -> int:
    """Declare a number with its default and its smallest value."""
    return field(default=default, metadata={"minimum": minimum})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting of Ferryman. `.env.example` explains each setting and its default."""

    AUTH: str = field(default="required", metadata={"choices": AUTH_MODES})
    KEY_REQUESTS_PER_MINUTE: int = _at_least(0, 6000)
    KEY_BYTES_PER_DAY: int = _at_least(0, 0)
    KEY_FILES_IN_FLIGHT: int = _at_least(0, 1000)
    KEY_PROCESS_SECONDS_PER_DAY: int = _at_least(0, 0)
    SUBJECT_REQUESTS_PER_MINUTE: int = _at_least(0, 600)
    SUBJECT_BYTES_PER_DAY: int = _at_least(0, 0)
    SUBJECT_FILES_IN_FLIGHT: int = _at_least(0, 100)
    TOKEN_SECRET: str | None = field(default=None, repr=False)
    TOKEN_SECRET_OLD: str | None = field(default=None, repr=False)
    JWT_JWKS_URL: str | None = None
    JWT_PUBLIC_KEY: str | None = None
    JWT_SECRET: str | None = field(default=None, repr=False)
    JWT_ISSUER: str | None = None
    JWT_AUDIENCE: str | None = None
    JWT_OWNER: str = ""
    JWT_SUBJECT_CLAIM: str = "sub"
    CORS_ORIGINS: tuple[str, ...] = ()
    PUBLIC_URL: str = ""
    TRUSTED_PROXIES: int = _at_least(0, 0)
    TRUSTED_HOSTS: tuple[str, ...] = ()
    S3_BUCKET_NAME: str
    S3_BUCKET_BASE_URL: str = ""
    S3_ENDPOINT_URL: str | None = None
    S3_PUBLIC_ENDPOINT_URL: str | None = None
    S3_KEY_PREFIX: str = ""
    S3_CHECKSUM_MODE: str = field(default="auto", metadata={"choices": CHECKSUM_MODES})
    S3_ADDRESSING_STYLE: str = field(default="auto", metadata={"choices": ADDRESSING_STYLES})
    AWS_REGION: str = "us-east-1"
    AWS_ACCESS_KEY: str | None = None
    AWS_ACCESS_SECRET: str | None = field(default=None, repr=False)
    SQLALCHEMY_DATABASE_URI: str = field(default=f"sqlite:///{Path('var/ferryman.db').resolve()}", repr=False)
    CELERY_BROKER_URL: str = field(default="redis://127.0.0.1:6379/0", repr=False)
    CELERY_RESULT_BACKEND: str | None = field(default=None, repr=False)
    CELERY_INLINE_MAX_BYTES: int = _at_least(0, 256 * KIB)
    MAX_CONTENT_LENGTH: int = _at_least(1, 5 * 1024 * MIB)
    UPLOAD_EXPIRES_SECONDS: int = field(default=24 * 3600, metadata={"minimum": 60, "maximum": 365 * 24 * 3600})
    UPLOADS_UNFINISHED: int = _at_least(1, 100)
    DIRECT: bool = False
    DIRECT_EXPIRES_SECONDS: int = field(default=900, metadata={"minimum": 60, "maximum": 7 * 24 * 3600})
    DIRECT_MAX_BYTES: int = _at_least(1, 5 * 1024 * MIB)
    ALLOWED_CONTENT_TYPES: tuple[str, ...] = ()
    DENIED_CONTENT_TYPES: tuple[str, ...] = ()
    CLAMD_ADDRESS: str = ""
    CLAMD_MAX_BYTES: int = _at_least(1, 100 * MIB)
    SPOOL_DIR: Path = field(default=Path("var/spool").resolve())
    SPOOL_MAX_BYTES: int = _at_least(0, 10 * 1024 * MIB)
    SPOOL_FSYNC: bool = False
    HOST: str = "127.0.0.1"
    PORT: int = field(default=5000, metadata={"minimum": 1, "maximum": MAX_PORT})
    WEB_CONCURRENCY: int = _at_least(1, 2)
    WEB_THREADS: int = _at_least(10, 128)
    CLIENT_PATIENCE_SECONDS: int = _at_least(1, 20)
    UPLOAD_THREADS: int = _at_least(1, 4)
    UPLOAD_BACKLOG: int = _at_least(1, 1000)
    LEASE_SECONDS: int = field(default=30, metadata={"minimum": 1, "maximum": 300})
    MAX_ATTEMPTS: int = _at_least(1, 2000)
    RETRY_WINDOW_SECONDS: int = _at_least(0, 24 * 3600)
    ERROR_RETENTION_SECONDS: int = _at_least(0, 7 * 24 * 3600)
    FILE_TTL_SECONDS: int = _at_least(0, 0)
    ROW_RETENTION_SECONDS: int = _at_least(0, 0)
    PRESETS_FILE: str = ""
    PROCESS_SLOTS: int = _at_least(0, 1)
    PROCESS_MEMORY_BYTES: int = _at_least(256 * MIB, 1536 * MIB)
    PROCESS_SECONDS: int = _at_least(1, 600)
    IMAGE_MAX_PIXELS: int = _at_least(1, 100_000_000)
    TABLE_MAX_BYTES: int = _at_least(1, 1024 * MIB)
    TABLE_MAX_UNPACKED_BYTES: int = _at_least(1, 2048 * MIB)
    TABLE_MAX_CELLS: int = _at_least(1, 200_000_000)
    TABLE_MAX_REJECTED_PERCENT: int = field(default=10, metadata={"minimum": 0, "maximum": 100})
    PROMETHEUS_MULTIPROC_DIR: str = ""
    LOG_FORMAT: str = field(default="json", metadata={"choices": LOG_FORMATS})
    LOG_LEVEL: str = field(default="info", metadata={"choices": LOG_LEVELS})
    WEBHOOK_URL: str | None = field(default=None, repr=False)
    WEBHOOK_SECRET: str | None = field(default=None, repr=False)

    @classmethod
    def of_process(cls) -> Self:
        """Read the settings of this process; a wrong one ends the process with a line that names the variable."""
        try:
            return cls.from_mapping(os.environ)
        except ConfigError as error:
            sys.exit(f"ferryman: {error}")

    @property
    def bind(self) -> str:
        """The address to listen on, with brackets around IPv6 (RFC 3986, section 3.2.2)."""
        host = self.HOST.strip("[]")
        return f"[{host}]:{self.PORT}" if ":" in host else f"{host}:{self.PORT}"

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach the address to listen on."""
        return self.HOST.strip("[]").lower() in LOOPBACK

    @classmethod
    def from_mapping(cls, source: Mapping[str, str]) -> Self:
        """Read the settings from environment-like text; an empty value counts as absent.

        NAME_FILE names a file that holds the value of NAME, as Docker and Kubernetes hand out secrets.

        Raises:
            ConfigError: a value is missing or wrong; the text names the variable.
        """
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for setting in fields(cls):
            text = _text(source, setting.name)
            if text:
                shown = f"what {setting.name}_FILE holds" if source.get(f"{setting.name}_FILE") else repr(text)
                values[setting.name] = _cast(setting, text, shown, CASTS.get(hints[setting.name], str))
            elif setting.default is MISSING:
                raise ConfigError(f"{setting.name} is missing, and has no default.")
        return cls(**values)

    def __post_init__(self) -> None:
        if bool(self.AWS_ACCESS_KEY) != bool(self.AWS_ACCESS_SECRET):
            raise ConfigError("AWS_ACCESS_KEY and AWS_ACCESS_SECRET must be set together.")
        if self.S3_KEY_PREFIX and not FOLDER_PREFIX.fullmatch(self.S3_KEY_PREFIX):
            raise ConfigError("S3_KEY_PREFIX must be folders such as uploads/ with a slash at the end.")
        if not all(map(_is_host, self.TRUSTED_HOSTS)):
            raise ConfigError("TRUSTED_HOSTS must be names or addresses with commas between them, without ports.")
        if self.CLAMD_ADDRESS and not _is_clamd(self.CLAMD_ADDRESS):
            raise ConfigError("CLAMD_ADDRESS must be host:port or unix:/path.")
        self._check_places()
        self._check_tokens()
        if not all(map(_is_origin, self.CORS_ORIGINS)):
            raise ConfigError(
                "CORS_ORIGINS must be * or origins such as https://app.example.com, as browsers send them:"
                " in lower case, without a path, a trailing dot or the usual port."
            )
        if self.WEBHOOK_URL and not _is_web_address(self.WEBHOOK_URL):
            raise ConfigError("WEBHOOK_URL must be an http:// or https:// address, without a user's name in it.")
        if self.WEBHOOK_URL and not _is_webhook_secret(self.WEBHOOK_SECRET or ""):
            raise ConfigError("WEBHOOK_SECRET must be whsec_ and the base64 of 24 to 64 random bytes.")

    def _check_places(self) -> None:
        for name in ("S3_ENDPOINT_URL", "S3_PUBLIC_ENDPOINT_URL"):
            if getattr(self, name) and not _is_web_address(getattr(self, name)):
                raise ConfigError(f"{name} must be an http:// or https:// address, without a user's name in it.")
        if self.PUBLIC_URL and not _is_web_address(self.PUBLIC_URL):
            raise ConfigError(
                "PUBLIC_URL must be the http:// or https:// address by which clients reach this service."
            )
        if not BUCKET_NAME.fullmatch(self.S3_BUCKET_NAME):
            raise ConfigError("S3_BUCKET_NAME must be the name or the ARN of a bucket.")
        if not REGION.fullmatch(self.AWS_REGION):
            raise ConfigError("AWS_REGION must be the name of a region, such as eu-central-1, auto or garage.")
        if not _has_driver(self.SQLALCHEMY_DATABASE_URI):
            raise ConfigError(
                "SQLALCHEMY_DATABASE_URI must be an address such as postgresql+psycopg://user@host/database"
                " of a database whose driver is installed."
            )
        if "://" not in self.CELERY_BROKER_URL:
            raise ConfigError("CELERY_BROKER_URL must be an address such as redis://host:6379/0.")

    def _check_tokens(self) -> None:
        for name in ("TOKEN_SECRET", "TOKEN_SECRET_OLD", "JWT_SECRET"):
            if 0 < len((getattr(self, name) or "").encode()) < MIN_SECRET_BYTES:
                raise ConfigError(f"{name} must have at least {MIN_SECRET_BYTES} bytes.")
        sources = [self.JWT_JWKS_URL, self.JWT_PUBLIC_KEY, self.JWT_SECRET]
        if len(sources) - sources.count(None) > 1:
            raise ConfigError("Only one of JWT_JWKS_URL, JWT_PUBLIC_KEY and JWT_SECRET must be set.")
        if any(sources) and not self.JWT_OWNER.strip():
            raise ConfigError("JWT_OWNER must name the owner of the files of those who come with a JWT.")
        if self.JWT_JWKS_URL and not _is_web_address(self.JWT_JWKS_URL):
            raise ConfigError("JWT_JWKS_URL must be an http:// or https:// address, without a user's name in it.")
        if self.JWT_PUBLIC_KEY and not _is_public_key(self.JWT_PUBLIC_KEY):
            raise ConfigError("JWT_PUBLIC_KEY must be a public key in PEM, such as JWT_PUBLIC_KEY_FILE may hold.")

    @property
    def takes_direct(self) -> bool:
        """True if clients may send bytes to the bucket themselves; what must be scanned first cannot go there."""
        return self.DIRECT and not self.CLAMD_ADDRESS

    @property
    def bucket_origins(self) -> tuple[str, ...]:
        """The origins whose pages send bytes to the bucket; all, where they do and nobody says which they are."""
        if not self.DIRECT:
            return self.CORS_ORIGINS
        url = parse_url(self.PUBLIC_URL)
        own = [f"{url.scheme}://{url.netloc}"] if url.host else []
        return tuple(dict.fromkeys([*self.CORS_ORIGINS, *own])) or ("*",)

    @property
    def takes_team_tokens(self) -> bool:
        """True if a team's own JWTs are credentials here."""
        return bool(self.JWT_JWKS_URL or self.JWT_PUBLIC_KEY or self.JWT_SECRET)

    @property
    def token_secrets(self) -> tuple[str, ...]:
        """The secrets that may have signed an upload token."""
        return tuple(secret for secret in (self.TOKEN_SECRET, self.TOKEN_SECRET_OLD) if secret)

    @property
    def addressing_style(self) -> str:
        """The addressing style of the bucket: `path` or `virtual`, or `auto` to leave it to boto3."""
        if self.S3_ADDRESSING_STYLE == "auto" and self.S3_ENDPOINT_URL:
            return "path"
        return self.S3_ADDRESSING_STYLE

    @property
    def bucket_base_url(self) -> str:
        """The start of all object URLs, without a trailing slash."""
        if self.S3_BUCKET_BASE_URL:
            return self.S3_BUCKET_BASE_URL.rstrip("/")
        endpoint = (self.S3_ENDPOINT_URL or f"https://s3.{self.AWS_REGION}.amazonaws.com").rstrip("/")
        if self.addressing_style == "path":
            return f"{endpoint}/{self.S3_BUCKET_NAME}"
        scheme, _, host = endpoint.rpartition("://")
        return f"{scheme}://{self.S3_BUCKET_NAME}.{host}"


def is_given(source: Mapping[str, str], name: str) -> bool:
    """Returns True if a setting has a value, or a file with one."""
    return bool(source.get(name) or source.get(f"{name}_FILE"))


def _text(source: Mapping[str, str], name: str) -> str:
    text, path = source.get(name, ""), source.get(f"{name}_FILE")
    if not path:
        return text
    if text:
        raise ConfigError(f"{name} and {name}_FILE must not both be set.")
    try:
        return Path(path).read_text().removesuffix("\n")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{name}_FILE names a file that cannot be read.") from None


def _cast(setting: Field[Any], text: str, shown: str, cast: Callable[[str], Any]) -> Any:
    try:
        value = cast(text)
    except ValueError as error:
        raise ConfigError(f"{setting.name} must be {error}, not {shown}.") from None
    if "minimum" in setting.metadata and value < setting.metadata["minimum"]:
        raise ConfigError(f"{setting.name} must be at least {setting.metadata['minimum']}, not {shown}.")
    if "maximum" in setting.metadata and value > setting.metadata["maximum"]:
        raise ConfigError(f"{setting.name} must be at most {setting.metadata['maximum']}, not {shown}.")
    if "choices" in setting.metadata and value not in setting.metadata["choices"]:
        known = ", ".join(setting.metadata["choices"])
        raise ConfigError(f"{setting.name} must be one of {known}, not {shown}.")
    return value


def _is_host(text: str) -> bool:
    try:
        return bool(ip_address(text))
    except ValueError:
        return HOST_NAME.fullmatch(text) is not None


def _is_clamd(text: str) -> bool:
    found = CLAMD.fullmatch(text)
    return found is not None and 0 < int(found["port"] or 1) <= MAX_PORT


def _is_web_address(text: str) -> bool:
    try:
        url = parse_url(text)
    except ValueError:
        return False
    return url.scheme in ("http", "https") and bool(url.host) and not url.auth


def _is_origin(text: str) -> bool:
    """Source: RFC 6454, section 6.1; browsers leave out the usual port."""
    if text == "*":
        return True
    found = ORIGIN.fullmatch(text)
    return (
        found is not None and int(found["port"] or 1) <= MAX_PORT and found["port"] != USUAL_PORTS[found["scheme"]]
    )


def _is_public_key(text: str) -> bool:
    try:
        load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def _has_driver(uri: str) -> bool:
    try:
        make_url(uri).get_dialect().import_dbapi()
    except (ArgumentError, ImportError):  # of SQLAlchemy's errors, NoSuchModuleError is an ArgumentError
        return False
    return True


def _is_webhook_secret(text: str) -> bool:
    """Source: https://www.standardwebhooks.com, "Signature scheme"."""
    try:
        key = base64.b64decode(text.removeprefix(WEBHOOK_SECRET_PREFIX), validate=True)
    except ValueError:
        return False
    return text.startswith(WEBHOOK_SECRET_PREFIX) and 24 <= len(key) <= 64
