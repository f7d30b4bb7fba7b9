"""Markdown documents: their prose, and their blocks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

from tests.kit.stack import ROOT

NO_TEST = "no-test: "
RUN = ("sh", "python")

FENCE = re.compile(r"^( *)```(\w*) *(.*)\n((?:.*\n)*?)\1```$", re.MULTILINE)


class Fence(NamedTuple):
    """A block of a document: its language, what stands behind that, and its text."""

    language: str
    note: str
    text: str

    @property
    def runs(self) -> bool:
        """Whether a reader types it in, or Python does."""
        return self.language in RUN and not self.note.startswith(NO_TEST)


def fences(document: Path) -> list[Fence]:
    found = FENCE.findall(document.read_text())
    return [Fence(language, note.strip(), dedent(text)) for _, language, note, text in found]


def prose(document: Path) -> str:
    """A document without its blocks."""
    return FENCE.sub("", document.read_text())


def json_of(document: str, mark: str) -> Any:
    """The one JSON block of a document that has this in it."""
    found = [fence.text for fence in fences(ROOT / "docs" / document) if fence.language == "json"]
    [text] = [text for text in found if mark in text]
    return json.loads(text)
