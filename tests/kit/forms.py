"""Multipart forms, byte by byte."""

from __future__ import annotations

from typing import Any


def form(*parts: tuple[str, str | None, bytes]) -> dict[str, Any]:
    """A multipart body: (field, file name or None, content)."""
    body = b""
    for field, name, content in parts:
        file_name = f'; filename="{name}"' if name is not None else ""
        body += f'--b\r\nContent-Disposition: form-data; name="{field}"{file_name}\r\n\r\n'.encode()
        body += content + b"\r\n"
    return {"data": body + b"--b--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


def body_of(size: int) -> bytes:
    """A form of exactly so many bytes."""
    empty = len(form(("file", "a.txt", b""))["data"])
    data: bytes = form(("file", "a.txt", b"x" * (size - empty)))["data"]
    return data
