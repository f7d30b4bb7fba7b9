"""The public keys of an identity provider, read from its JWKS address (RFC 7517)."""

from __future__ import annotations

import json
import logging
import threading
import time

import jwt
import requests
from urllib3.exceptions import HTTPError

from core.errors import ProviderUnavailable

log = logging.getLogger(__name__)

KEPT_SECONDS = 600.0  # after that a key that the provider has withdrawn is forgotten
LOOK_SECONDS = 60.0  # anyone can make up key ids, and each would cost the provider a request
FAILED_LOOK_SECONDS = 5.0
CONNECT_SECONDS, ANSWER_SECONDS = 3.0, 5.0
MAX_BYTES = 256 * 1024
FAILURES = (requests.RequestException, HTTPError, ValueError, RecursionError, jwt.PyJWTError)


class ProviderKeys:
    """The keys at one address, by their id. Connects on first use.

    Args:
        address: the JWKS address.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._read_at = self._next_look_at = 0.0

    def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """Return the key with an id, or the only key for a token without one; None if there is none.

        Raises:
            ProviderUnavailable: no keys have been read yet.
        """
        now = time.monotonic()
        is_old = now - self._read_at > KEPT_SECONDS
        if (is_old or not self._has(key_id)) and now >= self._next_look_at:
            self._look(now)
        if not self._read_at:
            raise ProviderUnavailable("The keys of the identity provider cannot be read; try again later.")
        return self._keys.get(key_id) if key_id or len(self._keys) != 1 else next(iter(self._keys.values()))

    def _has(self, key_id: str | None) -> bool:
        return key_id in self._keys or (key_id is None and len(self._keys) == 1)

    def _look(self, now: float) -> None:
        """Read the keys, in one request at a time; the old ones are kept where the provider does not answer."""
        with self._lock:
            if now < self._next_look_at:  # another request has just looked
                return
            try:
                self._keys = _read(self._address)
                self._read_at = time.monotonic()
                self._next_look_at = self._read_at + LOOK_SECONDS
            except FAILURES as error:
                log.warning("the keys at JWT_JWKS_URL cannot be read: %s", error)
                self._next_look_at = time.monotonic() + FAILED_LOOK_SECONDS


def _read(address: str) -> dict[str | None, jwt.PyJWK]:
    found = json.loads(_fetch(address))
    if not isinstance(found, dict):
        raise ValueError("the answer is no set of keys")
    keys = jwt.PyJWKSet.from_dict(found).keys
    return {key.key_id: key for key in keys if key.public_key_use in (None, "sig") and key.key_type != "oct"}


def _fetch(address: str) -> bytes:
    """Return what is at an address, if it comes in time and is no longer than keys are."""
    deadline, content = time.monotonic() + ANSWER_SECONDS, b""
    limits = (CONNECT_SECONDS, ANSWER_SECONDS)
    with requests.get(address, timeout=limits, stream=True, allow_redirects=False) as answer:
        answer.raise_for_status()
        while chunk := answer.raw.read1(16 * 1024, decode_content=True):
            content += chunk
            if len(content) > MAX_BYTES or time.monotonic() > deadline:
                raise ValueError("the answer is too long, or too slow")
    return content
