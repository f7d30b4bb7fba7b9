"""Presets: what the operator lets be made of files, read from PRESETS_FILE at the start."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from config import ConfigError
from file import VAGUE_TYPES
from processing import hints

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
TABLE = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
COLOR = re.compile(r"#[0-9a-f]{6}", re.ASCII | re.IGNORECASE)
COLUMN_TYPE = re.compile(
    r"text|boolean|bigint|double|date|timestamp|time|decimal\((?P<precision>\d{1,2}),(?P<scale>\d{1,2})\)",
    re.ASCII,
)
LONGEST_SIDE = 16_384
MOST_PRECISION = 38
RULES = "rules"
LIBRARIES = {"image": "pyvips", "table": "duckdb"}
REQUIREMENTS = {"image": "requirements-images.txt", "table": "requirements-tables.txt"}
TYPES = {
    "image": ("image/*",),
    "table": (
        *(
            "text/csv",
            "text/tab-separated-values",
            "text/plain",
            "application/vnd.ms-excel",
            "application/x-empty",
        ),
        *("application/octet-stream", "application/zip", "application/x-ole-storage", "application/xml"),
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "application/vnd.oasis.opendocument.spreadsheet",
    ),
}
"""The detected types that a kind of preset takes; a container of many formats is looked into when it is made."""
NONE = "none"
"""What a client asks for that wants nothing made."""


class Key(NamedTuple):
    """One key of a preset: what it may be, in words, how that is checked, and its default."""

    must: str
    is_valid: Callable[[Any], bool]
    default: Any = None


def _whole(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _one_of(*known: str) -> Callable[[Any], bool]:
    return lambda value: value in known


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _is_column_type(text: Any) -> bool:
    found = COLUMN_TYPE.fullmatch(text) if isinstance(text, str) else None
    if found and found["precision"]:
        return int(found["scale"]) <= int(found["precision"]) <= MOST_PRECISION and found["precision"] != "0"
    return found is not None


def _are_columns(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_column_type, value.values()))


def _flag(text: str) -> Key:
    return Key(f"true or false: {text}", _is_flag, False)


SIDE = Key(f"a number of pixels from 1 to {LONGEST_SIDE}", _whole(1, LONGEST_SIDE), LONGEST_SIDE)
KEYS: dict[str, dict[str, Key]] = {
    "image": {
        "width": SIDE,
        "height": SIDE,
        "fit": Key("inside or cover", _one_of("inside", "cover"), "inside"),
        "format": Key("jpeg, png, webp or avif", _one_of("jpeg", "png", "webp", "avif"), "webp"),
        "quality": Key("a number from 1 to 100", _whole(1, 100), 80),
        "background": Key("a color such as #ffffff", _matches(COLOR), "#ffffff"),
    },
    "table": {
        "table": Key("a folder's name in lower case, such as orders", _matches(TABLE)),
        "typing": Key("exact, value or text", _one_of("exact", "value", "text"), "exact"),
        "columns": Key(
            "a table of types: text, boolean, bigint, double, date, timestamp, time, decimal(p,s)",
            _are_columns,
            {},
        ),
        "sheets": Key("visible or all", _one_of("visible", "all"), "visible"),
        "trim": _flag("remove spaces around every cell"),
        "null_words": Key("a list of the words that mean NULL", _are_words, []),
        "drop_empty_columns": _flag("leave out columns without any cell"),
        "drop_duplicates": _flag("leave out rows that repeat an earlier one"),
        "footer": Key("keep or drop", _one_of("keep", "drop"), "keep"),
        "names": Key("keep or snake", _one_of("keep", "snake"), "keep"),
        **{name: Key(hint.must, hint.is_valid_value) for name, hint in hints.HINTS.items()},
    },
}


@dataclass(frozen=True)
class Preset:
    """One preset: its name, its kind and the values of its keys."""

    name: str
    kind: str
    values: Mapping[str, Any]

    def takes(self, detected_type: str) -> bool:
        """Returns True if files of a detected type can be made into this."""
        return any(fnmatchcase(detected_type, pattern) for pattern in TYPES[self.kind])


@dataclass(frozen=True)
class Presets:
    """All presets by name, and which are used where the client asks for none."""

    by_name: Mapping[str, Preset] = field(default_factory=dict)
    rules: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def of_type(self, declared: str, detected: str) -> list[Preset]:
        """Return the presets that the rules name for a file's type.

        Args:
            declared: the media type as its client declares it.
            detected: the one that its bytes tell, which counts unless it is that of many formats.
        """
        kind = declared.partition(";")[0].strip().lower() if detected in VAGUE_TYPES else detected
        named = [name for pattern, names in self.rules.items() if fnmatchcase(kind, pattern) for name in names]
        found = [self.by_name[name] for name in dict.fromkeys(named)]
        return [preset for preset in found if preset.takes(detected)]


def load(path: str) -> Presets:
    """Read the presets.

    Args:
        path: PRESETS_FILE; empty for none.

    Raises:
        ConfigError: the file cannot be read, or a preset is wrong; the text names it.
    """
    if not path:
        return Presets()
    try:
        found = tomllib.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"PRESETS_FILE cannot be read: {error}") from None
    rules = found.pop(RULES, {})
    by_name = {name: read_preset(name, values) for name, values in found.items()}
    _check_rules(rules, by_name)
    return Presets(by_name, rules)


def read_preset(name: str, values: Any) -> Preset:
    """Read one preset.

    Args:
        name: its name.
        values: its table in PRESETS_FILE.

    Raises:
        ConfigError: it is wrong; the text names it.
    """
    if not NAME.fullmatch(name) or name == NONE:
        raise _wrong(name, "must be named by at most 32 lower case letters, digits, - and _, and not none")
    kind = values.pop("kind", None) if isinstance(values, dict) else None
    if kind not in KEYS:
        raise _wrong(name, f"kind must be image or table, not {kind!r}")
    known = KEYS[kind]
    for key, value in values.items():
        if key not in known:
            raise _wrong(name, f"{key} is unknown; the keys of kind {kind} are {', '.join(known)}")
        if not known[key].is_valid(value):
            raise _wrong(name, f"{key} must be {known[key].must}, not {value!r}")
    if kind == "image" and not {"width", "height"} & values.keys():
        raise _wrong(name, "width or height is missing")
    if kind == "table" and "table" not in values:
        raise _wrong(name, "table is missing: the folder in the lake")
    if find_spec(LIBRARIES[kind]) is None:
        raise _wrong(name, f"kind {kind} needs {LIBRARIES[kind]}: pip install -r {REQUIREMENTS[kind]}")
    defaults = {key: one.default for key, one in known.items() if one.default is not None}
    return Preset(name, kind, defaults | values)


def _check_rules(rules: Any, by_name: Mapping[str, Preset]) -> None:
    if not isinstance(rules, dict):
        raise _wrong(RULES, "must be a table")
    for pattern, names in rules.items():
        if not _are_words(names) or "/" not in pattern:
            raise _wrong(RULES, f'{pattern} must be a type and a list of presets, as in "image/*" = ["thumb"]')
        if unknown := [name for name in names if name not in by_name]:
            raise _wrong(RULES, f"{pattern} names {unknown[0]!r}, which is no preset")


def _wrong(name: str, problem: str) -> ConfigError:
    return ConfigError(f"PRESETS_FILE: [{name}] {problem}.")
