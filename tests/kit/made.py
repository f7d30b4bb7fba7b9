"""Services with presets, and what is made of the files that they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests

from tests.kit.lanes import FILES
from tests.kit.stack import Web, wait_for

PRESETS = """
[thumb]
kind = "image"
width = 128
height = 128
[small]
kind = "image"
width = 64
height = 64
fit = "cover"
format = "jpeg"
[orders]
kind = "table"
table = "orders"
[rules]
"text/csv" = ["orders"]
"""
PHOTO = FILES / "sharp--Landscape_6.jpg"
ENDED = ("COMPLETE", "ERROR", None)


def presets(folder: Path) -> dict[str, str]:
    """The setting that names a file with PRESETS."""
    path = folder / "presets.toml"
    path.write_text(PRESETS)
    return {"PRESETS_FILE": str(path)}


def upload(web: Web, mode: str, source: Path, *wanted: str, **more: Any) -> requests.Response:
    """Post a file, and ask for presets."""
    parts = [("process", (None, name)) for name in wanted]
    file = ("file", (source.name, source.read_bytes()))
    return requests.post(f"{web.url}/{mode}_upload", files=[*parts, file], timeout=60, **more)


def made(web: Web, file_id: str, seconds: float = 40) -> dict[str, Any]:
    """Wait until all that is made of a file has ended."""

    def ended() -> bool:
        found = web.file(file_id)
        return found["upload_status"] == "ERROR" or (
            found["upload_status"] == "COMPLETE" and found["derivatives_status"] in ENDED
        )

    wait_for(ended, seconds, f"derivatives of {file_id}")
    return web.file(file_id)


def by_preset(file: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The derivatives of a file, by preset and output."""
    return {f"{one['preset']} {one['output']}": one for one in file["derivatives"]}
