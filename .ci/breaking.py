"""`make check`: whether the API's document breaks what the last release promised; a new major version may."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openapi.document import without_references

RELEASED, CURRENT = Path("docs/openapi-released.json"), Path("docs/openapi.json")

ANNOTATIONS = {
    "description",
    "example",
    "examples",
    "summary",
    "title",
    "deprecated",
    "tags",
    "operationId",
    "links",
}
LOWER, UPPER = ("minimum", "minLength", "minItems"), ("maximum", "maxLength", "maxItems")
JUDGED = {"type", "enum", "const", "properties", "required", "items", "contentSchema", *LOWER, *UPPER}

Piece = dict[str, Any]


def main() -> int:
    """Compare the document with the released one; the answer is the exit code."""
    released, current = (json.loads(path.read_text()) for path in (RELEASED, CURRENT))
    found = list(breaks(released, current))
    for line in found:
        sys.stderr.write(f"API: {line}\n")
    if not found or major(current) > major(released):
        return 0
    sys.stderr.write(
        f"That breaks clients of {RELEASED}. If it is meant, raise __version__ in ferryman/__init__.py: the first"
        " number, or the second one while the first is 0. At the release,"
        " `make release-api` lets the new promise begin.\n"
    )
    return 1


def major(document: Piece) -> list[int]:
    """The part of the version that a break must raise: up to the first number that is not 0."""
    part = re.findall(r"^(?:0\.)*\d+", document["info"]["version"])[0]
    return [int(number) for number in part.split(".")]


def breaks(old: Piece, new: Piece) -> Iterator[str]:
    """Tell what a client of the old document cannot rely on in the new one."""
    old, new = without_references(old, old), without_references(new, new)
    for path, operations in old["paths"].items():
        for verb, before in operations.items():
            where, after = f"{verb.upper()} {path}", new["paths"].get(path, {}).get(verb)
            if after is None:
                yield f"{where} is gone"
            else:
                yield from _operation(before, after, where)
                yield from _security(_keys(old, before), _keys(new, after), where)


def _operation(old: Piece, new: Piece, where: str) -> Iterator[str]:
    yield from _parameters(_named(old), _named(new), where)
    yield from _body(old.get("requestBody", {}), new.get("requestBody", {}), f"{where}: the body")
    for code, before in old["responses"].items():
        after, place = new["responses"].get(code), f"{where}: {code}"
        if after is None:
            yield f"{place} is gone"
            continue
        yield from _headers(before.get("headers", {}), after.get("headers", {}), place)
        yield from _content(before.get("content", {}), after.get("content", {}), place, sent=False)


def _named(operation: Piece) -> Piece:
    return {f"{one['in']} parameter {one['name']}": one for one in operation.get("parameters", [])}


def _parameters(old: Piece, new: Piece, where: str) -> Iterator[str]:
    for name, after in new.items():
        if after.get("required") and not old.get(name, {}).get("required"):
            yield f"{where}: {name} is required now"
    for name, before in old.items():
        if name not in new:
            yield f"{where}: {name} is gone"
        else:
            yield from _schema(before.get("schema"), new[name].get("schema"), f"{where}: {name}", sent=True)
            yield from _rest(before, new[name], f"{where}: {name}", {"schema", "required"})


def _body(old: Piece, new: Piece, where: str) -> Iterator[str]:
    if new.get("required") and not old.get("required"):
        yield f"{where} is required now"
    yield from _content(old.get("content", {}), new.get("content", {}), where, sent=True)


def _headers(old: Piece, new: Piece, where: str) -> Iterator[str]:
    for name, before in old.items():
        if name not in new:
            yield f"{where}: header {name} is gone"
            continue
        if before.get("required") and not new[name].get("required"):
            yield f"{where}: header {name} may be missing now"
        yield from _schema(before.get("schema"), new[name].get("schema"), f"{where}: header {name}", sent=False)


def _content(old: Piece, new: Piece, where: str, *, sent: bool) -> Iterator[str]:
    for media_type, before in old.items():
        if media_type not in new:
            yield f"{where}: {media_type} is gone"
        else:
            after = new[media_type]
            yield from _schema(before.get("schema"), after.get("schema"), f"{where}: {media_type}", sent=sent)


def _schema(old: Any, new: Any, where: str, *, sent: bool) -> Iterator[str]:
    """Compare schemas: what a client may send must not get less, what it gets must not get more."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        if old != new:
            yield f"{where}: {old} has become {new}"
        return
    narrow, wide = (new, old) if sent else (old, new)
    if not _types(wide) <= _types(narrow):
        yield f"{where}: type {old.get('type')} has become {new.get('type')}"
    if not _is_among(_values(wide), _values(narrow)):
        yield f"{where}: the values {_values(old)} have become {_values(new)}"
    yield from _bounds(old, new, where, sent=sent)
    yield from _properties(old, new, where, sent=sent)
    for inner in ("items", "contentSchema"):
        yield from _schema(old.get(inner), new.get(inner), f"{where}: {inner}", sent=sent)
    yield from _rest(old, new, where, JUDGED)


def _types(schema: Piece) -> set[str]:
    types = schema.get("type", ["null", "boolean", "object", "array", "number", "string"])
    found = {types} if isinstance(types, str) else set(types)
    return found | {"integer"} if "number" in found else found


def _values(schema: Piece) -> Any:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _is_among(some: Any, all_of: Any) -> bool:
    return all_of is None or (some is not None and all(value in all_of for value in some))


def _bounds(old: Piece, new: Piece, where: str, *, sent: bool) -> Iterator[str]:
    for bound in (*LOWER, *UPPER):
        sign, least = (1, float("-inf")) if bound in LOWER else (-1, float("inf"))
        change = (new.get(bound, least) - old.get(bound, least)) * sign if old.get(bound) != new.get(bound) else 0
        if change > 0 if sent else change < 0:
            yield f"{where}: {bound} {old.get(bound)} has become {new.get(bound)}"


def _properties(old: Piece, new: Piece, where: str, *, sent: bool) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    for name in before:
        if name not in after:
            yield f"{where}: {name} is gone"
        else:
            yield from _schema(before[name], after[name], f"{where}: {name}", sent=sent)
    had, has = set(old.get("required", ())), set(new.get("required", ()))
    for name in sorted(has - had if sent else (had - has) & set(after)):
        yield f"{where}: {name} is required now" if sent else f"{where}: {name} may be missing now"


def _rest(old: Piece, new: Piece, where: str, judged: set[str]) -> Iterator[str]:
    """Whatever cannot be judged must stay as it is."""
    for name in sorted((old.keys() | new.keys()) - judged - ANNOTATIONS):
        if old.get(name) != new.get(name):
            yield f"{where}: {name} {old.get(name)} has become {new.get(name)}"


def _keys(document: Piece, operation: Piece) -> list[set[str]]:
    """The ways to be let in, each as the schemes that it needs."""
    schemes = document.get("components", {}).get("securitySchemes", {})
    ways = (operation if "security" in operation else document).get("security", [])
    return [{_scheme(schemes[name]) for name in way} for way in ways] or [set()]


def _scheme(scheme: Piece) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(scheme.items()) if name not in ANNOTATIONS)


def _security(old: list[set[str]], new: list[set[str]], where: str) -> Iterator[str]:
    for way in old:
        if not any(needed <= way for needed in new):
            yield f"{where}: {sorted(way) or 'no key'} is no longer enough"


if __name__ == "__main__":
    sys.exit(main())
