"""Every module can be imported first, without settings, and imports point one way."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions

import pytest

from tests.kit.stack import ROOT

SPINE = sorted(path.stem for path in ROOT.glob("*.py"))
ORDER = (
    ("config", "ferryman"),
    ("core",),
    ("models", "local"),
    ("storage",),
    ("file", "access"),
    ("web",),
    ("events",),
    ("delivery",),
    ("processing",),
    ("tasks",),
    ("intake",),
    ("routes",),
    ("openapi",),
    ("ops",),
    ("app", "gunicorn.conf"),
    ("worker",),
)
"""The rooms, and the files of the spine: each imports only from the lines above its own."""
ROOMS = {name for line in ORDER for name in line} - set(SPINE)
PATHS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]
    if path.name != "__init__.py"
}
MODULES = sorted(PATHS)
ENTRY_POINTS = {"worker"}
STARTED = {"gunicorn.conf", "ferryman.__main__", *ENTRY_POINTS}


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules of ours that a module imports when it runs, so not those for its types only."""
    for node in [node for statement in tree.body if not is_for_types(statement) for node in ast.walk(statement)]:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def is_for_types(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"


def source(module: str) -> str:
    return PATHS[module].read_text()


IMPORTS = {module: set(imported(ast.parse(source(module)))) & set(MODULES) for module in MODULES}


def room(module: str) -> str:
    return module if module in SPINE else module.partition(".")[0]


def test_the_order_has_every_room_and_file() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "bench", "load"}
    assert folders == ROOMS
    assert sorted(name for line in ORDER for name in line) == sorted({*SPINE, *ROOMS})


@pytest.mark.parametrize("module", sorted(set(MODULES) - STARTED))
def test_a_module_can_be_imported_first(module: str) -> None:
    command = [sys.executable, "-W", "error", "-c", f"import {module}"]
    result = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_there_is_no_import_cycle() -> None:
    assert list(graphlib.TopologicalSorter(IMPORTS).static_order())


@pytest.mark.parametrize("module", MODULES)
def test_rooms_import_one_way(module: str) -> None:
    line = {name: number for number, names in enumerate(ORDER) for name in names}
    here = line[room(module)]
    wrong = {other for other in IMPORTS[module] if room(other) != room(module) and line[room(other)] >= here}
    assert not wrong


def test_no_name_of_ours_hides_a_dependency() -> None:
    """The folder of the service comes first on the path."""
    ours = {*SPINE, *ROOMS, "bench", "load", "migrations", "tests"} - {"ferryman"}
    foreign = {name for name, wheels in packages_distributions().items() if wheels != ["ferryman"]}
    assert not ours & (foreign | sys.stdlib_module_names)


def test_nobody_imports_the_app_but_its_entry_point() -> None:
    assert {module for module in MODULES if "app" in IMPORTS[module]} == ENTRY_POINTS


def test_only_the_room_of_s3_knows_boto3() -> None:
    users = {module for module in MODULES if "import boto" in source(module) or "from boto" in source(module)}
    assert users == {"storage.s3.addresses", "storage.s3.client", "storage.s3.errors"}


@pytest.mark.parametrize("module", MODULES)
def test_no_function_imports(module: str) -> None:
    for node in ast.walk(ast.parse(source(module))):
        if isinstance(node, ast.FunctionDef):
            inner = [child for child in ast.walk(node) if isinstance(child, ast.Import | ast.ImportFrom)]
            assert not inner, f"{module}.{node.name}"


def test_only_the_database_module_opens_transactions_that_write() -> None:
    """SQLite's writers take turns there."""
    openers = set()
    for module in MODULES:
        for node in ast.walk(ast.parse(source(module))):
            if isinstance(node, ast.Attribute) and node.attr == "begin" and "engine" in ast.unparse(node.value):
                openers.add(module)
    assert openers == {"core.database"}


@pytest.mark.parametrize("name", sorted(ROOMS - {"ferryman"}))
def test_a_room_says_in_a_sentence_what_it_is_for(name: str) -> None:
    text = (ROOT / name / "__init__.py").read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(ast.parse(text).body) == 1
