"""Lanes as a run calls them: in a child behind its walls, without a service around it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from config import Config
from core.database import utcnow
from models import File
from processing import budgets, presets
from processing.lanes.tables.engine import database
from processing.sandbox import parent as sandbox

FILES = Path(__file__).parents[1] / "processing" / "files"
SETTINGS = {"S3_BUCKET_NAME": "any"}
PART = "part-0.parquet"


class Result(NamedTuple):
    """What a lane has made in its folder."""

    answer: sandbox.Answer
    folder: Path

    @property
    def report(self) -> dict[str, Any]:
        """The report of a table."""
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return found

    @property
    def types(self) -> dict[str, str]:
        """The type of every column, by its name."""
        return {column["name"]: column["type"] for column in self.report["columns"]}

    def rows(self, part: str = PART) -> list[tuple[Any, ...]]:
        """The rows of the Parquet file, as DuckDB gives them."""
        return database().execute(f"SELECT * FROM read_parquet('{self.folder / part}')").fetchall()

    def texts(self, column: str, part: str = PART) -> list[str | None]:
        """The values of a column, as texts."""
        query = f"""SELECT CAST("{column}" AS VARCHAR) FROM read_parquet('{self.folder / part}')"""
        return [row[0] for row in database().execute(query).fetchall()]


def preset(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe of one preset, with the defaults of its keys."""
    known = {"width": 256, "height": 256, "format": "png"} if kind == "image" else {"table": "t"}
    found = presets.read_preset("test", {"kind": kind, **known, **values})
    return {"preset": "test", "kind": kind, "values": dict(found.values), "digest": "0123456789abcdef"}


def run(
    lane: str, source: Path, folder: Path, recipes: list[dict[str, Any]], env: Mapping[str, str] | None = None
) -> Result:
    """Run a lane on a file."""
    config = Config.from_mapping({**SETTINGS, **(env or {})})
    parent = File.draft("a", size=source.stat().st_size, created_at=utcnow())
    limits = budgets.limits_of("image" if lane == "images" else "table", parent, config)
    folder.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file:
        answer = sandbox.run(lane, recipes, limits, file, folder, lambda: None, 30)
    return Result(answer, folder)


def table(source: Path, folder: Path, env: Mapping[str, str] | None = None, **values: Any) -> Result:
    """Make a table of a file."""
    return run("tables.lane", source, folder, [preset("table", values)], env)


def text_table(text: str | bytes, folder: Path, env: Mapping[str, str] | None = None, **values: Any) -> Result:
    """Make a table of a text."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "source.csv"
    source.write_bytes(text if isinstance(text, bytes) else text.encode())
    return table(source, folder / "out", env, **values)


def image(source: Path, folder: Path, env: Mapping[str, str] | None = None, **values: Any) -> Result:
    """Make one size of an image."""
    return run("images", source, folder, [preset("image", values)], env)
