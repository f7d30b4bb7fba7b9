"""The docs: their commands run as written, in a newcomer's shell, and what they name exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path

import click
import pytest
from dotenv import dotenv_values
from flask.cli import FlaskGroup, ScriptInfo

from app import create_app
from config import Config
from core import errors
from delivery import lease
from events import webhook_sender, webhooks
from ferryman.client import File
from tests.kit.documents import NO_TEST, RUN, fences, prose
from tests.kit.ports import free_port
from tests.kit.programs import NGINX
from tests.kit.stack import ROOT, wait_for

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\((?!http|mailto|#)([^)#]+)(?:#([^)]+))?\)")
READ = ("json", "dotenv", "text", "mermaid", "nginx", "ini", "toml", "sql", "js", "swift", "java")
PROGRAMS = "aws|cat|celery|cp|curl|docker|echo|export|flask|gunicorn|kill|make|openssl|pg_dump|pip|psql|python3?"
COMMAND = re.compile(rf"^\s*[$#>]?\s*(\w+=\S+ )*(\.venv/bin/|sudo )?({PROGRAMS}) ", re.MULTILINE)
INDENTED = re.compile(rf"^( {{4,}}|\t|\$ |~~~|<pre)\s*\$?\s*({PROGRAMS}|sh)\b", re.MULTILINE)
NEWCOMERS = {
    "README.md",
    "aws.md",
    "deployment.md",
    "integrate.md",
    "modes.md",
    "operations.md",
    "processing.md",
    "quickstart.md",
    "resumable.md",
    "troubleshooting.md",
    "upgrade.md",
    "webhooks.md",
}
SAMPLES = {"report.pdf": b"%PDF-1.7\n" + bytes(200_000), "photo.png": b"\x89PNG\r\n\x1a\n" + bytes(5000)}
SAMPLES["data.csv"] = b"name,size\na,1\nb,2\n"
SCRIPT_SECONDS = 90


def script(document: Path, folder: Path) -> str:
    """All that runs of a document, in its order; blocks that have a name are files that the reader saves."""
    lines = []
    for fence in fences(document):
        if fence.note and not fence.note.startswith(NO_TEST):
            (folder / fence.note).write_text(fence.text)
        elif fence.runs:
            lines.append(fence.text if fence.language == "sh" else f"python - <<'END'\n{fence.text}END\n")
    return "\n".join(lines).replace("curl ", "curl --fail ")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A service as `make run` starts it: its port, and its data."""
    folder = tmp_path_factory.mktemp("docs")
    port, data = free_port(), folder / "data"
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "PORT": str(port), "DATA_DIR": str(data)}
    with (folder / "run.log").open("wb") as log:
        run = subprocess.Popen([sys.executable, "-m", "local.run"], cwd=ROOT, env=env, stdout=log, stderr=log)
    try:
        wait_for(lambda: "Ferryman is ready" in (folder / "run.log").read_text(errors="replace"), 60)
        yield port, data
    finally:
        run.terminate()
        run.wait(60)


def newcomers_folder(folder: Path, data: Path) -> None:
    """Make a folder look like Ferryman's own beside `make run`, with some files to upload."""
    for path in [
        *ROOT.glob("*.py"),
        *(path.parent for path in ROOT.glob("*/__init__.py")),
        ROOT / "migrations",
        ROOT / "deploy",
    ]:
        (folder / path.name).symlink_to(path)
    (folder / "var").symlink_to(data)
    for name, content in SAMPLES.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "document", [path for path in DOCS if any(fence.runs for fence in fences(path))], ids=lambda path: path.name
)
def test_the_commands_run_as_written(service: tuple[int, Path], document: Path, tmp_path: Path) -> None:
    port, data = service
    newcomers_folder(tmp_path, data)
    ports = {"5000": port, "5001": free_port(), "8000": free_port()}

    def here(text: str) -> str:
        return re.sub(r"\b(5000|5001|8000)\b", lambda match: str(ports[match[0]]), text)

    commands = here(script(document, tmp_path))
    for fence in fences(document):
        if (path := tmp_path / (fence.note or ".")).is_file():
            path.write_text(here(path.read_text()))
    code, said = run_in_bash(commands, tmp_path)
    assert code == 0, said


def run_in_bash(commands: str, folder: Path) -> tuple[int, str]:
    """Run commands in a shell that knows nothing, and end what they leave; the answer is code and output."""
    log = folder / "shell.log"
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "PS4": "+ ${SECONDS} s: "}
    with log.open("wb") as output:
        command = ["bash", "-euo", "pipefail", "-x", "-c", commands]
        shell = subprocess.Popen(
            command, cwd=folder, env=env, stdout=output, stderr=output, start_new_session=True
        )
    try:
        code = shell.wait(SCRIPT_SECONDS)
    except subprocess.TimeoutExpired:
        code = -1
    with suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()
    return code, log.read_text(errors="replace")


@pytest.mark.parametrize(
    "document", [*DOCS, *ROOT.glob("[!R]*.md"), ROOT / "ferryman/README.md"], ids=lambda path: path.name
)
def test_lines_of_prose_are_short(document: Path) -> None:
    """Tables cannot wrap, nor can a link."""
    lines = [line for line in prose(document).splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) > 100 and " " in line.strip()] == []


def test_the_session_with_curl_runs(service: tuple[int, Path], tmp_path: Path) -> None:
    port, _ = service
    (tmp_path / "report.pdf").write_bytes(SAMPLES["report.pdf"])
    command = [str(ROOT / "examples" / "curl.sh"), "report.pdf", f"http://localhost:{port}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = ["status COMPLETE", "downloaded the same bytes", "deleted"]
    assert done.stdout.splitlines()[1:] == said


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_every_block_is_run_or_checked(document: Path) -> None:
    for fence in fences(document):
        assert fence.language in (*RUN, *READ), f"say what this is: {fence}"
        if fence.note.startswith(NO_TEST.strip()):
            assert len(fence.note) > len(NO_TEST) + 10, f"say why it is not run: {fence}"
        elif fence.note:
            assert fence.language in ("python", "json"), f"only these are saved: {fence}"
            assert re.fullmatch(r"\w+\.(py|json)", fence.note)
        if fence.language in READ:
            assert not COMMAND.search(fence.text), f"let it run, as sh: {fence}"
    assert "```" not in prose(document), "a block is not closed, or not as it was opened"
    assert not INDENTED.search(prose(document)), "let it run, as a block of sh"


def test_the_newcomers_documents_have_commands() -> None:
    tried = {document.name for document in DOCS if any(fence.runs for fence in fences(document))}
    assert tried >= NEWCOMERS


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_what_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    for link, section in LINK.findall(text):
        target = document.parent / link
        assert target.exists(), link
        assert not section or section in sections(target), f"{link}#{section}"
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in tests, name
    for name in re.findall(r"\btest_\w+\.py", text):
        assert list((ROOT / "tests").rglob(name)), name
    measured = (ROOT / "core" / "metrics.py").read_text() + (ROOT / "ops" / "scrape.py").read_text()
    for name in re.findall(r"\bferryman_\w+", text):
        assert f'"{name.removesuffix("_total")}"' in measured, name
    for cause in re.findall(r'cause="(\w+)"', text):
        assert cause in {"Database", "Unexpected", *vars(errors), *vars(lease)}, cause


def sections(document: Path) -> list[str]:
    """A document's headings, as links name them."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_the_commands_in_a_sentence_exist(document: Path, tmp_path: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    flask = FlaskGroup(create_app=lambda: create_app({"S3_BUCKET_NAME": "any", "SPOOL_DIR": str(tmp_path)}))
    for program, rest in re.findall(r"`(make|flask)\s([^`]+)`", prose(document)):
        words = shlex.split(" ".join(rest.split()).removeprefix("--app app "))
        if program == "make":
            assert {word for word in words if "=" not in word} <= set(targets), rest
        else:
            assert_flask_knows(flask, words)


def assert_flask_knows(flask: FlaskGroup, words: list[str]) -> None:
    """Follow the words from command to command; those behind the last are its options and values."""
    command: click.Command = flask
    with click.Context(flask, obj=ScriptInfo(create_app=flask.create_app)) as context:
        for word in words:
            if word.startswith("--"):
                known = {name for option in command.get_params(context) for name in option.opts}
                assert word in known, words
            elif isinstance(command, click.Group):
                found = command.get_command(context, word)
                assert found, words
                command = found


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_the_settings_in_a_block_are_taken(document: Path) -> None:
    known = re.findall(r"^#? ?(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    for fence in fences(document):
        if fence.language == "dotenv":
            given = {name: value or "" for name, value in dotenv_values(stream=StringIO(fence.text)).items()}
            assert set(given) <= set(known), given
            Config.from_mapping({"S3_BUCKET_NAME": "any", **given})


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_the_json_in_a_block_is_json_and_a_file_has_all_its_fields(document: Path) -> None:
    for fence in fences(document):
        if fence.language == "json":
            shown = json.loads(fence.text)
            shown = shown.get("data", shown)
            assert "upload_status" not in shown or tuple(shown) == File._fields


def test_the_figures_of_webhooks_are_those_of_the_code() -> None:
    text = " ".join(prose(ROOT / "docs" / "webhooks.md").split())
    units = ((3600, "h"), (60, "min"), (1, "s"))
    pauses = [next(f"{p // size} {unit}" for size, unit in units if p >= size) for p in webhook_sender.PAUSES]
    assert f"after {', '.join(pauses[:-1])} and {pauses[-1]}." in text
    assert f"{webhook_sender.SEND_LEASE_SECONDS:.0f} s after it was taken" in text
    assert f"within {webhook_sender.READ_SECONDS:.0f} seconds" in text
    assert (len(webhook_sender.PAUSES), webhooks.MESSAGES_KEPT.days) == (9, 7)  # "ten attempts", "a week"


@pytest.mark.skipif(not NGINX, reason="NGINX IS NOT INSTALLED, so docs/deployment.md's block is not tested")
def test_nginx_takes_the_block_for_a_proxy(tmp_path: Path) -> None:
    [block] = [fence.text for fence in fences(ROOT / "docs" / "deployment.md") if fence.language == "nginx"]
    config = tmp_path / "nginx.conf"
    config.write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\nserver {{\nlisten 8080;\n{block}}}\n}}\n")
    command = [NGINX or "nginx", "-t", "-p", str(tmp_path), "-c", str(config), "-e", "stderr"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
