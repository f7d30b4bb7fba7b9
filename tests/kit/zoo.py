"""Small files of many kinds, true ones and such that pretend."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
import zlib

EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
"""The test file that every scanner finds, in two halves so that none finds it here. Source: https://www.eicar.org"""
CONTENT_TYPES = "[Content_Types].xml"


def zipped(*names: str, content: bytes = b"<x/>" * 300, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A ZIP file with the same content under each name."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", method) as archive:
        for name in names:
            archive.writestr(name, content)
    return output.getvalue()


def png() -> bytes:
    """A picture of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0\0\0\0")) + chunk(b"IEND", b"")


def elf() -> bytes:
    """The start of a program of this machine."""
    with open("/proc/self/exe", "rb") as program:
        return program.read(20_000)


HTML = b"<!DOCTYPE html><html><script>alert(1)</script></html>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
PNG = png()
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
GIF_AND_JS = b"GIF89a/*\x01\0\x01\0*/=1;alert(1)//"
XLSX = zipped(CONTENT_TYPES, "_rels/.rels", "docProps/app.xml", "xl/workbook.xml")
DOCX = zipped(CONTENT_TYPES, "_rels/.rels", "word/document.xml")
ZIP_OF_EICAR = zipped("readme.txt", content=EICAR)
BIG_ZIP = zipped("a.bin", content=os.urandom(20_000), method=zipfile.ZIP_STORED)
OFFICE = "application/vnd.openxmlformats-officedocument"

KINDS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "application/x-empty"),
    "one byte": (b"\r", "text/plain"),
    "text": (b"hello world\n", "text/plain"),
    "UTF-8": ("こんにちは".encode(), "text/plain"),
    "Latin-1": ("Grüße aus Köln\n".encode("latin-1"), "text/plain"),
    "UTF-16": ("hello\n".encode("utf-16"), "text/plain"),
    "a text that begins like a bitmap": (b"BMW sells\n", "text/plain"),
    "a text that begins like a program": (b"MZ is a name\n", "text/plain"),
    "Markdown": (b"# Title\n\nSome *text*, [a](b)\n", "text/plain"),
    "JSON": (b'{"a": [1, 2, 3]}', "text/plain"),
    "JavaScript": (b"function f() { return 1 }\n", "text/plain"),
    "CSV": (b"a,b,c\n1,2,3\n4,5,6\n", "text/csv"),
    "CSV with semicolons": (b"a;b\r\n1;2\r\n", "text/csv"),
    "a long CSV": (b"a,b,c\n" + b"1,2,3\n" * 5000, "text/csv"),
    "CSV of one long line": (b"a,b," * 5000, "text/plain"),
    "EICAR": (EICAR, "text/plain"),
    "XML": (b'<?xml version="1.0"?><a/>', "application/xml"),
    "HTML": (HTML, "text/html"),
    "HTML after blanks": (b"\n\n  <HTML><body>x</body>", "text/html"),
    "HTML after a comment": (b"<!-- c --><html>", "text/html"),
    "HTML with a byte order mark": (b"\xef\xbb\xbf<html>", "text/html"),
    "HTML in UTF-16": ("<html>".encode("utf-16"), "text/html"),
    "XHTML": (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x">\n<html>', "text/html"),
    "a script of HTML": (b"<script>alert(1)</script>", "text/html"),
    "SVG": (SVG, "image/svg+xml"),
    "SVG after a prolog": (
        b'<?xml version="1.0"?>\n<!-- c -->\n<!DOCTYPE svg [<!ENTITY a "b">]>\n' + SVG,
        "image/svg+xml",
    ),
    "SVG after a long comment": (b"<!--" + b"x" * 4000 + b"-->" + SVG, "image/svg+xml"),
    "SVG with a prefix": (b'<a:svg xmlns:a="http://www.w3.org/2000/svg"/>', "image/svg+xml"),
    "shell script": (b"#!/bin/sh\necho hi\n", "text/x-shellscript"),
    "bash script": (b"#!/usr/bin/env bash\n", "text/x-shellscript"),
    "Python script": (b"#!/usr/bin/env python3\n", "text/x-script"),
    "PHP": (b"<?php echo 1; ?>", "text/x-php"),
    "bytes": (b"\0\xff bytes" * 100, "application/octet-stream"),
    "PNG": (PNG, "image/png"),
    "JPEG": (JPEG, "image/jpeg"),
    "GIF": (b"GIF89a\x01\0\x01\0\x80\0\0", "image/gif"),
    "GIF and JavaScript": (GIF_AND_JS, "image/gif"),
    "GIF and JavaScript, all text": (b"GIF89a=1;alert(1)//", "image/gif"),
    "PNG and HTML": (PNG + HTML, "image/png"),
    "WebP": (b"RIFF\x24\0\0\0WEBPVP8 ", "image/webp"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\n", "application/pdf"),
    "PDF, all text": (b"%PDF-1.7\n1 0 obj\n", "application/pdf"),
    "ZIP": (zipped("a.txt"), "application/zip"),
    "empty ZIP": (zipped(), "application/zip"),
    "big ZIP": (BIG_ZIP, "application/zip"),
    "ZIP of EICAR": (ZIP_OF_EICAR, "application/zip"),
    "xlsx": (XLSX, f"{OFFICE}.spreadsheetml.sheet"),
    "docx": (DOCX, f"{OFFICE}.wordprocessingml.document"),
    "gzip": (gzip.compress(b"x" * 99), "application/gzip"),
    "ELF": (elf(), "application/x-executable"),
    "PE": (
        b"MZ" + b"\0" * 58 + struct.pack("<I", 64) + b"PE\0\0\x64\x86" + b"\0" * 200,
        "application/x-msdownload",
    ),
    "MP3": (b"ID3\x03\0\0\0\0\0\0\xff\xfb\x90\x64", "audio/mpeg"),
    "WAV": (b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0", "audio/x-wav"),
    "MP4": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "video/mp4"),
    "woff2": (b"wOF2\0\1\0\0\0\0", "font/woff2"),
    "TrueType": (b"\0\1\0\0\0\x0c\0\x80\0\3\0\x40OS/2", "font/ttf"),
}
