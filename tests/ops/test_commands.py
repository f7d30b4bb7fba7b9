"""The operator's commands as processes: what is wrong is told in one line, by exit code 1, without a traceback."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from flask.cli import main

from tests.kit.stack import ROOT, S3Server

NOWHERE = "http://127.0.0.1:9"
DATABASE = (["db", "upgrade"], ["keys", "list"], ["keys", "create", "x"], ["webhooks", "list"])
S3 = (["create-bucket"], ["s3-doctor"], ["set-lifecycle"], ["set-cors"], ["reconcile"])
REDELIVER = ["webhooks", "redeliver", "--failed"]
ALL = (*DATABASE, *S3[:4], ["keys", "revoke", "x"], REDELIVER, ["db", "current"])

# What is wrong: the setting, the commands that meet it, and what they say.
WRONG: dict[str, tuple[dict[str, str], tuple[list[str], ...], str]] = {
    "no bucket": ({"S3_BUCKET_NAME": ""}, ALL, "S3_BUCKET_NAME is missing"),
    "not a bucket": ({"S3_BUCKET_NAME": "no bucket!"}, S3[:1], "S3_BUCKET_NAME must be"),
    "mode": ({"AUTH": "maybe"}, ALL[:1], "AUTH must be one of"),
    "number": ({"UPLOAD_THREADS": "four"}, ALL[:1], "UPLOAD_THREADS must be"),
    "region": ({"AWS_REGION": "no region!"}, S3[:1], "AWS_REGION must be"),
    "endpoint": ({"S3_ENDPOINT_URL": "store:9000"}, S3[:1], "S3_ENDPOINT_URL must be"),
    "port": (
        {"S3_ENDPOINT_URL": "http://store:http"},
        S3[:1],
        "S3_ENDPOINT_URL must",
    ),
    "link address": ({"S3_PUBLIC_ENDPOINT_URL": "store"}, S3[:1], "S3_PUBLIC_ENDPOINT_URL must be"),
    "database": ({"SQLALCHEMY_DATABASE_URI": "nonsense"}, ALL[:2], "SQLALCHEMY_DATABASE_URI must be"),
    "driver": ({"SQLALCHEMY_DATABASE_URI": "oracle://x"}, ALL[:2], "SQLALCHEMY_DATABASE_URI must be"),
    "dialect": ({"SQLALCHEMY_DATABASE_URI": "mongo://x"}, ALL[:1], "SQLALCHEMY_DATABASE_URI must be"),
    "broker": ({"CELERY_BROKER_URL": "redis"}, ALL[:1], "CELERY_BROKER_URL must be"),
    "database away": (
        {"SQLALCHEMY_DATABASE_URI": "postgresql+psycopg://u:s3cret@127.0.0.1:9/x"},
        (*DATABASE, ["keys", "revoke", "x"], REDELIVER, ["db", "current"]),
        "The database does not answer",
    ),
    "database file": ({"SQLALCHEMY_DATABASE_URI": "sqlite:////dev/null/x.db"}, DATABASE[:2], "does not answer"),
    "no tables": ({}, (["keys", "list"], ["webhooks", "list"]), "run flask --app app db upgrade"),
    "S3 away": ({"S3_ENDPOINT_URL": NOWHERE}, S3[:3], "S3 does not answer"),
}


@pytest.fixture(scope="module")
def settings(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("commands")
    own = {"SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}", "SPOOL_DIR": str(folder / "spool")}
    return {**s3.settings, **own, "PATH": os.environ["PATH"]}


class Outcome(NamedTuple):
    """How a command ended, and what it wrote, errors included."""

    exit_code: int | None
    output: str


def flask(settings: Mapping[str, str], command: Sequence[str], log: Path) -> Outcome:
    """Run `flask` as a process of its own; all are forked from one that has imported the app already."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["app", "tests.ops.test_commands"])
    process = processes.Process(target=run_flask, args=(dict(settings), list(command), log))
    process.start()
    process.join(60)
    return Outcome(process.exitcode, log.read_text())


def run_flask(settings: dict[str, str], command: list[str], log: Path) -> None:
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(settings)
    os.chdir(ROOT)
    sys.argv = ["flask", "--app", "app", *command]
    main()


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_in_a_line(settings: dict[str, str], name: str, tmp_path: Path) -> None:
    wrong, commands, words = WRONG[name]
    for command in commands:
        outcome = flask({**settings, **wrong}, command, tmp_path / "-".join(command))
        lines = outcome.output.splitlines()
        assert outcome.exit_code == 1, (command, outcome)
        # A wrong setting ends every program in the same words, other failures end a command in those of click.
        assert [line.partition(":")[0] for line in lines] in (["Error"], ["ferryman"]), (command, outcome)
        assert words in lines[0], (command, outcome)
        assert "s3cret" not in outcome.output
