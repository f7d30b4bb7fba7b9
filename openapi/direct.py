"""Components of the API document for direct uploads."""

from __future__ import annotations

from http import HTTPStatus

from access.tickets import TICKET_SECONDS
from access.tokens import LEAST_SECONDS, MOST_SECONDS
from intake.direct.wanted import DIGEST_BYTES
from openapi.components import answer, parameter, problem
from openapi.schemas import FILE_ID, KEY, METADATA, MOMENT, Piece, number, record, text
from storage.parts import S3_MOST_PARTS

URL = "https://s3.eu-central-1.amazonaws.com/bucket/" + KEY + "?X-Amz-Signature=..."
TICKET = "fm_0123456789ab_" + "x" * 43
CRC64NVME = "Vx6WdmDCpO0="
BASE64 = r"^[A-Za-z0-9+/]+=*$"


def _object(description: str) -> Piece:
    return {"type": "object", "description": description, "additionalProperties": {"type": "string"}}


def _digest(name: str, count: int) -> Piece:
    return text(
        f"The file's {name} in base64, which is then verified.", pattern=BASE64, maxLength=-(-count // 3) * 4
    )


ADDRESS = record(
    "Where to PUT the bytes.",
    {"url": text("The address.", URL), "headers": _object("Headers that must be sent as they are.")},
)
PART = record(
    "A part that S3 has.",
    {"number": number("Its number.", 1), "size": number("Its bytes.", 16_777_216)},
)
COMPANION_PART = record(
    "A part.",
    {
        "PartNumber": number("Its number.", 1, minimum=1, maximum=S3_MOST_PARTS),
        "ETag": text("Its ETag, with or without quotes.", '"5d41402abc4b2a76b9719d911017c592"'),
        "Size": number("Its bytes.", 5_242_880),
    },
    optional=("Size",),
)
DIRECT: Piece = {
    "id": text("The id that the file will have.", FILE_ID),
    "name": text("The file's name.", "report.pdf"),
    "size": number("Its bytes.", 10_485_760) | {"type": ["integer", "null"]},
    "content_type": text("Its media type.", "application/pdf"),
    "created_at": text("When the upload began.", MOMENT, format="date-time"),
    "expires_at": text("When it ends, unless it is finished.", MOMENT, format="date-time"),
}
SCHEMAS: dict[str, Piece] = {
    "DirectRequest": {
        "type": "object",
        "description": "The file that will be sent.",
        "properties": {
            "name": text("The file's name.", "report.pdf"),
            "size": number("Its bytes, exactly.", 10_485_760),
            "content_type": text("Its media type; without one, it is guessed from the name.", "application/pdf"),
            **{name: _digest(name, count) for name, count in DIGEST_BYTES.items()},
            "multipart": {"type": "boolean", "description": "True for parts, however small the file is."},
            "metadata": METADATA,
            "expires_in": number("Seconds after which the file is deleted.", 86_400, minimum=1),
            "process": text("Names of presets, with commas between.", "thumb"),
        },
        "required": ["name", "size"],
        "additionalProperties": False,
    },
    "DirectUpload": record(
        "A direct upload, and where its bytes go: to one address, or in parts to an address each.",
        {
            **DIRECT,
            "put": ADDRESS,
            "part_size": number("The bytes of each part but the last.", 67_108_864),
            "parts": number("How many parts there are.", 16),
        },
        optional=("put", "part_size", "parts"),
    ),
    "DirectProgress": record(
        "A direct upload in progress.",
        {**DIRECT, "sent": {"type": "array", "description": "The parts that S3 has.", "items": PART}},
        optional=("sent",),
    ),
    "DirectPart": ADDRESS,
    "TicketRequest": {
        "type": "object",
        "description": "For how long the ticket is good.",
        "properties": {
            "expires_in": number(
                "Seconds.", TICKET_SECONDS, minimum=LEAST_SECONDS, maximum=MOST_SECONDS, default=TICKET_SECONDS
            )
        },
        "additionalProperties": False,
    },
    "Ticket": record(
        "A ticket.",
        {
            "companionEndpoint": text("For Uppy's option of this name.", f"/direct/{TICKET}"),
            "expires_at": text("When it ends.", MOMENT, format="date-time"),
        },
    ),
    "CompanionRequest": {
        "type": "object",
        "description": "The file that will be sent.",
        "properties": {
            "filename": text("Its name.", "a.pdf"),
            "type": text("Its media type.", "application/pdf") | {"type": ["string", "null"]},
            "metadata": {
                "type": ["object", "null"],
                "description": "Of it, `metadata`, `expires_in` and `process` are read, as in a form.",
            },
        },
        "required": ["filename"],
    },
    "CompanionForm": record(
        "A form, to be posted with the file as its last field.",
        {
            "method": text("Always POST.", "POST"),
            "url": text("The address.", "https://s3.eu-central-1.amazonaws.com/bucket"),
            "fields": _object("The fields in front of the file."),
            "expires": number("Seconds for which it is good.", 900),
        },
    ),
    "CompanionUpload": record(
        "An upload in parts.",
        {
            "key": text("The object's key.", KEY),
            "uploadId": text("The upload's id, which the file will have.", FILE_ID),
            "bucket": text("The bucket.", "bucket"),
        },
    ),
    "CompanionAddress": record(
        "Where to PUT a part.",
        {"url": text("The address.", URL), "expires": number("Seconds for which it is good.", 900)},
    ),
    "CompanionComplete": {
        "type": "object",
        "description": "The parts of which the file is made.",
        "properties": {
            "parts": {
                "type": "array",
                "description": "In any order.",
                "items": COMPANION_PART | {"additionalProperties": True},
                "minItems": 1,
                "maxItems": S3_MOST_PARTS,
            }
        },
        "required": ["parts"],
    },
    "CompanionCompleted": record(
        "The object.",
        {
            "location": text("Its URL.", f"https://s3.eu-central-1.amazonaws.com/bucket/{KEY}"),
            "key": text("Its key.", KEY),
            "bucket": text("The bucket.", "bucket"),
        },
    ),
}

PARAMETERS: dict[str, Piece] = {
    "PartNumber": parameter("path", "number", number("The part's number, from 1.", minimum=1), 1)
    | {"required": True},
    "PartChecksum": parameter(
        "query",
        "crc64nvme",
        text("The part's CRC64NVME in base64, which S3 then verifies.", pattern=BASE64),
        CRC64NVME,
    ),
    "Ticket": parameter("path", "ticket", text("A ticket from `POST /direct/tickets`."), TICKET)
    | {"required": True},
    "CompanionKey": parameter("query", "key", text("The object's key.", KEY)) | {"required": True},
    "CompanionName": parameter("query", "filename", text("The file's name."), "report.pdf") | {"required": True},
    "CompanionType": parameter("query", "type", text("Its media type."), "application/pdf"),
}

LINKS: dict[str, Piece] = {
    name: {"operationId": operation, "parameters": parameters, "description": description}
    for name, operation, parameters, description in (
        ("DirectShown", "getDirect", {"upload_id": "$response.body#/id"}, "The upload in progress."),
        (
            "DirectPart",
            "getDirectPart",
            {"upload_id": "$response.body#/id", "number": "1"},
            "The address of the first part.",
        ),
        ("DirectFinish", "finishDirect", {"upload_id": "$response.body#/id"}, "Finish the upload."),
        ("DirectEnd", "deleteDirect", {"upload_id": "$response.body#/id"}, "End the upload."),
    )
}

_S = HTTPStatus
PARTS: Piece = {"type": "array", "items": COMPANION_PART}
RESPONSES: dict[str, Piece] = {
    "DirectBegun": answer("The upload has begun.", "DirectUpload", headers=("Location", "Cache-Control"))
    | {"links": {name: name for name in LINKS}},
    "DirectShown": answer("The upload in progress.", "DirectProgress"),
    "PartAddress": answer("Where to PUT the part.", "DirectPart", headers=("Cache-Control",)),
    "Ticket": answer("The ticket. It is shown only now.", "Ticket", headers=("Cache-Control",)),
    "CompanionForm": answer("The form.", "CompanionForm", headers=("Cache-Control",)),
    "CompanionUpload": answer("The upload has begun.", "CompanionUpload", headers=("Cache-Control",)),
    "CompanionAddress": answer("Where to PUT the part.", "CompanionAddress", headers=("Cache-Control",)),
    "CompanionParts": answer("The parts that S3 has.", PARTS, headers=("Cache-Control",)),
    "CompanionCompleted": answer(
        "The object; its file is verified, or will be as soon as S3 answers.",
        "CompanionCompleted",
        headers=("Cache-Control",),
    ),
    "CompanionAborted": answer(
        "The upload is gone.",
        {"type": "object", "description": "Nothing.", "additionalProperties": False},
        headers=("Cache-Control",),
    ),
    "NoSuchDirect": problem(
        _S.NOT_FOUND,
        "The upload does not exist, or belongs to another owner; or direct uploads are off here.",
        "Upload not found.",
    ),
    "DirectIsOff": problem(_S.NOT_FOUND, "Direct uploads are off here.", "Direct uploads are off here."),
    "NothingThere": problem(
        _S.CONFLICT, "S3 does not have all of the bytes yet.", "S3 does not have the file yet."
    ),
    "NotAsAnnounced": problem(
        _S.UNPROCESSABLE_ENTITY,
        "S3 has other bytes than were announced, or such files are not accepted; they are removed.",
        "The file has 5 bytes, not 6 as was announced.",
    ),
}
