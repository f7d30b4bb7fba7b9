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


def _parameter(place: str, name: str, schema: Piece, example: object = None) -> Piece:
    shown = {} if example is None else {"example": example}
    return {"in": place, "name": name, "description": schema.pop("description"), "schema": schema, **shown}


def _header(name: str, schema: Piece, example: object = None) -> Piece:
    return _parameter("header", name, schema, example)


def _query(name: str, schema: Piece, example: object = None) -> Piece:
    return _parameter("query", name, schema, example)


def _digest(name: str) -> Piece:
    about = "A digest of the whole body (RFC 9530), by sha-256 or sha-512; a body that differs is refused."
    return _header(name, text(about, pattern=DIGESTS))


PARAMETERS: dict[str, Piece] = {
    "FileId": _parameter("path", "file_id", text("The file's id."), FILE_ID) | {"required": True},
    "IdempotencyKey": _header(
        "Idempotency-Key",
        text(
            "A text of your choice. The same request sent again with it, within a week, is answered again and not"
            " done again; another request with it gets a 422, and one while the first still runs a 409.",
            pattern=r"^[!-~]([ -~]*[!-~])?$",
            minLength=1,
            maxLength=MAX_KEY,
        ),
    ),
    "ReprDigest": _digest("Repr-Digest"),
    "ContentDigest": _digest("Content-Digest"),
    "ContentMD5": _header(
        "Content-MD5",
        text("The MD5 of the whole body, in base64 (RFC 1864); a body that differs is refused."),
    ),
    "IfNoneMatch": _header(
        "If-None-Match", text("The ETag of the answer that you have; if it is still right, the answer is a 304.")
    ),
    "IfMatch": _header(
        "If-Match", text("The ETag of the only bytes that you want, or `*`; else the answer is a 412.")
    ),
    "IfModifiedSince": _header(
        "If-Modified-Since", text("A `Last-Modified` that you have; if it is still right, the answer is a 304.")
    ),
    "IfUnmodifiedSince": _header(
        "If-Unmodified-Since", text("A date; if the file was in S3 only later, the answer is a 412.")
    ),
    "Prefer": _header(
        "Prefer",
        text(
            "`wait=20` answers as soon as the file is not what your `If-None-Match` says (without one: what it is"
            f" now), or after so many seconds, {LONGEST_WAIT_SECONDS} at most (RFC 7240). A file that is in"
            " ERROR, or COMPLETE with its `sha256`, is answered at once."
        ),
    ),
    "Range": _header("Range", text("Which bytes, with `proxy=1`; several ranges are answered by the whole file.")),
    "IfRange": _header(
        "If-Range", text("The ETag or `Last-Modified` of the file whose range is asked for; else all of it comes.")
    ),
    "LastEventId": _header(
        "Last-Event-ID",
        text("The id of the last event that you saw; what came after is told first.", pattern="^([0-9]{1,18})?$"),
    ),
    "Proxy": _query("proxy", text("`1` for the bytes themselves instead of a redirect to S3.", enum=["1"])),
    **{name.title(): _query(name, dict(one.schema)) for name, one in listing.PARAMETERS.items()},
}

LIMITS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
SOMETIMES = (*LIMITS, "Preference-Applied")

HEADERS: dict[str, Piece] = {
    name: {"description": schema.pop("description"), "schema": schema, "required": name not in SOMETIMES}
    for name, schema in {
        "Location": text("The file's address.", f"/files/{FILE_ID}"),
        "ETag": text("Names this state of the answer, for `If-None-Match`.", '"5d41402abc4b2a76b9719d911017c592"'),
        "Retry-After": number("Seconds until it is worth another try.", 5),
        "WWW-Authenticate": text("How to say who you are.", 'Bearer realm="Ferryman"'),
        "RateLimit-Limit": number("How many requests a minute has for the owner of your key.", 6000),
        "RateLimit-Remaining": number("How many of them are left.", 5999),
        "RateLimit-Reset": number("Seconds until the minute is over.", 42),
        "Preference-Applied": text("The wait that was granted.", "wait=20"),
        "Content-Range": text("Which bytes these are, of how many.", "bytes 0-99/10485760"),
        "Content-Disposition": text(
            "Always a download, under the name that was sent.", "attachment; filename=a.pdf"
        ),
        "Accept-Ranges": text("Ranges can be asked for.", "bytes"),
        "Last-Modified": text("When the file was in S3.", "Wed, 25 Nov 2026 02:32:52 GMT"),
        "Cache-Control": text("Who may keep it.", "no-store"),
    }.items()
}

LINKS: dict[str, Piece] = {
    name: {"operationId": operation, "parameters": {"file_id": "$response.body#/id"}, "description": description}
    for name, (operation, description) in {
        "Status": ("getFile", "Where it stands."),
        "Events": ("watchFile", "What becomes of it."),
        "Content": ("getContent", "Its bytes, when it is COMPLETE."),
        "Retry": ("retryFile", "Try again, if it ended in ERROR."),
        "Delete": ("deleteFile", "Delete it."),
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
    ' "PROCESSING", "mode": "async", "bytes_sent": 0, "size": 10485760, "error": null, "url": null}\n\n'
)


def _answer(
    description: str,
    schema: str | Piece | None = None,
    example: object = None,
    *,
    headers: tuple[str, ...] = (),
    media_type: str = "application/json",
    links: bool = False,
) -> Piece:
    """Describe an answer; headers by their name, and besides them those of every answer to an owner."""
    answer: Piece = {"description": description, "headers": {name: name for name in (*headers, *LIMITS)}}
    if schema is not None:
        shown = {} if example is None else {"example": example}
        answer["content"] = {media_type: {"schema": schema, **shown}}
    if links:
        answer["links"] = {name: name for name in LINKS}
    return answer


def _public(description: str, schema: str | Piece, media_type: str = "application/json") -> Piece:
    """Describe an answer that anybody gets."""
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _page(description: str, schema: str) -> Piece:
    """Describe an answer that is a page for browsers, and JSON for all others."""
    page = {"schema": {"type": "string", "description": "A page."}}
    return {"description": description, "content": {"application/json": {"schema": schema}, "text/html": page}}


def _problem(status: HTTPStatus, description: str, detail: str, *headers: str) -> Piece:
    body = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}
    return _answer(description, "Problem", body, headers=headers, media_type="application/problem+json")


def _bytes(description: str, *headers: str) -> Piece:
    schema = {"type": "string", "contentMediaType": "application/octet-stream"}
    headers = (*headers, "Content-Disposition", "Cache-Control", "ETag", "Last-Modified")
    answer = _answer(description, schema, headers=headers, media_type="*/*")
    return _named_type(answer, "application/octet-stream", {"format": "binary"})


def _named_type(answer: Piece, media_type: str, more: Piece) -> Piece:
    """Give an answer of any media type one that generators of clients can go by; they pass over `*/*`."""
    [(any_type, content)] = answer["content"].items()
    named = {**content, "schema": {**content["schema"], **more}}
    return {**answer, "content": {media_type: named, any_type: content}}


_S = HTTPStatus
RESPONSES: dict[str, Piece] = {
    "Created": _answer("It is in S3.", "File", COMPLETE, headers=("Location",), links=True),
    "Accepted": _answer(
        "It is accepted, and will be in S3 whatever happens.", "File", ACCEPTED, headers=("Location",), links=True
    ),
    "Status": _answer("Where it stands.", "File", COMPLETE, headers=("ETag", "Preference-Applied")),
    "Page": _answer("A page of your files.", "FilePage", {"files": [COMPLETE], "next": None}, headers=("ETag",)),
    "NotModified": _answer("It is still what your `If-None-Match` says.", headers=("ETag",)),
    "Deleted": _answer("It is gone; its address answers 404 from now on."),
    "Redirect": _answer(
        "Its bytes are at this address in S3, for a minute.",
        {"type": "string", "description": "The same for readers."},
        headers=("Location", "Cache-Control"),
        media_type="text/html",
    ),
    "Bytes": _bytes("Its bytes.", "Accept-Ranges"),
    "SomeBytes": _bytes("The bytes that `Range` asks for.", "Accept-Ranges", "Content-Range"),
    "Stream": _answer(
        "Events, as they happen. A comment every 15 seconds says that the line is alive.",
        "StreamEvent",
        EVENT,
        headers=("Cache-Control",),
        media_type="text/event-stream",
    ),
    "NothingMore": _answer("It is COMPLETE or in ERROR, and you have seen that: do not come again."),
    "Index": _page("What this is, and where to go.", "Index"),
    "Help": _page("How to send a file there.", "Help"),
    "Metrics": _named_type(
        _answer("What was counted.", {"type": "string", "description": "Prometheus's format."}, media_type="*/*"),
        "text/plain",
        {},
    ),
    "Alive": _public("The process lives.", "Alive"),
    "Ready": _public("All parts answer.", "Readiness"),
    "NotReady": _public("A part does not answer.", "Readiness"),
    "Document": _public("This document.", {"type": "object", "description": "OpenAPI 3.1."}),
    "Manual": _public("This document, to read.", {"type": "string", "description": "A page."}, "text/html"),
    "InvalidUpload": _problem(
        _S.BAD_REQUEST,
        "It is not one well-formed upload: no file or several, an empty name, a form that is broken"
        " or cut off, a malformed header, or bytes that do not match a digest.",
        "The form has no file in the field 'file'.",
    ),
    "InvalidQuery": _problem(
        _S.BAD_REQUEST, "What it asks for makes no sense here.", "limit must be a number from 1 to 200."
    ),
    "Unauthorized": _problem(
        _S.UNAUTHORIZED,
        "There is no valid key in the request.",
        "Send a valid key, as in `Authorization: Bearer fm_...`.",
        "WWW-Authenticate",
    ),
    "Forbidden": _problem(
        _S.FORBIDDEN,
        "The key is for something else; or, in a service without keys, it comes from a page of another site.",
        "This key does not grant access to this endpoint.",
    ),
    "NotFound": _problem(_S.NOT_FOUND, "There is no such file, or it is not yours.", "File not found."),
    "Forgotten": _problem(
        _S.NOT_FOUND,
        "The file was deleted meanwhile, such as that of the earlier request with this `Idempotency-Key`.",
        "File not found.",
    ),
    "TooSlow": _problem(
        _S.REQUEST_TIMEOUT, "The client stalled or was too slow.", "The request body arrived too slowly."
    ),
    "Conflict": _problem(
        _S.CONFLICT,
        "The file, or another request with this `Idempotency-Key`, is in a state that does not allow it.",
        "The file is not in S3.",
    ),
    "LengthRequired": _problem(
        _S.LENGTH_REQUIRED,
        "Your uploads are counted, so the request must say how long it is.",
        "The request must have a Content-Length, since uploads count against a quota.",
    ),
    "TooLarge": _problem(
        _S.REQUEST_ENTITY_TOO_LARGE, "It is over a limit.", "The request body must not exceed 5368709120 bytes."
    ),
    "Unsupported": _problem(
        _S.UNSUPPORTED_MEDIA_TYPE,
        "The body is not multipart/form-data, or files of this type are not taken.",
        "Send the file as multipart/form-data.",
    ),
    "PreconditionFailed": _problem(
        _S.PRECONDITION_FAILED,
        "The file is not what `If-Match` or `If-Unmodified-Since` asks for.",
        "The file is not what If-Match names.",
    ),
    "NoSuchBytes": _problem(
        _S.REQUESTED_RANGE_NOT_SATISFIABLE,
        "The file has no such bytes.",
        "The requested range cannot be satisfied.",
        "Content-Range",
    ),
    "KeyReused": _problem(
        _S.UNPROCESSABLE_ENTITY,
        "The `Idempotency-Key` was used for another request; the form holds one chunk of a file, which is not"
        " joined with the others; or, in normal mode, the file is infected.",
        "This Idempotency-Key was used for another request.",
    ),
    "LimitReached": _problem(
        _S.TOO_MANY_REQUESTS,
        "You have done all you may for now: requests in a minute, bytes in a day, files on their way; or too many"
        " wrong keys came from your address.",
        "Rate limit exceeded: 6000 requests per minute.",
        "Retry-After",
    ),
    "ServerError": _problem(
        _S.INTERNAL_SERVER_ERROR, "A fault of the service.", "The server encountered an internal error."
    ),
    "StoreError": _problem(_S.BAD_GATEWAY, "S3 did not take or give the bytes.", "S3 does not answer."),
    "Busy": _problem(
        _S.SERVICE_UNAVAILABLE,
        "There is no room now, or the database does not answer.",
        "Too many files are waiting for S3; try again later.",
        "Retry-After",
    ),
}
