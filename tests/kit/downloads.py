"""Downloads by http.client."""

from __future__ import annotations

import http.client
import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit


class Got(NamedTuple):
    """What came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> Got:
    """Ask by http.client, which follows nothing and adds nothing."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=20)
    try:
        connection.request(method, f"{address.path}?{address.query}", headers=headers or {})
        answer = connection.getresponse()
        return Got(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


def named(disposition: str) -> str:
    """The name that a Content-Disposition gives, read as RFC 6266 says: `filename*` comes first."""
    assert disposition.isascii()
    assert disposition.startswith("attachment; filename=")
    if extended := re.search(r"; filename\*=UTF-8''([A-Za-z0-9!#$&+.^_`|~%-]+)$", disposition):
        return unquote(extended[1], errors="strict")
    plain = re.fullmatch(r'attachment; filename=("?)([^"%\\/]+)\1', disposition)
    assert plain
    return plain[2]
