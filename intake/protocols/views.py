"""The addresses of resumable uploads, /uploads and /uploads/<id>: which protocol is spoken, and who may speak."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from types import ModuleType
from typing import Any, TypeAlias

from flask import Blueprint, Response, g, jsonify, request
from werkzeug.wrappers import Response as BaseResponse

from access import auth
from access.principal import Grant
from core.errors import Forbidden, UploadGone, WrongVersion
from intake.protocols import rufh, tus
from intake.upload_rows import GONE
from intake.uploads.outcome import terminate
from intake.uploads.rows import UploadRow
from intake.uploads.turns import own
from web.content import content
from web.representation import rfc3339

bp = Blueprint("uploads", __name__)

WSGI: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
OVERRIDES = ("PATCH", "DELETE", "HEAD")
TEMPORARY = (
    *(HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.INTERNAL_SERVER_ERROR),
    *(HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE),
)
RETRY_SECONDS = 1
RESUMABLE = "Tus-Resumable"


def overriding(app: WSGI) -> WSGI:
    """Let POST stand for methods that a firewall on the way forbids.

    Args:
        app: the application.

    Source: https://tus.io/protocols/resumable-upload#x-http-method-override
    """

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ.get("HTTP_X_HTTP_METHOD_OVERRIDE", "").upper()
        is_upload = environ.get("PATH_INFO", "").startswith("/uploads/")
        if not is_upload or environ["REQUEST_METHOD"] != "POST" or method not in OVERRIDES:
            return app(environ, start_response)
        if method != "HEAD":
            return app({**environ, "REQUEST_METHOD": method}, start_response)

        def start(status: str, fields: list[tuple[str, str]], exc_info: Any = None) -> Any:
            # The server answers a POST, and so would wait for a body of this length.
            kept = [(name, value) for name, value in fields if name.lower() != "content-length"]
            return start_response(status, [*kept, ("Content-Length", "0")], exc_info)

        return app({**environ, "REQUEST_METHOD": method}, start)

    return answer


def require_version() -> None:
    """Refuse clients that speak another version of tus.

    Raises:
        WrongVersion: they do.
    """
    if request.headers.get(RESUMABLE) != tus.VERSION:
        raise WrongVersion(f"Send {RESUMABLE}: {tus.VERSION}.")


def protocol(row: UploadRow) -> ModuleType:
    """Return the protocol of an upload, which its client must speak.

    Raises:
        WrongVersion: it speaks another version.
    """
    if is_rufh(row):
        return rufh
    require_version()
    return tus


def is_rufh(row: UploadRow) -> bool:
    """Returns True if an upload was begun by the IETF's protocol; its answers name no version of tus."""
    g.is_rufh = row.way == "rufh"
    return bool(g.is_rufh)


@bp.after_app_request
def tell_limits(response: Response) -> Response:
    """Tell whoever asks by OPTIONS what a resumable upload may be."""
    if request.method == "OPTIONS" and request.blueprint in ("files", "help", "uploads"):
        response.headers["Upload-Limit"] = rufh.limits()
    return response


@bp.after_request
def complete(response: Response) -> Response:
    """Name the version, and tell of all temporary trouble in the one way that lets a client keep its progress.

    On HEAD, tus-js-client begins anew after any error but 423.
    """
    response.headers.setdefault("Cache-Control", "no-store")
    if g.get("is_rufh"):
        return response
    response.headers[RESUMABLE] = tus.VERSION
    if response.status_code == HTTPStatus.PRECONDITION_FAILED:
        response.headers["Tus-Version"] = tus.VERSION
    if request.method == "HEAD" and response.status_code in TEMPORARY:
        response.status_code = HTTPStatus.LOCKED
        response.headers.setdefault("Retry-After", str(RETRY_SECONDS))
    return response


@bp.route("/uploads", methods=["OPTIONS"], provide_automatic_options=False)
@bp.route("/uploads/", methods=["OPTIONS"], provide_automatic_options=False)
@bp.route("/uploads/<upload_id>", methods=["OPTIONS"], provide_automatic_options=False)
@auth.public
def options(upload_id: str = "") -> Response:
    """Say what is spoken here."""
    return tus.describe()


@bp.post("/uploads", provide_automatic_options=False)
@bp.post("/uploads/", provide_automatic_options=False)
@auth.needs(Grant.UPLOAD)
def create() -> Response:
    """Begin a resumable upload, perhaps with its first bytes.
    ---
    post:
      operationId: createUpload
      tags: [Resumable uploads]
      parameters:
        [TusResumable, UploadMode, UploadLength, UploadDeferLength, UploadMetadata, UploadConcat, UploadChecksum,
         IdempotencyKey, ReprDigest]
      x-tus: true
      x-tus-body: true
      requestBody: Piece
      responses: {201: Begun, 409: Conflict}
    """
    require_version()
    return tus.create()


@bp.route("/uploads/<upload_id>", methods=["HEAD"], provide_automatic_options=False)
@auth.needs(Grant.UPLOAD)
def head(upload_id: str) -> Response:
    """Say how many bytes of an upload are here.
    ---
    head:
      operationId: headUpload
      tags: [Resumable uploads]
      parameters: [UploadId, TusResumable]
      x-tus: true
      responses: {200: Progress}
    """
    row = own(upload_id)
    answer: Response = protocol(row).head(row)
    return answer


@bp.get("/uploads/<upload_id>", provide_automatic_options=False)
@auth.needs(Grant.UPLOAD)
def get(upload_id: str) -> BaseResponse:
    """Show an upload in progress; one that is finished gives its bytes.
    ---
    get:
      operationId: getUpload
      tags: [Resumable uploads]
      parameters: [UploadId, Proxy]
      responses:
        200: Shown
        302: Redirect
        400: InvalidQuery
        404: NoSuchUpload
        409: Conflict
        410: Gone
        502: StoreError
    """
    row = own(upload_id)
    if row.gone_at:
        raise UploadGone(GONE)
    if is_rufh(row):
        return rufh.head(row)
    if not row.finished_at:
        return jsonify(_shown(row))
    if Grant.READ not in auth.principal().grants:
        raise Forbidden("This credential does not grant access to the file.")
    return content(upload_id)


@bp.patch("/uploads/<upload_id>", provide_automatic_options=False)
@auth.needs(Grant.UPLOAD)
def patch(upload_id: str) -> Response:
    """Append to an upload at its offset.
    ---
    patch:
      operationId: appendToUpload
      tags: [Resumable uploads]
      parameters: [UploadId, TusResumable, UploadOffset, UploadLength, UploadChecksum]
      x-tus: true
      x-tus-body: true
      requestBody: Piece
      responses: {204: Appended, 409: OffsetMismatch}
    """
    row = own(upload_id)
    answer: Response = protocol(row).patch(row)
    return answer


@bp.delete("/uploads/<upload_id>", provide_automatic_options=False)
@auth.needs(Grant.UPLOAD)
def delete(upload_id: str) -> Response:
    """End an upload, or delete the file that has come of it.
    ---
    delete:
      operationId: deleteUpload
      tags: [Resumable uploads]
      parameters: [UploadId, TusResumable]
      x-tus: true
      responses: {204: Ended}
    """
    row = own(upload_id)
    if row.finished_at and Grant.DELETE not in auth.principal().grants:
        raise Forbidden("This credential does not grant to delete files.")
    protocol(row)
    return terminate(row)


def _shown(row: UploadRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "mode": row.mode,
        "length": row.length,
        "offset": row.offset,
        "created_at": rfc3339(row.created_at),
        "expires_at": rfc3339(row.expires_at),
    }
