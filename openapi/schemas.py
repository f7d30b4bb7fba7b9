"""Schemas of the API document: files, events, problems and forms."""

from __future__ import annotations

from typing import Any

from access.principal import USER_GRANTS
from access.tokens import LEAST_SECONDS, MAX_SUBJECT, MOST_SECONDS
from core.metadata import MAX_NAMES
from intake.forms.form import FIELD
from intake.forms.parser import FORM_MAX_PARTS
from models import PROGRESS, STATUS, Mode, UploadStatus
from web.links import DISPOSITIONS
from web.links import MOST_SECONDS as LINK_MOST
from web.links import USUAL_SECONDS as LINK_SECONDS
from web.listing import MAX_PAGE

Piece = dict[str, Any]

TOKEN_GRANTS = sorted(USER_GRANTS)

FILE_ID = "bf15c1ea74ca63e8d3f7e858dee93dcd"
KEY = "20261125023251--report-a0b622e25cb34d60.pdf"
SHA256 = "838f7af82e7a31e53e54f7a47c9ac9da2abcb95f433417ddc1bfd60753cafe12"
MOMENT = "2026-11-25T02:32:52.026862Z"


def text(description: str, *examples: str | None, **more: Any) -> Piece:
    """Describe a text."""
    return {"type": "string", "description": description, **_shown(examples), **more}


def number(description: str, *examples: int, **more: Any) -> Piece:
    """Describe a whole number that is not negative."""
    return {"type": "integer", "description": description, "minimum": 0, **_shown(examples), **more}


def or_null(piece: Piece) -> Piece:
    """Allow null as well."""
    values = {"enum": [*piece["enum"], None]} if "enum" in piece else {}
    return {**piece, "type": [piece["type"], "null"], **values}


def record(description: str, fields: Piece, optional: tuple[str, ...] = ()) -> Piece:
    """Describe an object with these fields and no others."""
    return {
        "type": "object",
        "description": description,
        "properties": fields,
        "required": [name for name in fields if name not in optional],
        "additionalProperties": False,
    }


def _list(description: str, example: list[str], values: list[str] | None = None) -> Piece:
    items: Piece = {"type": "string"} | ({"enum": values} if values else {})
    bounds = {"minItems": 1, "maxItems": 50}
    return {"type": "array", "description": description, "items": items, "examples": [example], **bounds}


def _shown(examples: tuple[Any, ...]) -> Piece:
    return {"examples": list(examples)} if examples else {}


METADATA: Piece = {
    "type": "object",
    "description": f"Your own words beside the file; at most {MAX_NAMES} names, and 4 KiB as JSON.",
    "additionalProperties": {"type": "string"},
    "maxProperties": MAX_NAMES,
    "examples": [{"order": "17"}],
}

FILE: Piece = {
    "id": text("The file's id, as in every address.", FILE_ID),
    "name": text("The file's name, as it was sent.", "report.pdf"),
    "upload_status": text(
        "The status of the upload. COMPLETE is final.", "COMPLETE", enum=[str(one) for one in UploadStatus]
    ),
    "mode": text("How the file is delivered to S3.", "async", enum=list(Mode)),
    "url": or_null(
        text("The object's address in S3; null until COMPLETE.", f"https://files.s3.amazonaws.com/{KEY}")
    ),
    "key": text("The object's key in the bucket.", KEY),
    "size": number("The size in bytes.", 10_485_760),
    "content_type": text("The media type, as declared or else guessed from the name.", "application/pdf"),
    "detected_type": text("The media type detected from the first bytes.", "application/pdf"),
    "sha256": or_null(
        text(
            "The SHA-256 in hexadecimal; null until it is known: from the start if the request had an"
            " Idempotency-Key or the file's part a sha-256 digest, else when the file is COMPLETE; of a file of"
            " 16 MiB or more in normal mode soon after that, and `Prefer: wait` waits for it.",
            SHA256,
        )
    ),
    "bytes_sent": number("The number of bytes sent to S3.", 10_485_760),
    "attempts": number("The number of delivery attempts.", 1),
    "error": or_null(text("The reason why the file is not in S3, in one sentence; else null.", None)),
    "created_at": text("The time of acceptance (RFC 3339, UTC).", MOMENT, format="date-time"),
    "updated_at": text("The time of the last change.", MOMENT, format="date-time"),
    "completed_at": or_null(
        text("The time when the file became COMPLETE; null until then.", MOMENT, format="date-time")
    ),
    "subject": or_null(text("The user whose file it is; null for a file of the account itself.", "42")),
    "metadata": METADATA,
    "expires_at": or_null(text("When the file will be deleted; null for never.", None, format="date-time")),
}
PROCESS = text(
    "Names of presets, with commas between them or each in a field of its own; of a table perhaps with hints."
    " `none` for nothing; without this field the operator's rules decide.",
    "thumb,orders?delimiter=%3B&header=2",
    pattern="^[ -~]*$",
)
SUMMARY: Piece = {
    "type": ["object", "null"],
    "description": "What the making has found: sizes of an image, records and columns of a table.",
    "additionalProperties": True,
    "examples": [None],
}
PRESET = text("The preset that it was made by.", "thumb")
OUTPUT = text(
    "What it is: an image's `variant`, a table's `part`, its `rejected` rows, the `report` of them.",
    "variant",
    enum=["variant", "part", "rejected", "report"],
)
DERIVATIVE: Piece = {
    "id": or_null(text("The id of its own File; null until the original is COMPLETE.", FILE_ID)),
    "preset": PRESET,
    "output": OUTPUT,
    "upload_status": FILE["upload_status"],
    **{name: or_null(FILE[name]) for name in ("name", "key", "size", "content_type")},
    "url": FILE["url"],
    "error": or_null(text("The reason why it was not made, or is not in S3; else null.", None)),
    "summary": SUMMARY,
}
STATUS_OF_ALL = text(
    "The status of all derivatives together; null without any.",
    None,
    enum=[str(one) for one in UploadStatus],
)
FILE |= {
    "process": {
        "type": "array",
        "description": "The presets that are made of the file.",
        "items": {"type": "string"},
        "examples": [[]],
    },
    "derivatives_status": or_null(STATUS_OF_ALL),
    "derivatives": {
        "type": "array",
        "description": "What is made of the file.",
        "items": "Derivative",
        "examples": [[]],
    },
    "parent_id": or_null(text("The original that it was made of; null of an upload.", None)),
    "preset": or_null({**PRESET, "examples": [None]}),
    "output": or_null({**OUTPUT, "examples": [None]}),
    "summary": SUMMARY,
}
EVENT: Piece = {
    **{
        name: FILE[name]
        for name in ("id", "name", "upload_status", "mode", "bytes_sent", "size", "error", "url", "metadata")
    },
    **{name: or_null(FILE[name]) for name in ("name", "mode", "size")},
}
CHECK = text("The result of the check.", "ok", enum=["ok", "failed"])
ACCEPTING_PARTS = ("database", "spool")
PARTS = (*ACCEPTING_PARTS, "bucket", "broker", "loops", "scanner")

SCHEMAS: dict[str, Piece] = {
    "File": record("An upload and its status.", FILE),
    "Derivative": record("Something that is made of a file.", DERIVATIVE),
    "FilePage": record(
        "A page of your files.",
        {
            "files": {"type": "array", "description": "Newest first.", "items": "File", "maxItems": MAX_PAGE},
            "next": or_null(text("The address of the next page; null on the last one.", "/files?cursor=MjAyNi0x")),
        },
    ),
    "Event": record(
        "The JSON in the `data` line of an event; `name`, `mode` and `size` are null once the file is deleted.",
        EVENT,
    ),
    "StreamEvent": record(
        "One event of a stream (Server-sent events).",
        {
            "id": text("The event's number, for `Last-Event-ID`.", "17", pattern="^[0-9]+$"),
            "event": text(
                "`status` when the status has changed, `progress` while the bytes go to S3.",
                "status",
                enum=[STATUS, PROGRESS],
            ),
            "data": text(
                "An Event, as JSON.",
                contentMediaType="application/json",
                contentSchema={"$ref": "#/components/schemas/Event"},
            ),
        },
    ),
    "Problem": record(
        "A problem (RFC 9457).",
        {
            "type": text("Always `about:blank`: the status tells the kind of the problem.", "about:blank"),
            "title": text("The status in words.", "Conflict"),
            "status": number("The status.", 409, minimum=400, maximum=599),
            "detail": text("The problem, in one sentence.", "The file is not in S3."),
            "file_id": text("The id of the file that the problem concerns.", FILE_ID),
        },
        optional=("detail", "file_id"),
    ),
    "Form": {
        "type": "object",
        "description": f"One file, in the field `{FIELD}`; others are skipped, {FORM_MAX_PARTS} in all at most.",
        "properties": {
            FIELD: text(
                "The file: a part with a filename. The part's own header may carry"
                " `Content-Type`, `Repr-Digest`, `Content-Digest` and `Content-MD5`, for the file alone.",
                format="binary",
            ),
            "metadata": text(
                "Your own words beside the file: a flat JSON object of strings, before or after the file.",
                '{"order": "17"}',
            ),
            "expires_in": text("Seconds after which the file is deleted.", "86400", pattern="^[0-9]{0,12}$"),
            "process": PROCESS,
        },
        "required": [FIELD],
    },
    "ProcessForm": {
        "type": "object",
        "description": "What to make of a file.",
        "properties": {"process": PROCESS},
        "required": ["process"],
    },
    "Edit": {
        "type": "object",
        "description": "A merge patch (RFC 7396): what is not named stays, null removes a name of the metadata.",
        "properties": {
            "name": text("The shown name; key and bytes stay.", "invoice.pdf", minLength=1),
            "metadata": {
                "type": ["object", "null"],
                "description": "The names to change; null removes all.",
                "additionalProperties": {"type": ["string", "null"]},
                "examples": [{"order": "18"}],
            },
        },
        "minProperties": 1,
        "additionalProperties": False,
    },
    "TokenRequest": {
        "type": "object",
        "description": "For whom the token is, and what its holder may do.",
        "properties": {
            "subject": text(
                "The user, in your own words; they see only their own files. Without one the token is for the"
                " whole account.",
                "42",
                minLength=1,
                maxLength=MAX_SUBJECT,
            ),
            "expires_in": number(
                "Seconds for which it is valid.", 900, minimum=LEAST_SECONDS, maximum=MOST_SECONDS
            ),
            "grants": _list(
                "What it opens; by default to upload and to read.", ["upload", "read"], list(TOKEN_GRANTS)
            ),
            "max_bytes": number("The largest file, in bytes.", 5_000_000, minimum=1),
            "max_files": number("How many files it uploads in all.", 1, minimum=1),
            "content_types": _list("Media types that it uploads.", ["image/*"]),
            "modes": _list("Modes in which it uploads.", ["async"], list(Mode)),
            "process": _list("Presets that it may ask for.", ["thumb"]),
            "metadata": METADATA,
            "file_expires_in": number(
                "Seconds after which its files are deleted, at the latest.", 86_400, minimum=1
            ),
        },
        "additionalProperties": False,
    },
    "Token": record(
        "An upload token.",
        {
            "token": text(
                "To be sent as `Authorization: Bearer ...`.", "fmu_eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"
            ),
            "expires_at": text("When it ends.", MOMENT, format="date-time"),
        },
    ),
    "LinkRequest": {
        "type": "object",
        "description": "For how long the link shall work, and what a browser shall do with it.",
        "properties": {
            "expires_in": number(
                "Seconds for which it works.", LINK_SECONDS, minimum=1, maximum=LINK_MOST, default=LINK_SECONDS
            ),
            "disposition": text(
                "`inline` to show the file, where it cannot run anything; by default it is downloaded.",
                "inline",
                enum=list(DISPOSITIONS),
            ),
        },
        "additionalProperties": False,
    },
    "Link": record(
        "A link to a file's bytes.",
        {
            "url": text(
                "Whoever has it can read the file.", f"https://files.s3.amazonaws.com/{KEY}?X-Amz-Signature=1"
            ),
            "expires_at": text("When it ends.", MOMENT, format="date-time"),
        },
    ),
    "Index": record(
        "The service and its endpoints.",
        {
            "name": text("The name of the service.", "Ferryman"),
            "description": text("What the service does."),
            "endpoints": {
                "type": "object",
                "description": "The purpose of each endpoint.",
                "additionalProperties": {"type": "string"},
            },
        },
    ),
    "Help": record(
        "How to upload a file here.",
        {
            "description": text("What to send."),
            "answer": text("The response.", "202 at once; a background thread brings it to S3"),
            "example": text(
                "A command for a shell.", "curl -F file=@report.pdf http://localhost:5000/async_upload"
            ),
        },
    ),
    "Alive": record("The process lives.", {"status": text("Always alive.", "alive", const="alive")}),
    "Readiness": record(
        "If this process can accept a file.",
        {
            "status": text("The overall state.", "ready", enum=["ready", "not ready"]),
            "checks": record("The state of each part.", dict.fromkeys(ACCEPTING_PARTS, CHECK)),
        },
    ),
    "State": record(
        "The state of the parts that the service depends on.",
        {
            "status": text("The overall state.", "ok", enum=["ok", "degraded"]),
            "checks": record("The state of each part.", dict.fromkeys(PARTS, CHECK), optional=("scanner",)),
            "oldest_undelivered_seconds": {
                "type": ["number", "null"],
                "minimum": 0,
                "description": "For how long the oldest file waits for S3; null if none does.",
                "examples": [0.27],
            },
            "unfinished_uploads": or_null(number("Resumable uploads in progress.", 3)),
        },
    ),
}
