"""POST /tokens: a backend with an API key fetches an upload token for one of its users."""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response, jsonify

from access import auth, tokens
from access.principal import Grant
from core.errors import NotConfigured
from core.services import services
from web.json_body import json_object
from web.representation import rfc3339

bp = Blueprint("tokens", __name__)


@bp.post("/tokens")
@auth.needs(Grant.TOKENS)
def create_token() -> tuple[Response, HTTPStatus]:
    """Make an upload token, which a user's browser may hold.
    ---
    post:
      operationId: createToken
      tags: [Tokens]
      requestBody:
        content: {application/json: {schema: TokenRequest, example: {subject: "42", max_files: 1}}}
      responses: {201: Token, 400: InvalidBody, 413: BodyTooLarge, 415: NotJson, 501: NotConfigured}
    """
    secret = services().config.TOKEN_SECRET
    if not secret:
        raise NotConfigured("The operator has set no TOKEN_SECRET, so no token can be signed.")
    wanted = tokens.read_request(json_object())
    token, expires_at = tokens.make(secret, auth.principal().owner, wanted)
    return jsonify(token=token, expires_at=rfc3339(expires_at)), HTTPStatus.CREATED
