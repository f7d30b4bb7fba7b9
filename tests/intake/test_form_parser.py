"""Parsing a form: whatever its parts hold and wherever its chunks end, each part comes whole."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multipart import MultipartSegment

from intake.forms.disposition import parse
from intake.forms.parser import FormParser

PIECES = [b"\r\n", b"\r", b"\n", b"-", b"--", b"--b", b" ", b"\t", b"x", b"--b  \r\n", b"--b--  \r\n"]
CONTENT = (
    st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join).filter(lambda it: b"\r\n--b" not in b"\r\n" + it)
)


def parts_of(chunks: list[bytes]) -> list[bytes]:
    """What the parts hold."""
    parser, parts = FormParser("multipart/form-data; boundary=b"), []
    with parser:
        for chunk in (*chunks, b""):
            for event in parser.events(chunk):
                if isinstance(event, MultipartSegment):
                    parts.append(b"")
                elif event:
                    parts[-1] += event
    return parts


@given(st.lists(CONTENT, min_size=1, max_size=3), st.sampled_from([b"", b" ", b"\t  "]), st.data())
def test_parts_come_whole(contents: list[bytes], padding: bytes, data: st.DataObject) -> None:
    head = b'--b%s\r\nContent-Disposition: form-data; name="x"\r\n\r\n' % padding
    body = b"".join(head + content + b"\r\n" for content in contents) + b"--b--" + padding + b"\r\n"
    cuts = data.draw(st.sets(st.integers(len(b"--b" + padding) + 2, len(body)), max_size=6))
    assert parts_of([body[start:end] for start, end in pairwise(sorted({0, len(body), *cuts}))]) == contents


def test_what_only_looks_like_a_padded_boundary_stays() -> None:
    content = b"a line that ends in --b  \r\n--c  \r\n"
    body = b'--b \r\nContent-Disposition: form-data; name="x"\r\n\r\n' + content + b"\r\n--b-- \r\n"
    assert parts_of([body]) == [content]


@pytest.mark.parametrize("word", ["=?utf-7?Q?+2AA-?=", "=?utf-7?Q?a+2AA-b.txt?="])
def test_half_a_character_is_no_name(word: str) -> None:
    assert parse(f'form-data; name="file"; filename="{word}"').filename == word
