"""A team's own JSON Web Tokens: credentials that their identity provider gives their users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from access.principal import USER_GRANTS, Principal
from access.provider_keys import ProviderKeys
from access.tokens import MALFORMED, is_subject
from config import Config
from core.errors import Expired, Unauthorized

LEEWAY_SECONDS = 30
BY_SECRET = ("HS256", "HS384", "HS512")
BY_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
BY_CURVE = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}


class TeamTokens:
    """Checks the JWTs of one team.

    Args:
        config: the settings: one of JWT_JWKS_URL, JWT_PUBLIC_KEY and JWT_SECRET is set.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._provider = ProviderKeys(config.JWT_JWKS_URL) if config.JWT_JWKS_URL else None
        self._key: Any = config.JWT_SECRET
        if config.JWT_PUBLIC_KEY:
            self._key = load_pem_public_key(config.JWT_PUBLIC_KEY.encode())

    def read(self, token: str) -> Principal:
        """Return the principal of a token: the user that its subject claim names.

        Raises:
            Expired: it was valid once.
            Unauthorized: it is not valid.
            ProviderUnavailable: its key cannot be read now.

        Source: RFC 7519, section 7.2; RFC 8725, sections 3.1 and 3.2, for the algorithms.
        """
        try:
            claims = self._claims(token)
        except jwt.ExpiredSignatureError:
            raise Expired from None
        except MALFORMED:
            raise Unauthorized("The token is not valid.") from None
        subject = claims.get(self._config.JWT_SUBJECT_CLAIM)
        if not is_subject(subject):
            raise Unauthorized(f"The token's claim {self._config.JWT_SUBJECT_CLAIM!r} does not name a user.")
        expires_at = int(claims["exp"]) + LEEWAY_SECONDS
        return Principal(self._config.JWT_OWNER, subject, USER_GRANTS, expires_at=expires_at)

    def _claims(self, token: str) -> dict[str, Any]:
        key, algorithms = self._key_for(token)
        return jwt.decode(
            token,
            key,
            algorithms,
            audience=self._config.JWT_AUDIENCE or None,
            issuer=self._config.JWT_ISSUER or None,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp"]},
        )

    def _key_for(self, token: str) -> tuple[Any, Sequence[str]]:
        """Return the key that a token must be signed by, and the algorithms that fit it."""
        if self._provider is None:
            return self._key, BY_SECRET if isinstance(self._key, str) else algorithms_of(self._key)
        key_id = jwt.get_unverified_header(token).get("kid")
        found = self._provider.find(key_id)
        if found is None:
            raise jwt.InvalidTokenError("no such key")
        return found.key, [found.algorithm_name]


def algorithms_of(key: object) -> Sequence[str]:
    """Return the JWS algorithms that fit a public key (RFC 7518, section 3.1; RFC 8037); none for any other."""
    if isinstance(key, RSAPublicKey):
        return BY_RSA
    if isinstance(key, EllipticCurvePublicKey):
        return BY_CURVE.get(key.curve.name, ())
    return ("EdDSA",) if isinstance(key, Ed25519PublicKey | Ed448PublicKey) else ()
