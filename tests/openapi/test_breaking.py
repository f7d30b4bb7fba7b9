"""The look at the API's document in `make check`: what breaks clients fails, unless a new version tells."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kit.stack import ROOT

PROGRAM = ROOT / ".ci" / "breaking.py"
Piece = dict[str, Any]


def document() -> Piece:
    """A small document with something of everything."""
    file = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "description": "Its name."},
            "mode": {"type": "string", "enum": ["async", "celery"]},
            "size": {"type": "integer", "minimum": 0},
            "note": {"type": ["string", "null"]},
        },
        "required": ["id", "mode", "size"],
        "additionalProperties": False,
    }
    get = {
        "parameters": [{"$ref": "#/components/parameters/Limit"}],
        "responses": {"200": {"$ref": "#/components/responses/Page"}, "404": {"description": "None."}},
    }
    form = {"type": "object", "properties": {"file": {"type": "string"}}, "required": ["file"]}
    post = {
        "requestBody": {"content": {"multipart/form-data": {"schema": form}}},
        "responses": {"202": {"headers": {"Location": {"required": True, "schema": {"type": "string"}}}}},
        "security": [{"key": []}],
    }
    page = {"type": "array", "items": {"$ref": "#/components/schemas/File"}, "maxItems": 200}
    limit = {"in": "query", "name": "limit", "schema": {"type": "integer", "maximum": 200, "enum": [10, 100]}}
    return {
        "info": {"version": "1.2.3"},
        "security": [],
        "paths": {"/files": {"get": get, "post": post}},
        "components": {
            "schemas": {"File": file},
            "parameters": {"Limit": limit},
            "responses": {"Page": {"content": {"application/json": {"schema": page}}}},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def changed(place: str, value: Any = None) -> Piece:
    """The document with another value at a place, or without what is there."""
    made = document()
    *way, last = place.split(">")
    at: Any = made
    for step in way:
        at = at[int(step)] if isinstance(at, list) else at[step]
    if value is None:
        del at[last]
    elif isinstance(at, list):
        at.append(value)
    else:
        at[last] = value
    return made


FILE = "components>schemas>File"
GET, POST = "paths>/files>get", "paths>/files>post"
LIMIT, FORM = "components>parameters>Limit", f"{POST}>requestBody>content>multipart/form-data>schema"
LOCATION = f"{POST}>responses>202>headers>Location"
NEW = {"in": "query", "name": "new", "schema": {"type": "string"}}

BREAKS = {
    "GET /files is gone": [changed("paths>/files"), changed(GET)],
    "404 is gone": [changed(f"{GET}>responses>404")],
    "application/json is gone": [changed("components>responses>Page>content>application/json")],
    "size is gone": [changed(f"{FILE}>properties>size")],
    "size may be missing now": [changed(f"{FILE}>required", ["id", "mode"])],
    "size: type integer has become string": [changed(f"{FILE}>properties>size>type", "string")],
    "size: type integer has become ['integer', 'null']": [
        changed(f"{FILE}>properties>size>type", ["integer", "null"])
    ],
    "size: minimum 0 has become None": [changed(f"{FILE}>properties>size>minimum")],
    "mode: the values": [
        changed(f"{FILE}>properties>mode>enum", ["async", "celery", "tus"]),
        changed(f"{FILE}>properties>mode>enum"),
    ],
    "maxItems 200 has become 300": [
        changed("components>responses>Page>content>application/json>schema>maxItems", 300)
    ],
    "header Location is gone": [changed(LOCATION)],
    "header Location may be missing now": [changed(f"{LOCATION}>required")],
    "query parameter limit is gone": [changed(f"{GET}>parameters")],
    "query parameter limit is required now": [changed(f"{LIMIT}>required", True)],
    "query parameter new is required now": [changed(f"{GET}>parameters>-", NEW | {"required": True})],
    "query parameter limit: maximum 200 has become 100": [changed(f"{LIMIT}>schema>maximum", 100)],
    "query parameter limit: minimum None has become 1": [changed(f"{LIMIT}>schema>minimum", 1)],
    "query parameter limit: the values": [changed(f"{LIMIT}>schema>enum", [10])],
    "query parameter limit: pattern None has become x": [changed(f"{LIMIT}>schema>pattern", "x")],
    "query parameter limit: style None has become form": [changed(f"{LIMIT}>style", "form")],
    "the body is required now": [changed(f"{POST}>requestBody>required", True)],
    "the body: multipart/form-data is gone": [changed(f"{POST}>requestBody")],
    "multipart/form-data: name is required now": [changed(f"{FORM}>required", ["file", "name"])],
    "no key is no longer enough": [changed("security", [{"key": []}])],
    "['scheme=bearer type=http'] is no longer enough": [
        changed("components>securitySchemes>key>scheme", "basic"),
        changed(f"{POST}>security", [{"key": [], "other": []}])
        | {"components": document()["components"] | {"securitySchemes": {"key": {"type": "http"}, "other": {}}}},
    ],
}
HARMLESS = [
    document(),
    changed("paths>/new", document()["paths"]["/files"]),
    changed("paths>/files>put", document()["paths"]["/files"]["get"]),
    changed(f"{GET}>responses>429", {"description": "Later."}),
    changed(f"{FILE}>properties>new", {"type": "string"}),
    changed(f"{FILE}>required", ["id", "mode", "size", "note"]),
    changed(f"{FILE}>properties>note>type", "string"),
    changed(f"{FILE}>properties>mode>enum", ["async"]),
    changed(f"{FILE}>properties>mode>const", "async"),
    changed(f"{FILE}>properties>id>description", "Its id."),
    changed(f"{FILE}>properties>size>minimum", 1),
    changed(f"{GET}>parameters>-", NEW),
    changed(f"{LIMIT}>schema>maximum", 1000),
    changed(f"{LIMIT}>schema>type", "number"),
    changed(f"{LIMIT}>schema>enum"),
    changed(f"{FORM}>properties>new", {"type": "string"}),
    changed(f"{FORM}>required", []),
    changed(f"{POST}>security", [{"key": []}, {}]),
    changed(f"{POST}>security", []),
]


def breaks(old: Piece, new: Piece) -> list[str]:
    return list(runpy.run_path(str(PROGRAM))["breaks"](old, new))


@pytest.mark.parametrize(("line", "new"), [(line, new) for line, news in BREAKS.items() for new in news])
def test_what_breaks_clients_is_told(line: str, new: Piece) -> None:
    found = breaks(document(), new)
    assert any(line in one for one in found), found


@pytest.mark.parametrize("new", HARMLESS)
def test_what_breaks_no_client_is_not_told(new: Piece) -> None:
    assert breaks(document(), new) == []


def check(folder: Path, version: str, released: str, place: str) -> subprocess.CompletedProcess[str]:
    (folder / "docs").mkdir()
    before, after = document(), changed(place)
    before["info"]["version"], after["info"]["version"] = released, version
    for name, made in {"openapi-released": before, "openapi": after}.items():
        (folder / "docs" / f"{name}.json").write_text(json.dumps(made))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}  # as `make check` has it
    return subprocess.run(
        [sys.executable, PROGRAM], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("version", "released", "code"),
    [
        ("1.3.0", "1.2.3", 1),
        ("2.0.0", "1.9.9", 0),
        ("0.9.1", "0.9.0", 1),
        ("0.10.0", "0.9.0", 0),
        ("1.0", "0.9", 0),
    ],
)
def test_a_break_needs_a_version_that_tells(tmp_path: Path, version: str, released: str, code: int) -> None:
    result = check(tmp_path, version, released, GET)
    assert result.returncode == code
    assert "API: GET /files is gone\n" in result.stderr
    assert ("raise __version__" in result.stderr) == bool(code)


def test_without_a_break_it_is_silent(tmp_path: Path) -> None:
    result = check(tmp_path, "1.2.3", "1.2.3", f"{FILE}>properties>id>description")
    assert (result.returncode, result.stderr) == (0, "")
