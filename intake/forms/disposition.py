"""Content-Disposition of a form's part: field name and file name, in all the ways that clients write them."""

from __future__ import annotations

import re
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from multipart import content_disposition_unquote

BROWSERS = re.compile(r'form-data; name="([^"]*)"(?:; filename="([^"]*)")?')
"""Source: https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#multipart-form-data"""
PARAMETER = re.compile(
    r"""; [ \t]*
    (?: ([!#$%&'*+.^_`|~0-9A-Za-z-]+) [ \t]*=[ \t]*
        ( "(?:\\.|[^"\\])*"                  # with escapes, as by curl
        | "[^"]*"(?=[ \t]*(?:;|$))           # with backslashes that escape nothing
        | [^";]*                             # without quotes: to the next parameter
        ) [ \t]*
    )?""",
    re.VERBOSE,
)
EXTENDED = re.compile(r"(utf-8|iso-8859-1)'[^']*'((?:[^%]|%[0-9A-Fa-f]{2})*)", re.IGNORECASE | re.DOTALL)
"""RFC 8187, section 3.2.1, but with characters that should be escaped and are not."""
CONTINUED = re.compile(r"filename\*(\d{1,3})(\*?)", re.ASCII)
"""RFC 2231, section 3."""
WORD = r"=\?[A-Za-z0-9_*-]+\?[bqBQ]\?[^?\s]*\?="
ENCODED_WORDS = re.compile(rf"{WORD}(?:\s+{WORD})*", re.ASCII)
"""RFC 2047, section 2. RFC 7578 forbids it, and .NET sends it."""


class Disposition(NamedTuple):
    """A parsed header; a missing name is None."""

    kind: str
    name: str | None
    filename: str | None


def parse(value: str) -> Disposition:
    """Parse the value of a part's Content-Disposition.

    Args:
        value: the header's value.

    Raises:
        ValueError: it is malformed, or means several things.

    Source: RFC 7578, section 4.2; RFC 8187 for `filename*`, which wins over `filename` (RFC 6266, section 4.3).
    """
    if browser := BROWSERS.fullmatch(value):
        name, filename = browser.groups()
        unquoted = None if filename is None else content_disposition_unquote(filename, True)
        return Disposition("form-data", content_disposition_unquote(name), _without_words(unquoted))
    kind, _, _ = value.partition(";")
    parameters = _parameters(value, len(kind))
    plain = {name: content_disposition_unquote(text, name == "filename") for name, text in parameters.items()}
    filename = _extended(plain)
    if filename is None:
        filename = _without_words(plain.get("filename"))
    return Disposition(kind.strip().lower(), plain.get("name"), filename)


def _parameters(value: str, position: int) -> dict[str, str]:
    """Read the parameters from a position to the end; their values keep their quotes."""
    found: dict[str, str] = {}
    while position < len(value):
        parameter = PARAMETER.match(value, position)
        if parameter is None:
            raise ValueError("no parameter")
        position = parameter.end()
        if name := parameter[1]:
            if name.lower() in found:
                raise ValueError("a parameter that stands twice")
            found[name.lower()] = parameter[2].rstrip(" \t")
    return found


def _extended(parameters: dict[str, str]) -> str | None:
    """Decode `filename*`, or its pieces `filename*0`, `filename*1*`. Returns None without them."""
    if "filename*" in parameters:
        return _decoded(parameters["filename*"])
    pieces = {match: text for name, text in parameters.items() if (match := CONTINUED.fullmatch(name))}
    if not pieces:
        return None
    ordered = sorted(pieces.items(), key=lambda piece: int(piece[0][1]))
    if [int(match[1]) for match, _ in ordered] != list(range(len(ordered))):
        raise ValueError("a piece of the file's name is missing")
    if not ordered[0][0][2]:
        return "".join(text for _, text in ordered)
    return _decoded("".join(text if match[2] else quote(text) for match, text in ordered))


def _decoded(text: str) -> str:
    extended = EXTENDED.fullmatch(text)
    if extended is None:
        raise ValueError("a malformed filename*")
    return unquote_to_bytes(extended[2]).decode(extended[1])


def _without_words(filename: str | None) -> str | None:
    """Decode a name that consists of encoded words; any other name stays as it is."""
    if filename is None or not ENCODED_WORDS.fullmatch(filename):
        return filename
    try:
        decoded = str(make_header(decode_header(filename)))
        decoded.encode()  # UTF-7 can say half a character
    except (HeaderParseError, LookupError, ValueError):
        return filename
    return decoded
