"""The Content-Disposition of a download: any file name, in a header that is ASCII."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

from werkzeug.http import dump_options_header

PLAIN = re.compile(r"[!#$&-.0-\[\]-~](?:[ !#$&-.0-\[\]-~]*[!#$&-.0-\[\]-~])?", re.ASCII)
"""What every client reads alike: printable ASCII without `"`, `%`, `/` and `\\`, and no blank at either end."""
FALLBACK_UNSAFE = re.compile(r'[^ -~]|["%/\\]', re.ASCII)
REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""With them `gpj.exe` is shown as `exe.jpg` (Unicode TR 36, section 2.4)."""
ATTR_CHAR = "!#$&+-.^_`|~"
"""What RFC 8187, section 3.2.1, lets stand besides letters and digits."""


def disposition(kind: str, name: str) -> str:
    """Return a header that names a download as its file.

    A name that not every client would read alike is sent twice: in `filename`, where `_` replaces what is not
    plain, for old clients, and whole in `filename*`. Only what no honest name needs and a careless client might
    fall for is `_` there too: control characters, the slash, and characters that turn the reading direction.

    Args:
        kind: `attachment`, or `inline` for what a browser shall show.
        name: the name as the client sent it; may be anything.

    Returns:
        The value of a Content-Disposition header, always ASCII: AWS refuses more than Latin-1 in a link, gunicorn
        in a header.

    Source: RFC 6266, sections 4.3 and 5 and Appendix D; RFC 8187, section 3.2.
    """
    if PLAIN.fullmatch(name):
        return dump_options_header(kind, {"filename": name})
    fallback = FALLBACK_UNSAFE.sub("_", name)
    whole = quote("".join("_" if _is_unsafe(letter) else letter for letter in name), safe=ATTR_CHAR)
    return f"{kind}; filename=\"{fallback}\"; filename*=UTF-8''{whole}"


def _is_unsafe(letter: str) -> bool:
    # A surrogate alone has no UTF-8.
    return letter == "/" or letter in REORDERING or unicodedata.category(letter) in ("Cc", "Cs")
