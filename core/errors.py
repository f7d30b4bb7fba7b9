"""The errors of uploads: what can go wrong, with the HTTP status and the sentence that the client gets."""

from __future__ import annotations

from http import HTTPStatus

CHECKSUM_MISMATCH = 460
"""A status of tus, which HTTP does not know (https://tus.io/protocols/resumable-upload#checksum)."""


class UploadError(Exception):
    """An upload was refused or failed, with a sentence for the client.

    Args:
        detail: one sentence, free of secrets and of foreign error texts.
        file_id: the File row that tells more, where there is one.
    """

    status: int = HTTPStatus.INTERNAL_SERVER_ERROR
    retry_after: int | None = None
    """After how many seconds it may be tried again, where that is known."""
    more: dict[str, object] | None = None
    """More members of the problem document."""
    ends_upload = False
    """True if it has ended a resumable upload, since no repetition would mend it."""

    def __init__(self, detail: str, file_id: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.file_id = file_id

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Additional response headers."""
        return [("Retry-After", str(self.retry_after))] if self.retry_after is not None else []


class InvalidUpload(UploadError):
    """The request is not one well-formed upload."""

    status = HTTPStatus.BAD_REQUEST


class BodyBroken(InvalidUpload):
    """The client has closed the connection before its request was complete, or its framing is malformed."""


class InvalidMetadata(InvalidUpload):
    """The metadata is not a flat object of texts, or too large."""


class InvalidQuery(UploadError):
    """The query string is not valid."""

    status = HTTPStatus.BAD_REQUEST


class InvalidBody(UploadError):
    """The JSON in the request's body is not what it must be."""

    status = HTTPStatus.BAD_REQUEST


class Unauthorized(UploadError):
    """The request has no valid credential."""

    status = HTTPStatus.UNAUTHORIZED
    challenge = 'Bearer realm="Ferryman"'

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Additional response headers."""
        return [("WWW-Authenticate", self.challenge)]


class Expired(Unauthorized):
    """The request's token was valid, and has expired.

    Source: RFC 6750, section 3.1.
    """

    challenge = 'Bearer realm="Ferryman", error="invalid_token", error_description="expired"'

    def __init__(self) -> None:
        super().__init__("The token has expired; fetch a new one.")


class Forbidden(UploadError):
    """The request is not allowed with this credential, for this host, or from this page."""

    status = HTTPStatus.FORBIDDEN


class TooSlow(UploadError):
    """The client stalls, or sends too slowly."""

    status = HTTPStatus.REQUEST_TIMEOUT


class UnsupportedUpload(UploadError):
    """The request, or the file in it, has a media type that is not accepted."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class EncodedUpload(UnsupportedUpload):
    """The request body is compressed or otherwise encoded.

    Source: RFC 9110, section 12.5.3: the answer names the codings that are taken.
    """

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Additional response headers."""
        return [("Accept-Encoding", "identity")]


class UploadTooLarge(UploadError):
    """The request is over a limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class Conflict(UploadError):
    """The File, or another request, is in a state that does not allow it."""

    status = HTTPStatus.CONFLICT


class ChunkedUpload(UploadError):
    """The request carries one chunk of a file; this service does not join chunks."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY

    def __init__(self) -> None:
        super().__init__(
            "This is one chunk of a file, and chunks sent as forms are not joined here; turn chunking off in the"
            " client, so that it sends the whole file, or resume uploads with tus (https://tus.io) at /uploads."
        )


class UnsafeInline(UploadError):
    """The file's type may run in a browser, so no link shows it inline."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class KeyReused(UploadError):
    """An Idempotency-Key came again with another request."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class LimitReached(UploadError):
    """The key's owner, or the address, has reached a limit.

    Args:
        detail: one sentence.
        retry_after: seconds until it may go on.
    """

    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class NotConfigured(UploadError):
    """The operator has not configured what the request needs."""

    status = HTTPStatus.NOT_IMPLEMENTED


class ProviderUnavailable(UploadError):
    """The keys of the identity provider cannot be read, so its tokens cannot be checked."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class LengthRequired(UploadError):
    """The request must have a Content-Length."""

    status = HTTPStatus.LENGTH_REQUIRED


class Busy(UploadError):
    """There is no room for the upload now; a retry may succeed."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class SpoolUnavailable(UploadError):
    """The spool folder is missing, unusable or another one. Its files wait until it is back."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class UploadLocked(UploadError):
    """Another request holds the upload, or it cannot be reached now; a retry may succeed."""

    status = HTTPStatus.LOCKED
    retry_after = 1


class WrongVersion(UploadError):
    """The client speaks no known version of tus."""

    status = HTTPStatus.PRECONDITION_FAILED


class UploadGone(UploadError):
    """The upload was terminated, has expired, or has lost its bytes."""

    status = HTTPStatus.GONE


class Interrupted(UploadError):
    """The body of a request ended early. What has arrived is kept; the client may go on there."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    retry_after = 0


class ChecksumMismatch(UploadError):
    """The bytes of a request are not those that their checksum is of; nothing of them is kept."""

    status = CHECKSUM_MISMATCH


class OffsetMismatch(UploadError):
    """The client wants to go on elsewhere than where the upload is.

    Args:
        offset: bytes that are here.
    """

    status = HTTPStatus.CONFLICT

    def __init__(self, offset: int) -> None:
        super().__init__(f"The upload is at byte {offset}.")
        self.offset = offset

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Additional response headers."""
        return [("Upload-Offset", str(self.offset))]


class NothingThere(Conflict):
    """S3 does not have the bytes that a client says it has sent, or not all of them."""


class NotAsAnnounced(UploadError):
    """What a client has sent to S3 is not what it had announced, so it is removed."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class BytesLost(UploadError):
    """The accepted bytes are lost; no retry brings them back."""


class Unprocessable(UploadError):
    """Nothing can be made of the file, for a reason in it."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class ProcessorDied(UploadError):
    """The process that works on a file died, or had to be ended; a second attempt may succeed."""


class ProofFailed(UploadError):
    """What was made of a file is not proven to be what is in it, so it is not kept."""


class Infected(UploadError):
    """The virus scanner has found something in the file."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class ScannerUnavailable(UploadError):
    """The scanner is unavailable. Nothing is delivered unscanned, so retry later."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class StoreError(UploadError):
    """S3 did not accept the bytes; a retry may succeed.

    Args:
        detail: one sentence, free of secrets.
        file_id: the File row that tells more, where there is one.
        code: S3's name for the error, where it has one.
        message: S3's own words for it, bounded and without keys.
        s3_status: the HTTP status of S3's answer; 0 if there was none.
        retry_after: after how many seconds S3 wants to be asked again, where it says so.
    """

    status = HTTPStatus.BAD_GATEWAY

    def __init__(
        self,
        detail: str,
        file_id: str | None = None,
        *,
        code: str = "",
        message: str = "",
        s3_status: int = 0,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(detail, file_id)
        self.code = code
        self.message = message
        self.s3_status = s3_status
        self.retry_after = retry_after


class StoreRefused(StoreError):
    """S3 refuses the bytes for good."""
