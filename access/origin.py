"""The origin of a request: the Host that it names, and the page that sends it."""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import request

from core.errors import Forbidden

HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[\w.-]{1,253}))(?::\d{1,5})?", re.ASCII)


def check_host(trusted: Collection[str]) -> None:
    """Refuse a request whose Host is neither this machine nor trusted.

    A page of any site may let its own name resolve to this machine (DNS rebinding). For the browser it is then of
    the same origin as this service, and only the Host header tells. X-Forwarded-Host is not believed, since such a
    page can set it.

    Args:
        trusted: names or addresses, without ports.

    Raises:
        Forbidden: the host is not known.
    """
    found = HOST.fullmatch(request.headers.get("Host", ""))
    host = (found["address"] or found["name"]).lower().removesuffix(".") if found else ""
    if not (is_loopback(host) or host in map(str.lower, trusted)):
        raise Forbidden("This service does not answer for that Host; its operator may add it to TRUSTED_HOSTS.")


def check_page(allowed: Collection[str]) -> None:
    """Refuse a request from a page of another origin. Clients other than browsers send no Origin.

    Schemes are not compared with our own, since TLS ends at a proxy.

    Args:
        allowed: CORS_ORIGINS, whose pages may use the service.

    Raises:
        Forbidden: the page is not of this service.

    Source: https://www.w3.org/TR/fetch-metadata/ and RFC 6454, section 7.
    """
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site", "none")
    if origin and is_allowed(origin, allowed):
        return
    is_own = origin is None or _authority(origin) == request.headers.get("Host", "").lower()
    if not is_own or site not in ("same-origin", "none"):
        raise Forbidden("Pages of other origins are not allowed to use this service.")


def is_allowed(origin: str, allowed: Collection[str]) -> bool:
    """Returns True if pages of an origin may use this service, exactly as a browser names it.

    Args:
        origin: the header Origin.
        allowed: CORS_ORIGINS; `*` allows all.
    """
    return "*" in allowed or origin in allowed


def is_loopback(host: str) -> bool:
    """Returns True if a host's name or address always means the machine itself.

    Source: RFC 6761, section 6.3.
    """
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _authority(origin: str) -> str | None:
    """Return the host and port in an origin, or None, as for `null`."""
    try:
        return urlsplit(origin.lower()).netloc or None
    except ValueError:
        return None
