"""POST /files/<id>/derivatives: more is made of a file. GET /files/<id>/report: what a table's making found."""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response, jsonify, request, url_for
from werkzeug.exceptions import NotFound

from access import auth, quota
from access.principal import Grant
from core.errors import Conflict, InvalidUpload, UnsupportedUpload
from core.services import services
from intake.options import UploadOptions
from intake.permit import check_upload
from models import UploadStatus
from processing import derivatives, recipes
from processing.recipes import REPORT
from storage import file_queries
from web.json_body import refuse_encoding
from web.representation import file_json, own_file

bp = Blueprint("derive", __name__)

MAX_BODY_BYTES = 8 * 1024
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


@bp.post("/files/<file_id>/derivatives")
@auth.needs(Grant.UPLOAD)
def add(file_id: str) -> tuple[Response, HTTPStatus]:
    """Make more of a COMPLETE file.
    ---
    post:
      operationId: addDerivatives
      tags: [Files]
      parameters: [FileId]
      requestBody:
        required: true
        content:
          application/x-www-form-urlencoded: {schema: ProcessForm, example: {process: thumb}}
      responses:
        200: Known
        202: Accepted
        400: InvalidOptions
        404: NotFound
        409: Conflict
        413: BodyTooLarge
        415: NotForm
    """
    row, asked = own_file(file_id), recipes.read_asked(_asked())
    types = row.content_type, row.detected_type
    check_upload(auth.principal(), row.mode, row.size, types, UploadOptions(process=asked))
    if not asked:
        raise InvalidUpload("Name the presets in the field 'process'.")
    if row.parent_id:
        raise Conflict("Nothing is made of what was made of a file; name its original.", row.id)
    if row.upload_status != UploadStatus.COMPLETE:
        raise Conflict("Only a file that is COMPLETE can be processed.", row.id)
    quota.check_processing(auth.principal(), services().config)
    is_new = derivatives.add(row, recipes.choose(services().presets, asked, *types))
    if is_new:
        services().slots.hand_off(row.id)
    answer = jsonify(file_json(own_file(file_id)))
    answer.location = url_for("files.file_status", file_id=file_id)
    return answer, HTTPStatus.ACCEPTED if is_new else HTTPStatus.OK


def _asked() -> str:
    refuse_encoding(request)
    if request.mimetype not in FORMS:
        raise UnsupportedUpload(f"Send the field 'process' as {' or '.join(FORMS)}.")
    request.max_content_length = request.max_form_memory_size = MAX_BODY_BYTES
    return ",".join(request.form.getlist("process"))


@bp.get("/files/<file_id>/report")
@auth.needs(Grant.READ)
def report(file_id: str) -> Response:
    """Return what the making of a table has found, whole.
    ---
    get:
      operationId: getReport
      tags: [Files]
      parameters: [FileId]
      responses: {200: Report, 404: NotFound, 409: Conflict, 502: StoreError}
    """
    row = own_file(file_id)
    siblings = file_queries.derivatives([row.parent_id]) if row.parent_id else ()
    found = [one for one in siblings if one.output == REPORT and one.recipe_digest == row.recipe_digest]
    if not found:
        raise NotFound("This file has no report.")
    if found[0].upload_status != UploadStatus.COMPLETE:
        raise Conflict("The report is not in S3.", found[0].id)
    answer = Response(services().store.read(found[0].key, 0, found[0].size), content_type="application/json")
    answer.headers["Cache-Control"] = "private, no-cache"
    answer.content_length = found[0].size
    return answer
