"""Allow lists take true files of a family, and nothing that pretends. On a real gunicorn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from intake.sniff import refused_type
from tests.kit import zoo
from tests.kit.stack import RedisServer, S3Server, Web


def iso(brand: bytes) -> bytes:
    """The first bytes of a film, a sound or a picture of the ISO's container."""
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0" + brand + b"mif1" + b"\0" * 40


EBML = b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84"
WEBM = EBML + b"webmB\x87\x81\x04B\x85\x81\x02\x18S\x80g"
TRUE = [
    ("audio/webm", WEBM),
    ("audio/webm;codecs=opus", WEBM),
    ("video/webm", WEBM),
    ("audio/x-matroska", WEBM.replace(b"\x84webm", b"\x88matroska")),
    *(("audio/mp4", iso(brand)) for brand in (b"mp42", b"isom", b"M4A ", b"M4B ", b"iso5", b"dash")),
    *(("video/quicktime", b"\0\0\1\0" + atom + b"\0" * 60) for atom in (b"moov", b"wide", b"mdat", b"free")),
    ("video/quicktime", iso(b"qt  ")),
    ("audio/3gpp", iso(b"3gp4")),
    *(("image/heic", iso(brand)) for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")),
    ("image/heif", iso(b"heic")),
    ("image/avif", iso(b"avif")),
    ("video/mp2t", (b"G\x40\x11\x10" + b"\0" * 184) * 4),
    ("video/ogg", b"OggS\0\2" + b"\0" * 60),
    ("audio/x-ms-wma", b"0&\xb2u\x8ef\xcf\x11\xa6\xd9\0\xaa\0b\xcel" + b"\0" * 60),
    ("audio/mpeg", b"\xff\xe3\x18\xc4" + b"\0" * 60),
    ("application/pdf", b"\n%PDF-1.7\n1 0 obj"),
    ("application/pdf", b"\x1b%-12345X@PJL\r\n%PDF-1.7\n\0"),
    ("image/x-portable-pixmap", b"P3\n1 1\n255\n0 0 0\n"),
    ("image/tiff", b"II+\0\x08\0\0\0" + b"\0" * 60),
    ("image/tiff", b"MM\0+\0\x08\0\0" + b"\0" * 60),
    ("audio/wav", b"RF64\xff\xff\xff\xffWAVEds64" + b"\0" * 60),
    ("audio/aiff", b"FORM\0\0\0\0AIFCFVER" + b"\0" * 60),
    ("image/jp2", b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 "),
]
LIES = [
    ("image/png", zoo.HTML),
    ("image/png", zoo.SVG),
    ("image/png", zoo.elf()),
    ("image/heic", zoo.HTML),
    ("image/jp2", zoo.HTML),
    ("image/x-unheard-of", zoo.HTML),
    ("image/x-unheard-of", zoo.elf()),
    ("image/x-unheard-of", b"#!/bin/sh\n"),
    ("audio/mpeg", b"hello"),
    ("image/jp2", b"alert(1)"),
    ("image/jxl", b"<html>\0"),
    ("image/jp2", b"<?php phpinfo(); ?>\0"),
    ("image/x-unheard-of", b"<script>alert(1)</script>\0"),
    ("image/x-unheard-of", b"\xef\xbb\xbf \n<script>alert(1)</script>\0"),
    ("image/x-portable-pixmap", b"<script>alert(1)</script>\0"),
    ("image/x-unheard-of", b""),
    ("video/quicktime", b"<!--moov--><script>alert(1)</script>\0"),
    ("video/quicktime", b"<!--wide--><script>alert(1)</script>\0"),
    ("video/mp4", b"<!--ftyp--><script>alert(1)</script>\0"),
    ("image/heic", b"<!--ftypheic--><script>alert(1)</script>\0"),
    ("audio/webm", b"\0\xff" * 60),
    ("application/pdf", zoo.HTML + b"\n%PDF-1.7"),
    ("application/pdf", b"<html>\0\n%PDF-1.7"),
    ("application/pdf", zoo.DOCX),
    ("text/html", zoo.PNG),
]


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("families")
    settings = {
        **s3.settings,
        **redis_server.settings,
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
    }
    server = Web(folder, settings | {"ALLOWED_CONTENT_TYPES": "image/*, audio/*, video/*, application/pdf"})
    try:
        server.start()
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize(("declared", "content"), TRUE)
def test_a_true_file_is_taken(web: Web, declared: str, content: bytes) -> None:
    answer = web.upload("async", "a.bin", content, declared.partition(";")[0])
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize(("declared", "content"), LIES)
def test_a_lie_is_refused(web: Web, declared: str, content: bytes) -> None:
    assert web.upload("async", "a.bin", content, declared).status_code == 415


def test_sound_is_no_film_where_only_sound_is_taken() -> None:
    assert refused_type("audio/webm", "video/webm", ("audio/*",), ()) is None
    assert refused_type("video/webm", "video/webm", ("audio/*",), ()) == "video/webm"
    assert refused_type("audio/webm", "video/webm", ("audio/*",), ("video/*",)) == "video/webm"


def test_a_text_is_no_font() -> None:
    assert refused_type("font/collection", "text/plain", ("font/*",), ()) == "text/plain"
