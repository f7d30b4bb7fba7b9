"""Recipes: presets as a client has asked for them, frozen on the row of its file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from core.errors import InvalidUpload, UnsupportedUpload
from core.file_row import FileRow
from processing import presets
from processing.hints import HINTS
from processing.presets import NONE, Preset, Presets

MAX_BYTES = 1024
KEPT_DIGITS = 8
EXTENSIONS = {"jpeg": "jpg", "png": "png", "webp": "webp", "avif": "avif"}
OUTPUTS = VARIANT, PART, REPORT, REJECTED = "variant", "part", "report", "rejected"


class Asked(NamedTuple):
    """One preset that a client asks for, with its hints."""

    preset: str
    hints: tuple[tuple[str, Any], ...] = ()


class Recipe(NamedTuple):
    """A preset's values as they were when they were asked for, with the client's hints in them."""

    preset: str
    kind: str
    values: Mapping[str, Any]
    digest: str

    @property
    def output(self) -> str:
        """The main output."""
        return VARIANT if self.kind == "image" else PART

    def dump(self) -> dict[str, Any]:
        """Return the recipe as it is kept on a row."""
        return self._asdict()


def read_asked(text: str) -> tuple[Asked, ...]:
    """Read the field `process`: names of presets with commas between them, each perhaps with hints.

    Raises:
        InvalidUpload: it is malformed.
    """
    if len(text.encode()) > MAX_BYTES:
        raise InvalidUpload(f"process must not exceed {MAX_BYTES} bytes.")
    return tuple(dict.fromkeys(_asked(one.strip()) for one in text.split(",") if one.strip()))


def _asked(text: str) -> Asked:
    name, _, query = text.partition("?")
    if not presets.NAME.fullmatch(name):
        raise InvalidUpload("process must be names of presets, with commas between them.")
    try:
        found = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict") if query else []
    except ValueError:
        raise InvalidUpload(f"The hints of {name} must be written as in orders?delimiter=%3B&header=2.") from None
    for key, _value in found:
        if key not in HINTS or [one for one, _ in found].count(key) > 1:
            raise InvalidUpload(f"The hints of a table are {', '.join(HINTS)}, each once at most.")
    return Asked(name, tuple(sorted((key, _hint(key, value)) for key, value in found)))


def _hint(key: str, text: str) -> Any:
    value = HINTS[key].read(unquote(text) if key == "sheet" else text)
    if value is None:
        raise InvalidUpload(f"The hint {key} must be {HINTS[key].must}.")
    return value


def choose(known: Presets, asked: Sequence[Asked], declared: str, detected: str) -> list[Recipe]:
    """Return the recipes for a file: as its client asks, or else as the rules say.

    Args:
        known: the presets.
        asked: what the client asks for.
        declared: the media type as its client declares it.
        detected: the one that its bytes tell.

    Raises:
        InvalidUpload: there is no such preset, or it takes no hints.
        UnsupportedUpload: a preset cannot take such a file.
    """
    if not asked:
        return [_recipe(preset) for preset in known.of_type(declared, detected)]
    found: dict[str, Recipe] = {}
    for one in asked:
        if one.preset == NONE:
            if len(asked) > 1:
                raise InvalidUpload("process must be none, or presets, not both.")
            return []
        preset = _find(known, one)
        if not preset.takes(detected):
            raise UnsupportedUpload(f"The preset {preset.name} does not take files of type {detected}.")
        recipe = _recipe(preset, one.hints)
        found[recipe.digest] = recipe
    return list(found.values())


def check_asked(known: Presets, asked: Sequence[Asked]) -> None:
    """Check what can be known of the asked presets before the first byte.

    Raises:
        InvalidUpload: there is no such preset, or it takes no hints.
    """
    for one in asked:
        if one.preset != NONE:
            _find(known, one)


def _find(known: Presets, one: Asked) -> Preset:
    preset = known.by_name.get(one.preset)
    if preset is None:
        names = ", ".join(known.by_name) or "none"
        raise InvalidUpload(f"There is no preset {one.preset!r} here; there are: {names}.")
    if one.hints and preset.kind != "table":
        raise InvalidUpload(f"The preset {preset.name} takes no hints.")
    return preset


def _recipe(preset: Preset, hints: Sequence[tuple[str, Any]] = ()) -> Recipe:
    values = {**preset.values, **dict(hints)}
    text = json.dumps([preset.name, preset.kind, values], sort_keys=True)
    return Recipe(preset.name, preset.kind, values, hashlib.sha256(text.encode()).hexdigest()[:16])


def dump(recipes: Sequence[Recipe]) -> str | None:
    """Return recipes as a row keeps them; None without any."""
    return json.dumps([recipe.dump() for recipe in recipes], separators=(",", ":")) if recipes else None


def load(text: str | None) -> list[Recipe]:
    """Return the recipes that a row keeps."""
    return [Recipe(**one) for one in json.loads(text or "[]")]


def load_one(row: FileRow) -> Recipe:
    """Return the recipe of a derivative."""
    return Recipe(**json.loads(row.recipe or "{}"))


def key(recipe: Recipe, parent: FileRow, child_id: str, output: str, sheet: str = "") -> str:
    """Return the key of a derivative in S3, below the prefix of its original.

    Args:
        recipe: how it is made.
        parent: the original.
        child_id: the derivative.
        output: which output of the recipe.
        sheet: a part of the name of the lake's folder, where a workbook has several sheets.
    """
    folders, _, name = parent.key.rpartition("/")
    prefix = f"{folders}/" if folders else ""
    if output == PART:
        table = recipe.values["table"] + (f"__{sheet}" if sheet else "")
        return f"{prefix}lake/{table}/ingest_date={parent.created_at:%Y-%m-%d}/part-{child_id}.parquet"
    stem = name.rpartition(".")[0]
    return f"{prefix}derived/{stem}/{recipe.preset}-{recipe.digest[:KEPT_DIGITS]}.{extension(recipe, output)}"


def extension(recipe: Recipe, output: str) -> str:
    """Return the extension of an output's name, without its dot."""
    if output == VARIANT:
        return EXTENSIONS[recipe.values["format"]]
    return {PART: "parquet", REPORT: "report.json", REJECTED: "rejected.csv"}[output]
