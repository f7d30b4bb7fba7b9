"""Components of the API document for resumable uploads (tus 1.0.0)."""

from __future__ import annotations

from http import HTTPStatus

from intake.protocols import tus, tus_fields
from openapi.components import answer, header, parameter, problem
from openapi.schemas import FILE_ID, MOMENT, Piece, number, or_null, record, text

UPLOAD_ID = FILE_ID
NUMBER = r"^[0-9]{1,18}$"

SCHEMAS: dict[str, Piece] = {
    "Upload": record(
        "An upload in progress.",
        {
            "id": text("The id that its file will have.", UPLOAD_ID),
            "name": text("The file's name.", "report.pdf"),
            "mode": text("How the file will go to S3.", "async"),
            "length": or_null(number("The file's length in bytes; null while nobody knows it.", 10485760)),
            "offset": number("How many of them are known to be here.", 5242880),
            "created_at": text("When it began.", MOMENT),
            "expires_at": text("When it ends, unless it goes on.", MOMENT),
        },
    )
}

PARAMETERS: dict[str, Piece] = {
    "UploadId": parameter("path", "upload_id", text("The upload's id."), UPLOAD_ID) | {"required": True},
    "UploadMode": parameter(
        "query", "mode", text("How the file goes to S3.", enum=[str(mode) for mode in tus.MODES], default="async")
    ),
    "TusResumable": header("Tus-Resumable", text("The version of tus.", enum=[tus.VERSION])) | {"required": True},
    "UploadLength": header("Upload-Length", text("The file's length in bytes.", pattern=NUMBER), "10485760"),
    "UploadDeferLength": header("Upload-Defer-Length", text("`1` if the length comes later.", enum=["1"])),
    "UploadMetadata": header(
        "Upload-Metadata",
        text(
            "Names with values in base64: `filename`, `filetype`, and `metadata`, `expires_in`, `process` as in a"
            " form. All is returned as it was sent.",
            maxLength=tus_fields.MAX_METADATA_BYTES,
        ),
        "filename cmVwb3J0LnBkZg==",
    ),
    "UploadConcat": header(
        "Upload-Concat",
        text(
            "`partial` for a part of a file; `final;` and the addresses of the parts to join.",
            pattern="^(partial|final;.*)$",
        ),
    ),
    "UploadOffset": header("Upload-Offset", text("Where the body begins.", pattern=NUMBER), "5242880")
    | {"required": True},
    "UploadChecksum": header(
        "Upload-Checksum",
        text(f"A checksum of the body, in base64, by one of {', '.join(tus_fields.ALGORITHMS)}."),
        "sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
    ),
}

HEADERS: dict[str, Piece] = {
    "Upload-Offset": {"description": "How many bytes are here.", "schema": number("", 5242880), "required": False},
    "Upload-Length": {"description": "The file's length.", "schema": number("", 10485760), "required": False},
    "Upload-Expires": {"description": "When the upload ends.", "schema": text(""), "required": False},
    "Tus-Version": {"description": "The versions spoken here.", "schema": text("", tus.VERSION), "required": True},
}
STATE = ("Upload-Offset", "Upload-Length", "Upload-Expires")

_S = HTTPStatus
RESPONSES: dict[str, Piece] = {
    "Begun": answer("The upload has begun.", headers=("Location", *STATE)),
    "Progress": answer("Where the upload is.", headers=STATE),
    "Appended": answer("The bytes are here; with the last one, the file exists.", headers=STATE),
    "Shown": answer("The upload in progress.", "Upload"),
    "Ended": answer("The upload, or the file that has come of it, is gone."),
    "WrongVersion": problem(
        _S.PRECONDITION_FAILED,
        "The request speaks no known version of tus.",
        "Send Tus-Resumable: 1.0.0.",
        "Tus-Version",
    ),
    "OffsetMismatch": problem(
        _S.CONFLICT, "The upload is elsewhere; the answer says where.", "The upload is at byte 5.", "Upload-Offset"
    ),
    "Gone": problem(
        _S.GONE, "The upload was ended, or has expired.", "The upload was ended, or has expired; begin a new one."
    ),
    "Locked": problem(
        _S.LOCKED,
        "The upload cannot be reached for a moment; ask again.",
        "Another request holds this upload; try again.",
        "Retry-After",
    ),
    "NoSuchUpload": problem(
        _S.NOT_FOUND, "The upload does not exist, or belongs to another owner.", "Upload not found."
    ),
    "NotTus": problem(
        _S.UNSUPPORTED_MEDIA_TYPE,
        "The body has another type, or such files are not accepted.",
        f"Send the bytes as {tus.BODY}.",
    ),
}
RESPONSES["ChecksumMismatch"] = {
    **RESPONSES["Gone"],
    "description": "The bytes do not match their checksum, and none of them is kept.",
}
BODIES: dict[str, Piece] = {
    "Piece": {"description": "Bytes of the file.", "content": {tus.BODY: {"schema": {}}}},
}
