"""PRESETS_FILE: what is wrong in it stops the start, with the preset's name; what clients may ask for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from config import ConfigError
from core.errors import InvalidUpload, UnsupportedUpload
from processing import presets, recipes
from processing.presets import Presets
from tests.kit.stack import ROOT

GOOD = """
[thumb]
kind = "image"
width = 320
[orders]
kind = "table"
table = "orders"
[orders.columns]
zip = "text"
amount = "decimal(18,2)"
[rules]
"image/*" = ["thumb"]
"text/csv" = ["orders"]
"""
WRONG = {
    "no TOML": ("[thumb", "cannot be read"),
    "no kind": ("[thumb]\nwidth = 3", "[thumb] kind must be image or table, not None"),
    "another kind": ('[thumb]\nkind = "film"', "[thumb] kind must be image or table, not 'film'"),
    "no table": ("thumb = 3", "[thumb] kind must be"),
    "unknown key": ('[thumb]\nkind = "image"\nsides = 3', "[thumb] sides is unknown; the keys of kind image are"),
    "no size": ('[thumb]\nkind = "image"', "[thumb] width or height is missing"),
    "size 0": ('[thumb]\nkind = "image"\nwidth = 0', "[thumb] width must be a number of pixels from 1 to 16384"),
    "size true": ('[thumb]\nkind = "image"\nwidth = true', "[thumb] width must be"),
    "format": (
        '[thumb]\nkind = "image"\nwidth = 3\nformat = "gif"',
        "[thumb] format must be jpeg, png, webp or avif",
    ),
    "color": ('[thumb]\nkind = "image"\nwidth = 3\nbackground = "white"', "[thumb] background must be a color"),
    "quality": ('[thumb]\nkind = "image"\nwidth = 3\nquality = 101', "[thumb] quality must be"),
    "no folder": ('[orders]\nkind = "table"', "[orders] table is missing"),
    "folder": ('[orders]\nkind = "table"\ntable = "../x"', "[orders] table must be a folder's name"),
    "typing": ('[orders]\nkind = "table"\ntable = "o"\ntyping = "loose"', "[orders] typing must be"),
    "pin": ('[orders]\nkind = "table"\ntable = "o"\ncolumns = {a = "int"}', "[orders] columns must be"),
    "precision": (
        '[orders]\nkind = "table"\ntable = "o"\ncolumns = {a = "decimal(39,2)"}',
        "[orders] columns must",
    ),
    "encoding": ('[orders]\nkind = "table"\ntable = "o"\nencoding = "base64"', "[orders] encoding must be"),
    "flag": ('[orders]\nkind = "table"\ntable = "o"\ntrim = "yes"', "[orders] trim must be true or false"),
    "name": ('["Thumb 1"]\nkind = "image"\nwidth = 3', "[Thumb 1] must be named by"),
    "none": ('[none]\nkind = "image"\nwidth = 3', "[none] must be named by"),
    "rule without a list": ('[rules]\n"image/*" = "thumb"', "[rules] image/* must be a type and a list"),
    "rule of nothing": ('[rules]\n"image/*" = ["thumb"]', "[rules] image/* names 'thumb', which is no preset"),
}


@pytest.fixture
def known(tmp_path: Path) -> Presets:
    path = tmp_path / "presets.toml"
    path.write_text(GOOD)
    return presets.load(str(path))


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str, tmp_path: Path) -> None:
    text, told = WRONG[case]
    path = tmp_path / "presets.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        presets.load(str(path))
    assert f"PRESETS_FILE: {told}" in str(error.value) or told in str(error.value)


def test_a_missing_library_is_named_with_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "presets.toml"
    path.write_text(GOOD)
    monkeypatch.setitem(sys.modules, "pyvips", None)  # as if it were not installed
    with pytest.raises(
        ConfigError, match=r"\[thumb\] kind image needs pyvips: pip install -r requirements-images"
    ):
        presets.load(str(path))


def test_the_service_does_not_start_with_a_wrong_preset(tmp_path: Path) -> None:
    path = tmp_path / "presets.toml"
    path.write_text('[thumb]\nkind = "image"\nwidth = -1\n')
    env = {"S3_BUCKET_NAME": "any", "PRESETS_FILE": str(path), "SPOOL_DIR": str(tmp_path / "spool")}
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "app:create_app()"]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert "PRESETS_FILE: [thumb] width must be" in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("declared", "detected", "names"),
    [
        ("image/jpeg", "image/jpeg", ["thumb"]),
        ("application/octet-stream", "image/png", ["thumb"]),
        ("text/csv", "text/plain", ["orders"]),
        ("text/csv; charset=utf-8", "text/csv", ["orders"]),
        ("text/csv", "image/png", ["thumb"]),  # what the bytes tell counts
        ("image/png", "text/plain", []),
        ("application/pdf", "application/pdf", []),
    ],
)
def test_rules_go_by_what_the_bytes_tell(known: Presets, declared: str, detected: str, names: list[str]) -> None:
    assert [recipe.preset for recipe in recipes.choose(known, (), declared, detected)] == names


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tumb", "There is no preset 'tumb' here; there are: thumb, orders."),
        ("Thumb!", "process must be names of presets"),
        ("thumb?width=3", "The hints of a table are"),
        ("thumb?header=1", "The preset thumb takes no hints."),
        ("orders?delimiter=ab", "The hint delimiter must be one character."),
        ("orders?delimiter=%22", "The hint delimiter must be one character."),
        ("orders?encoding=klingon", "The hint encoding must be"),
        ("orders?encoding=rot13", "The hint encoding must be"),
        ("orders?header=x", "The hint header must be"),
        ("orders?header=1&header=2", "each once at most"),
        ("orders?header", "The hints of orders must be written"),
        ("orders,none", "none, or presets, not both"),
        ("x" * 1025, "process must not exceed 1024 bytes."),
    ],
)
def test_a_wrong_wish_is_400_and_named(known: Presets, text: str, told: str) -> None:
    with pytest.raises(InvalidUpload) as error:
        recipes.choose(
            known, recipes.read_asked(text), "text/csv" if "orders" in text else "image/png", "text/csv"
        )
    assert told in error.value.detail


def test_a_preset_that_cannot_take_the_type_is_415(known: Presets) -> None:
    with pytest.raises(UnsupportedUpload, match="thumb does not take files of type text/csv"):
        recipes.choose(known, recipes.read_asked("thumb"), "text/csv", "text/csv")
    with pytest.raises(UnsupportedUpload, match="orders does not take files of type image/png"):
        recipes.choose(known, recipes.read_asked("orders"), "text/csv", "image/png")


def test_none_asks_for_nothing_where_the_rules_would_make_something(known: Presets) -> None:
    assert recipes.choose(known, recipes.read_asked("none"), "image/png", "image/png") == []


def test_hints_are_read_and_change_the_digest(known: Presets) -> None:
    plain, hinted = (
        recipes.choose(known, recipes.read_asked(text), "text/csv", "text/csv")[0]
        for text in ("orders", "orders?delimiter=%3B&header=16&encoding=windows-1253&decimal=%2C&date_order=dmy")
    )
    wanted = {"delimiter": ";", "header": 16, "encoding": "windows-1253", "decimal": ",", "date_order": "dmy"}
    assert wanted.items() <= hinted.values.items()
    assert plain.digest != hinted.digest
    assert len(recipes.load(recipes.dump([plain, hinted]))) == 2


def test_a_preset_asked_for_twice_is_made_once(known: Presets) -> None:
    assert len(recipes.choose(known, recipes.read_asked("thumb,thumb"), "image/png", "image/png")) == 1


def test_a_recipe_is_frozen_as_it_was(known: Presets) -> None:
    [recipe] = recipes.choose(known, recipes.read_asked("thumb"), "image/png", "image/png")
    kept = json.loads(recipes.dump([recipe]) or "")
    assert kept[0]["values"]["width"] == 320
    assert kept[0]["values"]["format"] == "webp"
