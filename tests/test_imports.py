"""Every module can be imported first, without settings, and imports point one way."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys

import pytest

from tests.stack import ROOT

MODULES = sorted(path.stem for path in ROOT.glob("*.py") if path.stem != "gunicorn.conf")
ENTRY_POINTS = {"worker"}


def imports(module: str) -> set[str]:
    """Our modules that a module imports, anywhere in it."""
    tree = ast.parse((ROOT / f"{module}.py").read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found & set(MODULES)


@pytest.mark.parametrize("module", sorted(set(MODULES) - ENTRY_POINTS))
def test_a_module_can_be_imported_first(module: str) -> None:
    command = [sys.executable, "-W", "error", "-c", f"import {module}"]
    result = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_there_is_no_import_cycle() -> None:
    graph = {module: imports(module) for module in MODULES}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_nobody_imports_the_app_but_its_entry_point() -> None:
    assert {module for module in MODULES if "app" in imports(module)} == ENTRY_POINTS


def test_only_the_store_knows_boto3() -> None:
    users = {
        module
        for module in MODULES
        if "import boto" in (text := (ROOT / f"{module}.py").read_text()) or "from boto" in text
    }
    assert users == {"s3_client", "s3_errors"}


@pytest.mark.parametrize("module", MODULES)
def test_no_function_imports(module: str) -> None:
    for node in ast.walk(ast.parse((ROOT / f"{module}.py").read_text())):
        if isinstance(node, ast.FunctionDef):
            inner = [child for child in ast.walk(node) if isinstance(child, ast.Import | ast.ImportFrom)]
            assert not inner, f"{module}.{node.name}"


def test_only_the_database_module_opens_transactions_that_write() -> None:
    """SQLite's writers take turns there."""
    openers = set()
    for module in MODULES:
        for node in ast.walk(ast.parse((ROOT / f"{module}.py").read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "begin" and "engine" in ast.unparse(node.value):
                openers.add(module)
    assert openers == {"database"}
