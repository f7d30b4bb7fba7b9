"""The API document: made from the views' docstrings and roles, as OpenAPI 3.1 and as a page."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import flask_swagger_ui
from apispec import APISpec, BasePlugin
from apispec.yaml_utils import load_operations_from_docstring
from apispec_webframeworks.flask import FlaskPlugin
from flask import Blueprint, Flask, Response, current_app, jsonify, make_response, render_template
from markupsafe import Markup, escape
from werkzeug.routing import Rule

from access import auth
from ferryman import __version__
from openapi import components, direct, resumable, schemas

VIEWER = Path(flask_swagger_ui.__file__).parent / "dist"
bp = Blueprint("openapi", __name__, static_folder=VIEWER, static_url_path="/docs/assets")

ABOUT = """\
Ferryman takes a file, answers at once, and lands it in S3 exactly once, whatever crashes in between.

Send a file to one of the three upload addresses, as a form or as the whole body: `/normal_upload` answers when \
it is in S3, `/async_upload` and `/celery_upload` at once. The response is the File as JSON; `Location` is the \
address for its status, to read, to wait for, or to watch as a stream of events.

Every endpoint for files needs a credential, in the header `Authorization: Bearer ...`: an API key \
(`fm_...`, from the operator's `flask keys create NAME`) in a backend; in a browser an upload token \
(`fmu_...`, from `POST /tokens`), or a JSON Web Token of your own, where the operator has configured that. \
A key sees all files of its owner, a token or JWT those of its user. In a service with \
`AUTH=open` none is needed. Requests are limited: see the `RateLimit-` headers, and `Retry-After` of a \
429.

Errors are `application/problem+json` (RFC 9457), with one sentence in `detail`. Send an `Idempotency-Key` with \
an upload, and it is safe to repeat after any error: there will be no second file."""
TAGS = {
    "Upload": "Three ways to upload a file. All take a form, or the file as the whole body, and return a File.",
    "Resumable uploads": "Uploads that go on after a lost connection, by tus 1.0.0 (https://tus.io).",
    "Direct uploads": "Bytes that go to S3 itself, where `DIRECT` is on. The addresses under `/s3` are Uppy's.",
    "Files": "Your files: status, bytes, deletion.",
    "Watch": "Events instead of polling.",
    "Tokens": "Credentials for the browsers of your users.",
    "Service": "The service itself.",
}
UPLOAD_PARAMETERS = ["IdempotencyKey", "ReprDigest", "ContentDigest", "ContentMD5"]
UPLOAD = {
    400: "InvalidUpload",
    404: "Forgotten",
    408: "TooSlow",
    409: "Conflict",
    411: "LengthRequired",
    413: "TooLarge",
    415: "Unsupported",
    422: "KeyReused",
}
MARKS = {
    "x-upload": UPLOAD,
    "x-direct": {404: "NoSuchDirect"},
    "x-tus": {404: "NoSuchUpload", 410: "Gone", 412: "WrongVersion", 423: "Locked"},
    "x-tus-body": {
        400: "InvalidUpload",
        413: "TooLarge",
        415: "NotTus",
        422: "KeyReused",
        460: "ChecksumMismatch",
    },
}
"""Fields of an operation, in a view's docstring, each of which adds errors; `x-upload` adds parameters too."""
FIELDS = {"operationId", "summary", "description", "tags", "security", "parameters", "requestBody", "responses"}
"""The other fields of an operation."""
GUARDED = {401: "Unauthorized", 403: "Forbidden", 429: "LimitReached", 503: "Busy"}
VIEWER_POLICY = (
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class ViewPlugin(BasePlugin):
    """Adds facts from the code to a view's operation: its summary, its key, its errors."""

    def operation_helper(
        self, path: str | None = None, operations: dict[str, Any] | None = None, *, view: Any = None, **kwargs: Any
    ) -> None:
        """Complete the operations from a view's docstring."""
        for operation in (operations or {}).values():
            operation["summary"] = (inspect.getdoc(view) or "").partition("\n")[0].rstrip(".")
            errors: dict[int, str] = {500: "ServerError"}
            if getattr(view, "grant", auth.UNMARKED) is None:
                operation["security"] = []
            else:
                errors |= GUARDED
            if "{ticket}" in (path or ""):  # which is the credential
                operation["security"] = []
            if "x-upload" in operation:
                operation["parameters"] = [*operation.get("parameters", []), *UPLOAD_PARAMETERS]
            for mark in MARKS.keys() & operation.keys():
                del operation[mark]
                errors |= MARKS[mark]
            if isinstance(body := operation.get("requestBody"), str):
                operation["requestBody"] = (components.BODIES | resumable.BODIES)[body]
            if unknown := set(operation) - FIELDS:
                raise ValueError(f"{view.__name__}: its docstring has unknown fields: {', '.join(unknown)}")
            operation["responses"] = dict(sorted((errors | operation["responses"]).items()))


@bp.get("/openapi.json")
@auth.public
def document() -> Response:
    """Return this document.
    ---
    get: {operationId: getDocument, tags: [Service], responses: {200: Document}}
    """
    return jsonify(current_app.extensions["openapi"])


@bp.get("/docs")
@auth.public
def docs() -> Response:
    """Show this document as a page.
    ---
    get: {operationId: getDocs, tags: [Service], responses: {200: Manual}}
    """
    found = current_app.extensions["openapi"]
    page = render_template("docs.html", api=without_references(found, found), about=ABOUT, curl=curl)
    response = make_response(page)
    response.headers["Content-Security-Policy"] = POLICY
    return response


@bp.get("/docs/try")
@auth.public
def try_it() -> Response:
    """Show this document in a viewer that calls the API (Swagger UI).
    ---
    get: {operationId: getViewer, tags: [Service], responses: {200: Manual}}
    """
    response = make_response(render_template("try.html"))
    response.headers["Content-Security-Policy"] = VIEWER_POLICY
    return response


def init_app(app: Flask) -> None:
    """Build the document from all views of the app, and serve it."""
    app.register_blueprint(bp)
    app.add_template_filter(marked)
    app.extensions["openapi"] = build(app)


def build(app: Flask) -> dict[str, Any]:
    """Build the document.

    Source: https://spec.openapis.org/oas/v3.1.0
    """
    spec = APISpec(
        "Ferryman",
        __version__,
        "3.1.0",
        plugins=[ViewPlugin()],
        info={"description": ABOUT},
        servers=[{"url": "/", "description": "This service."}],
        security=[{"key": []}],
    )
    for name, about in TAGS.items():
        spec.tag({"name": name, "description": about})
    _add_components(spec)
    for rule in app.url_map.iter_rules():
        lacks_part = None in (rule.defaults or {}).values()
        is_alias = lacks_part or (rule.rule.endswith("/") and rule.rule != "/")
        if not auth.is_static(rule.endpoint) and not is_alias:
            view = app.view_functions[rule.endpoint]
            spec.path(FlaskPlugin.flaskpath2openapi(rule.rule), operations=_operations(app, rule), view=view)
    return spec.to_dict()


def _operations(app: Flask, rule: Rule) -> dict[str, Any]:
    """Return the operations of a view's docstring; a view with several addresses has one for each."""
    view = app.view_functions[rule.endpoint]
    operations = load_operations_from_docstring(inspect.getdoc(view) or "")
    for operation in operations.values():
        operation["operationId"] += "".join(str(value).title() for value in (rule.defaults or {}).values())
    return operations


def _add_components(spec: APISpec) -> None:
    about = "An API key, as `flask keys create NAME` makes it; an upload token, or a JWT, where a user may come."
    key = {"type": "http", "scheme": "bearer", "description": about}
    spec.components.security_scheme("key", key)
    for name, piece in (schemas.SCHEMAS | resumable.SCHEMAS | direct.SCHEMAS).items():
        spec.components.schema(name, piece)
    for name, piece in (components.PARAMETERS | resumable.PARAMETERS | direct.PARAMETERS).items():
        spec.components.parameter(name, piece["in"], piece)
    for name, piece in (components.HEADERS | resumable.HEADERS).items():
        spec.components.header(name, piece)
    for name, piece in (components.LINKS | direct.LINKS).items():
        spec.components.link(name, piece)
    for name, piece in (components.RESPONSES | resumable.RESPONSES | direct.RESPONSES).items():
        spec.components.response(name, piece)


def without_references(node: Any, whole: dict[str, Any]) -> Any:
    """Replace references by their targets."""
    if isinstance(node, list):
        return [without_references(one, whole) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        found: Any = whole
        for step in node["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        return without_references(found, whole)
    return {name: without_references(one, whole) for name, one in node.items()}


def curl(path: str, method: str, operation: dict[str, Any]) -> str:
    """Return a curl command for an operation."""
    words = ["curl"]
    body = operation.get("requestBody", {}).get("content", {})
    is_form = "multipart/form-data" in body
    if method == "put":
        words.append("-T report.pdf")
    elif method != "get" and not is_form:
        words.append(f"-X {method.upper()}")
    if "security" not in operation:
        words.append('-H "Authorization: Bearer $KEY"')
    if is_form:
        words.append("-F file=@report.pdf")
    if example := body.get("application/json", {}).get("example"):
        words.append(f"-H 'Content-Type: application/json' -d '{json.dumps(example)}'")
    if "text/event-stream" in operation["responses"].get("200", {}).get("content", {}):
        words.append("-N")
    if "302" in operation["responses"]:
        words.append("-L -OJ")
    return " ".join(
        [
            *words,
            "$FERRYMAN"
            + path.replace("{file_id}", schemas.FILE_ID)
            .replace("{name}", "")
            .replace("{upload_id}", schemas.FILE_ID),
        ]
    )


def marked(text: str) -> Markup:
    """Render backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  # nosec B704
