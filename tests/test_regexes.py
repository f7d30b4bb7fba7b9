"""Every regular expression that meets what others write takes time in proportion to its length.

Most never meet as much: gunicorn bounds a request's headers, the form's parser those of a part (8 KiB); of a file
8 KiB are looked at, of a media type 255 characters, of clamd's answer 1 KiB, of S3's message 300 characters. Log
lines are tried in test_logs.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import file
from access import keys, origin
from core import logs
from delivery import scanner
from intake import digests, sniff
from intake.forms import chunked
from intake.forms import disposition as form_disposition
from intake.forms import parser as form_parser
from ops.server import framing
from storage.s3 import errors as s3_errors
from web import disposition, ranges

Use = Callable[[Any], object]
SHELL = sniff.SCRIPTS[0][0]
# How the product uses each, what the text begins with, and what is repeated in it.
CASES: list[tuple[str, Use, str, list[str]]] = [
    ("keys.KEY", keys.KEY.fullmatch, "fm_", ["a", "0", "_"]),
    ("chunked.TOTAL", chunked.TOTAL.search, "", ['"totalChunks"', '"totalChunks"  :  ', '"', " "]),
    ("chunked.TOTAL, blanks", chunked.TOTAL.search, '"totalChunks"', [" ", ": "]),
    ("digests.MEMBER", digests.MEMBER.fullmatch, "", ["a", "-", "a=:", "=:"]),
    ("digests.MEMBER, value", digests.MEMBER.fullmatch, "a=:", ["a", "="]),
    ("disposition.PLAIN", disposition.PLAIN.fullmatch, "a", ["a", " ", "a ", "\\"]),
    ("disposition.disposition", partial(disposition.disposition, "attachment"), "", ["a ", '"', "\\", "\u202a"]),
    ("file.MEDIA_TYPE", file.MEDIA_TYPE.fullmatch, "a/a", ["a", "/", " ", ";", "; ", ";a=a", '; a="', '; a=""']),
    ("file.MEDIA_TYPE, parameter", file.MEDIA_TYPE.fullmatch, "a/a;a=", ["a", '"', '" ', "\t"]),
    (
        "form_disposition.BROWSERS",
        form_disposition.BROWSERS.fullmatch,
        'form-data; name="',
        ["a", '"; filename="'],
    ),
    ("form_disposition.EXTENDED", form_disposition.EXTENDED.fullmatch, "utf-8'", ["'", "%", "%41", "a"]),
    ("form_disposition.CONTINUED", form_disposition.CONTINUED.fullmatch, "filename*", ["0", "*"]),
    ("form_disposition.ENCODED_WORDS", form_disposition.ENCODED_WORDS.fullmatch, "", ["=?a?b?a?= ", "=?", "?"]),
    ("form_disposition.ENCODED_WORDS, blanks", form_disposition.ENCODED_WORDS.fullmatch, "=?a?b?a?=", [" ", "a"]),
    ("form_parser.BOUNDARY", form_parser.BOUNDARY.search, "", [";", ";\t", "\t", "; boundary", '; boundary="\\']),
    ("form_parser.BOUNDARY, quoted", form_parser.BOUNDARY.search, '; boundary="', ["\\", "a", '\\"', "\\a"]),
    ("framing.HOST", framing.HOST.fullmatch, "", ["a", "%", "a:", ":", "[", "0"]),
    ("framing.HOST, address", framing.HOST.fullmatch, "[", [":", "0", "]"]),
    ("logs.SECRET", logs.SECRET.search, "eyJ", ["a", ".", "eyJ", "-eyJ", "fm_"]),
    ("logs.REQUEST_ID", logs.REQUEST_ID.fullmatch, "", ["a", "."]),
    ("origin.HOST", origin.HOST.fullmatch, "", ["a", ".", "[", ":"]),
    ("ranges.RANGE", ranges.RANGE.fullmatch, "", [" ", "0", "-", "0-", "\t-"]),
    ("s3_errors.EXPECTED_REGION", s3_errors.EXPECTED_REGION.search, "", ["expecting '", "a", "'"]),
    ("scan.FOUND", scanner.FOUND.fullmatch, "stream: ", [" FOUND", "a", " "]),
    ("sniff.PROLOG", sniff.PROLOG.match, "", [" ", "<!--", "<!-- -->", "<?xml", "<!doctype", "<!doctype a []>"]),
    ("sniff.PROLOG, doctype", sniff.PROLOG.match, "<!doctype a [", ["]", "] ", " ", "[", "a", "<!--"]),
    ("sniff.PROLOG, comment", sniff.PROLOG.match, "<!--", ["-", "--", "<!--", "a"]),
    ("sniff.SVG_TAG", sniff.SVG_TAG.match, "<", ["a", ":", "-", "a:"]),
    ("sniff.HTML_TAG", sniff.HTML_TAG.match, "<", ["a", "h", "!"]),
    ("sniff, a script", SHELL.match, "#!", ["sh", " dash", "a", " ", "ba"]),
]


def uses() -> list[Any]:
    return [
        pytest.param(use, begin, piece, id=f"{name}: {piece!r}")
        for name, use, begin, pieces in CASES
        for piece in pieces
    ]


@pytest.mark.parametrize("end", ["", "\x00"])
@pytest.mark.parametrize(("use", "begin", "piece"), uses())
def test_a_pattern_takes_time_in_proportion_to_the_text(use: Use, begin: str, piece: str, end: str) -> None:
    once, twice = (_seconds(use, begin + piece * (size // len(piece)) + end) for size in (100_000, 200_000))
    assert twice < 3 * once + 0.05  # seconds; what grows with the square takes many
    assert twice < 0.5


@pytest.mark.parametrize("piece", [";", "; ", ";a", "; a=", '; a="', "\\", '"', " ", '; a="\\', '; a=""'])
@pytest.mark.parametrize("begin", ["form-data", 'form-data; a="', "form-data; a="])
def test_a_content_disposition_takes_time_in_proportion_to_its_length(begin: str, piece: str) -> None:
    once, twice = (_seconds(_parsed, begin + piece * (size // len(piece))) for size in (100_000, 200_000))
    assert twice < 3 * once + 0.05  # seconds; what grows with the square takes many
    assert twice < 0.5


def _parsed(value: str) -> None:
    try:
        form_disposition.parse(value)
    except ValueError:
        return


@pytest.mark.parametrize("piece", [b"-", b"\r", b"\n", b"\r\n", b"\r\n--", b"\r\n--c ", b"\r\n-"])
def test_a_form_whose_boundaries_have_blanks_is_not_held_back(piece: bytes) -> None:
    parser = form_parser.FormParser("multipart/form-data; boundary=b")
    list(parser.events(b'--b \r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'))
    chunk, passed = piece * (64 * 1024 // len(piece)), 0
    for _ in range(20):
        passed += sum(len(event) for event in parser.events(chunk) if isinstance(event, bytes | bytearray))
    assert 20 * len(chunk) - passed < 2 * form_parser.MAX_PADDED_LINE_BYTES


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_blanks_after_a_boundary_are_dropped_wherever_the_form_is_cut(size: int) -> None:
    content = b"---\r\n-\r\n\r\n--\r\r\n--c \r\n----\r\n\r\n-"
    form = (
        b'--b \r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + content + b"\r\n--b-- \t\r\n"
    )
    parser = form_parser.FormParser("multipart/form-data; boundary=b")
    head, rest = form[:30], form[30:]
    chunks = [head, *(rest[start : start + size] for start in range(0, len(rest), size)), b""]
    events = [event for chunk in chunks for event in parser.events(chunk)]
    assert b"".join(event for event in events if isinstance(event, bytes | bytearray)) == content


def _seconds(use: Use, text: str) -> float:
    """The shortest of three times."""
    pattern = getattr(getattr(use, "__self__", None), "pattern", "")
    subject = text.encode() if isinstance(pattern, bytes) else text
    seconds = []
    for _ in range(3):
        began = time.process_time()
        use(subject)
        seconds.append(time.process_time() - began)
    return min(seconds)
