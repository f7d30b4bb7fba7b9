"""Components of the API document: parameters, headers, links and responses."""

from __future__ import annotations

from http import HTTPStatus

from events.long_poll import LONGEST_WAIT_SECONDS
from intake.idempotency import MAX_KEY
from openapi.schemas import FILE, FILE_ID, Piece, number, text
from web import listing

BASE64 = "[A-Za-z0-9+/=]*"
DIGESTS = rf"^([a-z0-9-]+=:{BASE64}:( *, *[a-z0-9-]+=:{BASE64}:)*)?$"
DIGEST_EXAMPLE = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:"


def parameter(place: str, name: str, schema: Piece, example: object = None) -> Piece:
    """Describe a parameter in a place of a request."""
    shown = {} if example is None else {"example": example}
    return {"in": place, "name": name, "description": schema.pop("description"), "schema": schema, **shown}


def header(name: str, schema: Piece, example: object = None) -> Piece:
    """Describe a header of a request."""
    return parameter("header", name, schema, example)


def _query(name: str, schema: Piece, example: object = None) -> Piece:
    return parameter("query", name, schema, example)


def _digest(name: str) -> Piece:
    about = "A digest of the whole body (RFC 9530), by sha-256 or sha-512; a body that does not match is refused."
    return header(name, text(about, pattern=DIGESTS))


PARAMETERS: dict[str, Piece] = {
    "FileId": parameter("path", "file_id", text("The file's id."), FILE_ID) | {"required": True},
    "IdempotencyKey": header(
        "Idempotency-Key",
        text(
            "A text of your choice. The same request with the same key gets the same answer within a week, and has"
            " no second effect; another request with it gets 422, and one while the first still runs 409.",
            pattern=r"^[!-~]([ -~]*[!-~])?$",
            minLength=1,
            maxLength=MAX_KEY,
        ),
    ),
    "ReprDigest": _digest("Repr-Digest"),
    "ContentDigest": _digest("Content-Digest"),
    "ContentMD5": header(
        "Content-MD5",
        text("The MD5 of the whole body, in base64 (RFC 1864); a body that does not match is refused."),
    ),
    "IfNoneMatch": header(
        "If-None-Match", text("The ETag of your copy; if it still matches, the response is 304.")
    ),
    "IfMatch": header(
        "If-Match", text("The ETag that the file must have, or `*`; otherwise the response is 412.")
    ),
    "IfModifiedSince": header(
        "If-Modified-Since", text("The `Last-Modified` of your copy; if it still matches, the response is 304.")
    ),
    "IfUnmodifiedSince": header(
        "If-Unmodified-Since", text("A date; if the file became COMPLETE later, the response is 412.")
    ),
    "Prefer": header(
        "Prefer",
        text(
            "`wait=20` answers as soon as the file is not what your `If-None-Match` says (without one: what it is"
            f" now), or after so many seconds, {LONGEST_WAIT_SECONDS} at most (RFC 7240). A file that is in"
            " ERROR, or COMPLETE with its `sha256`, is answered at once."
        ),
    ),
    "Range": header(
        "Range", text("The range of bytes, with `proxy=1`; a request for several ranges returns the whole file.")
    ),
    "IfRange": header(
        "If-Range",
        text("The ETag or `Last-Modified` that the file must have; otherwise the whole file is returned."),
    ),
    "LastEventId": header(
        "Last-Event-ID",
        text(
            "The id of the last event that you saw; the stream starts with the events after it.",
            pattern="^([0-9]{1,18})?$",
        ),
    ),
    "FileName": parameter("path", "name", text("The file's name.", minLength=1, maxLength=100), "report.pdf")
    | {"required": True},
    "GivenName": _query("name", text("The file's name, where the address and Content-Disposition have none.")),
    "ContentDisposition": header(
        "Content-Disposition", text("Gives the file's name, in `filename*` (RFC 6266) or `filename`.")
    ),
    "FerrymanMetadata": header(
        "Ferryman-Metadata",
        text("As the form's field `metadata`: a JSON object of texts, in UTF-8 or with escapes."),
    ),
    "FerrymanExpiresIn": header("Ferryman-Expires-In", text("As the form's field `expires_in`: seconds.")),
    "FerrymanProcess": header("Ferryman-Process", text("As the form's field `process`: names of presets.")),
    "Proxy": _query("proxy", text("`1` for the bytes themselves instead of a redirect to S3.", enum=["1"])),
    **{name.title(): _query(name, dict(one.schema)) for name, one in listing.PARAMETERS.items()},
}

BYTES: Piece = {"application/octet-stream": {"schema": {}}}
FORM: Piece = {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/Form"}}}
BODIES: dict[str, Piece] = {
    "File": {
        "description": "A form with the file; or, with any other type than a form's, the file itself as with PUT.",
        "required": True,
        "content": FORM,
    },
    "Bytes": {"description": "The file itself, with any type.", "content": BYTES},
}
"""What a request that uploads has in its body."""

LIMITS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
SOMETIMES = (*LIMITS, "Preference-Applied")

HEADERS: dict[str, Piece] = {
    name: {"description": schema.pop("description"), "schema": schema, "required": name not in SOMETIMES}
    for name, schema in {
        "Location": text("The file's address.", f"/files/{FILE_ID}"),
        "ETag": text("Names this state of the answer, for `If-None-Match`.", '"5d41402abc4b2a76b9719d911017c592"'),
        "Retry-After": number("Seconds until it is worth another try.", 5),
        "WWW-Authenticate": text("How to say who you are.", 'Bearer realm="Ferryman"'),
        "RateLimit-Limit": number("The number of requests per minute for the owner of your key.", 6000),
        "RateLimit-Remaining": number("The number of requests left in this minute.", 5999),
        "RateLimit-Reset": number("Seconds until the minute ends.", 42),
        "Preference-Applied": text("The wait that was granted.", "wait=20"),
        "Content-Range": text("The range of these bytes, and the size of the file.", "bytes 0-99/10485760"),
        "Content-Disposition": text("A download under the name of the file.", "attachment; filename=a.pdf"),
        "Accept-Ranges": text("Range requests are supported.", "bytes"),
        "Last-Modified": text("The time when the file became COMPLETE.", "Wed, 25 Nov 2026 02:32:52 GMT"),
        "Cache-Control": text("How the response may be cached.", "no-store"),
    }.items()
}

LINKS: dict[str, Piece] = {
    name: {"operationId": operation, "parameters": {"file_id": "$response.body#/id"}, "description": description}
    for name, (operation, description) in {
        "Status": ("getFile", "The file's status."),
        "Events": ("watchFile", "The file's events."),
        "Content": ("getContent", "The file's bytes, once it is COMPLETE."),
        "Retry": ("retryFile", "Retry a file in ERROR."),
        "Derivatives": ("addDerivatives", "Make more of the file, once it is COMPLETE."),
        "Delete": ("deleteFile", "Delete the file."),
    }.items()
}

ACCEPTED: Piece = {
    **{name: piece["examples"][0] for name, piece in FILE.items()},
    **{"upload_status": "PENDING", "bytes_sent": 0, "attempts": 0},
    **dict.fromkeys(("url", "sha256", "completed_at")),
}
COMPLETE: Piece = {name: piece["examples"][0] for name, piece in FILE.items()}
EVENT = (
    'retry: 2000\n\nid: 17\nevent: status\ndata: {"id": "' + FILE_ID + '", "name": "report.pdf", "upload_status":'
    ' "PROCESSING", "mode": "async", "bytes_sent": 0, "size": 10485760, "error": null, "url": null,'
    ' "metadata": {}}\n\n'
)


def answer(
    description: str,
    schema: str | Piece | None = None,
    example: object = None,
    *,
    headers: tuple[str, ...] = (),
    media_type: str = "application/json",
    links: bool = False,
) -> Piece:
    """Describe an answer; headers by their name, and besides them those of every answer to an owner."""
    found: Piece = {"description": description, "headers": {name: name for name in (*headers, *LIMITS)}}
    if schema is not None:
        shown = {} if example is None else {"example": example}
        found["content"] = {media_type: {"schema": schema, **shown}}
    if links:
        found["links"] = {name: name for name in LINKS}
    return found


def _public(description: str, schema: str | Piece, media_type: str = "application/json") -> Piece:
    """Describe an answer that anybody gets."""
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _page(description: str, schema: str) -> Piece:
    """Describe an answer that is a page for browsers, and JSON for all others."""
    page = {"schema": {"type": "string", "description": "A page."}}
    return {"description": description, "content": {"application/json": {"schema": schema}, "text/html": page}}


def problem(status: HTTPStatus, description: str, detail: str, *headers: str) -> Piece:
    """Describe an error."""
    body = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}
    return answer(description, "Problem", body, headers=headers, media_type="application/problem+json")


def _bytes(description: str, *headers: str) -> Piece:
    schema = {"type": "string", "contentMediaType": "application/octet-stream"}
    headers = (*headers, "Content-Disposition", "Cache-Control", "ETag", "Last-Modified")
    found = answer(description, schema, headers=headers, media_type="*/*")
    return _named_type(found, "application/octet-stream", {"format": "binary"})


def _named_type(found: Piece, media_type: str, more: Piece) -> Piece:
    """Give an answer of any media type one that generators of clients can go by; they pass over `*/*`."""
    [(any_type, content)] = found["content"].items()
    named = {**content, "schema": {**content["schema"], **more}}
    return {**found, "content": {media_type: named, any_type: content}}


_S = HTTPStatus
RESPONSES: dict[str, Piece] = {
    "Created": answer("The file is in S3.", "File", COMPLETE, headers=("Location",), links=True),
    "Accepted": answer(
        "The file is accepted and will be delivered to S3, whatever crashes.",
        "File",
        ACCEPTED,
        headers=("Location",),
        links=True,
    ),
    "Status": answer("The file, with its status.", "File", COMPLETE, headers=("ETag", "Preference-Applied")),
    "Page": answer("A page of your files.", "FilePage", {"files": [COMPLETE], "next": None}, headers=("ETag",)),
    "NotModified": answer("The file still matches `If-None-Match`.", headers=("ETag",)),
    "Deleted": answer("The file is deleted; its address answers 404 from now on."),
    "Redirect": answer(
        "A redirect to the bytes in S3; the link is valid for a minute.",
        {"type": "string", "description": "The same link for a reader."},
        headers=("Location", "Cache-Control"),
        media_type="text/html",
    ),
    "Bytes": _bytes("The file's bytes.", "Accept-Ranges"),
    "SomeBytes": _bytes("The requested range.", "Accept-Ranges", "Content-Range"),
    "Stream": answer(
        "Events as they happen, and a comment every 15 seconds as a sign of life.",
        "StreamEvent",
        EVENT,
        headers=("Cache-Control",),
        media_type="text/event-stream",
    ),
    "NothingMore": answer("The file is COMPLETE or in ERROR, and you have seen the last event: do not reconnect."),
    "Index": _page("The service and its endpoints.", "Index"),
    "Help": _page("How to upload a file here.", "Help"),
    "Token": answer("The token. It is shown only now.", "Token", headers=("Cache-Control",)),
    "Link": answer("The link.", "Link", headers=("Cache-Control",)),
    "Known": answer("All of this is made already, or on its way.", "File", COMPLETE, headers=("Location",)),
    "Report": answer(
        "What the making of the table has found.",
        {"type": "object", "description": "See docs/processing.md.", "additionalProperties": True},
        {"records": {"in": 116, "out": 115, "rejected": 0, "blank": 1, "preamble": 0}},
        headers=("Cache-Control",),
    ),
    "Edited": answer("The file as it is now.", "File", COMPLETE),
    "State": answer("The state of all parts.", "State"),
    "Metrics": _named_type(
        answer("All metrics.", {"type": "string", "description": "Prometheus's format."}, media_type="*/*"),
        "text/plain",
        {},
    ),
    "Alive": _public("The process lives.", "Alive"),
    "Ready": _public("All checks pass.", "Readiness"),
    "NotReady": _public("A check fails.", "Readiness"),
    "Document": _public("This document.", {"type": "object", "description": "OpenAPI 3.1."}),
    "Manual": _public("This document as a page.", {"type": "string", "description": "A page."}, "text/html"),
    "InvalidUpload": problem(
        _S.BAD_REQUEST,
        "The request is not one well-formed upload: no file or several, an empty name, a form that is malformed"
        " or cut off, a malformed header, or bytes that do not match a digest.",
        "The form has no file in the field 'file'.",
    ),
    "InvalidBody": problem(
        _S.BAD_REQUEST,
        "The JSON in the body is malformed, or says what it must not.",
        "expires_in must be a whole number from 60 to 86400.",
    ),
    "InvalidOptions": problem(
        _S.BAD_REQUEST,
        "There is no such preset, or a hint of it is not valid.",
        "There is no preset 'tumb' here; there are: thumb, orders.",
    ),
    "NotForm": problem(
        _S.UNSUPPORTED_MEDIA_TYPE,
        "The body is not a form, or a preset does not take files of this type.",
        "The preset thumb does not take files of type text/csv.",
    ),
    "BodyTooLarge": problem(
        _S.REQUEST_ENTITY_TOO_LARGE,
        "The body is longer than 64 KiB, a form longer than 8 KiB.",
        "The request body must not exceed 65536 bytes.",
    ),
    "NotJson": problem(_S.UNSUPPORTED_MEDIA_TYPE, "The body is not JSON.", "Send the body as application/json."),
    "UnsafeInline": problem(
        _S.UNPROCESSABLE_ENTITY,
        "`inline` is for files that a browser shows and cannot run.",
        "Only pictures, PDF, plain text, MP4 and MP3 are shown inline; use attachment.",
    ),
    "NotConfigured": problem(
        _S.NOT_IMPLEMENTED,
        "The operator has not configured what this needs.",
        "The operator has set no TOKEN_SECRET, so no token can be signed.",
    ),
    "InvalidQuery": problem(
        _S.BAD_REQUEST, "The query string is not valid.", "limit must be a number from 1 to 200."
    ),
    "Unauthorized": problem(
        _S.UNAUTHORIZED,
        "The request has no valid key, token or JWT; of one that has expired, `detail` says so.",
        "Send a valid key, as in `Authorization: Bearer fm_...`.",
        "WWW-Authenticate",
    ),
    "Forbidden": problem(
        _S.FORBIDDEN,
        "The credential does not grant access, or a token's limits do not allow the upload; or, in a service"
        " without keys, the request comes from a page of another origin.",
        "This credential does not grant access to this endpoint.",
    ),
    "NotFound": problem(_S.NOT_FOUND, "The file does not exist, or belongs to another owner.", "File not found."),
    "Forgotten": problem(
        _S.NOT_FOUND,
        "The file was deleted meanwhile, such as that of the earlier request with this `Idempotency-Key`.",
        "File not found.",
    ),
    "TooSlow": problem(
        _S.REQUEST_TIMEOUT, "The client stalled or was too slow.", "The request body arrived too slowly."
    ),
    "Conflict": problem(
        _S.CONFLICT,
        "The file, or another request with this `Idempotency-Key`, is in a state that does not allow it.",
        "The file is not in S3.",
    ),
    "LengthRequired": problem(
        _S.LENGTH_REQUIRED,
        "The request needs a Content-Length, since uploads count against a quota.",
        "The request must have a Content-Length, since uploads count against a quota.",
    ),
    "TooLarge": problem(
        _S.REQUEST_ENTITY_TOO_LARGE,
        "The request is too large.",
        "The request body must not exceed 5368709120 bytes.",
    ),
    "Unsupported": problem(
        _S.UNSUPPORTED_MEDIA_TYPE,
        "The body is url-encoded, compressed or of no type, or the media type of the file is not accepted.",
        "Send the file as multipart/form-data.",
    ),
    "PreconditionFailed": problem(
        _S.PRECONDITION_FAILED,
        "The file does not match `If-Match` or `If-Unmodified-Since`.",
        "The file is not what If-Match names.",
    ),
    "NoSuchBytes": problem(
        _S.REQUESTED_RANGE_NOT_SATISFIABLE,
        "The file does not have the requested range.",
        "The requested range cannot be satisfied.",
        "Content-Range",
    ),
    "KeyReused": problem(
        _S.UNPROCESSABLE_ENTITY,
        "The `Idempotency-Key` was used for another request; the form holds one chunk of a file, which is not"
        " joined with the others; or, in normal mode, the file is infected.",
        "This Idempotency-Key was used for another request.",
    ),
    "LimitReached": problem(
        _S.TOO_MANY_REQUESTS,
        "A limit is reached: requests per minute, bytes per day, files in flight; or too many invalid credentials"
        " came from your address.",
        "Rate limit exceeded: 6000 requests per minute.",
        "Retry-After",
    ),
    "ServerError": problem(
        _S.INTERNAL_SERVER_ERROR, "A fault of the service.", "The server encountered an internal error."
    ),
    "StoreError": problem(_S.BAD_GATEWAY, "S3 did not accept or return the bytes.", "S3 does not answer."),
    "Busy": problem(
        _S.SERVICE_UNAVAILABLE,
        "There is no room now, or the database does not answer.",
        "Too many files are waiting for S3; try again later.",
        "Retry-After",
    ),
}
