"""The meaning of S3's errors: the sentence that names the cause, and if a retry may succeed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from core.errors import StoreError, StoreRefused, UploadError

log = logging.getLogger(__name__)

HEALING = {
    "BadDigest": "The bytes were damaged on their way to S3.",
    "ConditionalRequestConflict": "S3 is taking the same object twice.",
    "ExpiredToken": "The S3 credentials have expired.",
    "NoSuchUpload": "S3 has dropped the unfinished upload.",
    "OperationAborted": "S3 is busy with another request for the same object.",
    "RequestTimeout": "S3 did not receive the bytes in time.",
    "RequestTimeTooSkewed": "The clock is wrong.",
    "SlowDown": "S3 asks to slow down.",
    "XAmzContentSHA256Mismatch": "The bytes were damaged on their way to S3.",
}
HEALING_STATUSES = {
    307: "S3 redirects the request; check S3_ENDPOINT_URL and AWS_REGION.",
    408: "S3 did not receive the bytes in time.",
    425: "S3 asks to try again.",
    429: "S3 asks to slow down.",
}
NOT_IMPLEMENTED = 501
REFUSING = {
    "AccessDenied": "S3 denies access to the bucket.",
    "InvalidAccessKeyId": "S3 does not accept the credentials.",
    "NoSuchBucket": "The bucket does not exist.",
    "PreconditionFailed": "S3 holds other bytes under this key.",
    "SignatureDoesNotMatch": "S3 does not accept the credentials.",
}
REGION_CODES = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect", "301"}
# A HEAD answer has no body to name the error.
HEAD_CODES = {"403": "AccessDenied", "404": "NoSuchBucket", "412": "PreconditionFailed"}
MAX_MESSAGE = 300
MAX_RETRY_AFTER_SECONDS = 3600
SECRET = re.compile(r"(?:(?:Credential|Signature|X-Amz-[\w-]{1,40})=\S+)|(?=[A-Za-z/+=]*\d)[A-Za-z0-9/+=]{20,}")
REGION = re.compile(r"[a-z0-9-]{1,40}", re.ASCII)
EXPECTED_REGION = re.compile(r"expecting '([a-z0-9-]{1,40})'", re.ASCII)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn everything that boto3 raises into StoreError, also for answers that are not S3's.

    Wrap calls of boto3 only: an exception of our own in the block would be taken for S3's fault.

    Raises:
        StoreError: what failed may heal.
        StoreRefused: S3 will not do it.
    """
    try:
        yield
    except (UploadError, CancelledError):  # the second ends a transfer from our side, and botocore lets it pass
        raise
    except Exception as error:
        raise translate(error) from error


def translate(error: Exception) -> StoreError:
    """Return the StoreError for an exception of boto3.

    Args:
        error: what boto3 has raised.
    """
    if isinstance(error, ClientError):
        return _from_answer(error.response, error.operation_name)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StoreRefused("There are no S3 credentials.")
    if isinstance(error, BotoCoreError) and "Parse" not in type(error).__name__:
        return StoreError("S3 does not answer.")
    log.warning("S3 gave an answer that boto3 cannot read: %s", type(error).__name__)
    return StoreError("S3 returned an answer that cannot be parsed.")


def _from_answer(answer: Mapping[str, Any], operation: str) -> StoreError:
    found, metadata = answer.get("Error", {}), answer.get("ResponseMetadata", {})
    status, headers = int(metadata.get("HTTPStatusCode", 0)), metadata.get("HTTPHeaders", {})
    said = _plain(found.get("Code", "")) or str(status)
    code = HEAD_CODES.get(said, said)
    # Some stores give text/html to XML and to HEAD, so the type tells only where no error of S3 could be read.
    is_page = said.isdigit() and not operation.startswith("Head") and "html" in headers.get("content-type", "")
    message = _plain(found.get("Message", ""))
    facts: Any = {
        "code": code,
        "message": message,
        "s3_status": status,
        "retry_after": _seconds(headers.get("retry-after", "")),
    }
    heals = code in HEALING or status in HEALING_STATUSES or (status >= 500 and status != NOT_IMPLEMENTED)
    detail = _healing(code, status) if heals else _refusal(code, found, headers)
    if is_page:
        detail = f"S3_ENDPOINT_URL answers {status} with a web page, so it is no S3 that answers."
    if message and message not in detail:
        log.info("S3 answers %s %s: %s", status, code, message)
    return (StoreError if heals else StoreRefused)(detail, **facts)


def _healing(code: str, status: int) -> str:
    return HEALING.get(code) or HEALING_STATUSES.get(status) or "S3 returned a server error."


def _refusal(code: str, found: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    message = _plain(found.get("Message", ""))
    if code in REGION_CODES:
        return _wrong_region(code, message, found, headers)
    if code in REFUSING:
        return REFUSING[code]
    header = _plain(found.get("Header", ""))
    named = f"{code}, header {header}" if header else code
    return f"S3 refuses ({named}): {message}" if message else f"S3 refuses ({named})."


def _wrong_region(code: str, message: str, found: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    expected = EXPECTED_REGION.search(message)
    region = found.get("Region") or headers.get("x-amz-bucket-region") or (expected and expected[1]) or ""
    advice = f"set AWS_REGION={region}" if REGION.fullmatch(region) else "check AWS_REGION and S3_ENDPOINT_URL"
    said = f": {message}" if message else "."
    return f"The bucket is in another region or at another endpoint; {advice}. S3 refuses ({code}){said}"


def _plain(text: object) -> str:
    """Return S3's message as one bounded line, without control characters, keys and signatures."""
    line = " ".join("".join(char if char.isprintable() else " " for char in str(text or "")[:MAX_MESSAGE]).split())
    return SECRET.sub("...", line)


def _seconds(text: str) -> int | None:
    return min(int(text), MAX_RETRY_AFTER_SECONDS) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else None


def is_refusal(error: StoreError) -> bool:
    """Returns True if S3 has refused the request, whatever the name of the error."""
    status = error.s3_status
    return status == NOT_IMPLEMENTED or (300 <= status < 500 and status not in HEALING_STATUSES)
