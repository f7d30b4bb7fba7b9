"""Migrations: several at once, back and forth, on both databases."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.kit.stack import ROOT

FILE = """INSERT INTO files (id, name, key, mode, size, content_type, crc64nvme, spool_id, due_at, upload_status,
 attempts, created_at, updated_at, erased_at)
 VALUES (:id, 'a', :id, 'async', 1, 'text/plain', '', '', :now, 'COMPLETE', 1, :now, :now, :erased)"""
NOW = "2026-01-01 00:00:00+00:00"


def flask_db(env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flask", "--app", "app", "db", *arguments]
    return subprocess.Popen(
        command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(env: dict[str, str], *arguments: str) -> None:
    process = flask_db(env, *arguments)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said


@pytest.fixture
def settings(database_uri: str, tmp_path: Path) -> dict[str, str]:
    spool = {"S3_BUCKET_NAME": "any", "SPOOL_DIR": str(tmp_path / "spool")}
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SQLALCHEMY_DATABASE_URI": database_uri, **spool}


@pytest.mark.parametrize("start", ["", "0003"], ids=["from nothing", "from 0003"])
def test_of_several_upgrades_at_once_all_end_well(settings: dict[str, str], start: str) -> None:
    if start:
        run(settings, "upgrade", start)
    processes = [flask_db(settings, "upgrade") for _ in range(4)]
    said = [process.communicate(timeout=90)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    run(settings, "check")


def test_a_downgrade_shows_no_erased_file(settings: dict[str, str]) -> None:
    run(settings, "upgrade", "0005")
    engine = create_engine(settings["SQLALCHEMY_DATABASE_URI"])
    with engine.begin() as connection:
        for name, erased in {"kept": None, "erased": NOW}.items():
            connection.execute(text(FILE), {"id": name, "now": NOW, "erased": erased})
    run(settings, "downgrade", "0004")
    run(settings, "upgrade")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT id FROM files")).scalars().all() == ["kept"]
    engine.dispose()


def test_an_upgrade_makes_the_names_of_all_files_searchable(settings: dict[str, str]) -> None:
    run(settings, "upgrade", "0007")
    engine = create_engine(settings["SQLALCHEMY_DATABASE_URI"])
    names = {f"{number:032x}": f"RE\u0301SUME\u0301 {number}.TXT" for number in range(1001)}
    with engine.begin() as connection:
        for file_id in names:
            connection.execute(text(FILE), {"id": file_id, "now": NOW, "erased": None})
        rename = text("UPDATE files SET name = :name WHERE id = :id")
        connection.execute(rename, [{"id": file_id, "name": name} for file_id, name in names.items()])
    run(settings, "upgrade")
    with engine.connect() as connection:
        found = connection.execute(text("SELECT id, name, name_search FROM files")).all()
    assert {row.id: row.name for row in found} == names
    assert {row.id: row.name_search for row in found} == {
        file_id: f"r\u00e9sum\u00e9 {number}.txt" for number, file_id in enumerate(names)
    }
    engine.dispose()
