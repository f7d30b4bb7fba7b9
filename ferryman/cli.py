"""The command `ferryman`: uploads, watches, lists, downloads and deletes files of a service."""

from __future__ import annotations

import itertools
import json as json_format
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ferryman import __version__
from ferryman.batch import FAILED, OK, STDIN, UNREACHABLE, Batch, Service, write
from ferryman.client import Client, ClientError, File, Problem, Unreachable
from ferryman.sources import expand

PROGRAM = "ferryman"
DEFAULT_ADDRESS = "http://localhost:5000"
MODES = click.Choice(["normal", "async", "celery"])
GRANTS = click.Choice(["upload", "read", "delete"])
STATUSES = click.Choice(["PENDING", "PROCESSING", "COMPLETE", "ERROR"])
EPILOG = """\b
Exit codes:
  0    every file is COMPLETE (without --watch: accepted)
  1    a file was refused, could not be read or ended in ERROR
  2    the command is not used as it should be
  3    the service could not be reached, or the time is up
  130  Ctrl-C
"""

Command = Callable[..., None]


def connection_options(command: Command) -> Command:
    """Give a command the options that say where the service is, and which key it wants."""
    to = click.option(
        "--to", envvar="FERRYMAN_URL", show_envvar=True, default=DEFAULT_ADDRESS, show_default=True, metavar="URL"
    )
    key = click.option(
        "--key", envvar="FERRYMAN_KEY", show_envvar=True, help="Set the variable: `ps` shows options."
    )
    return to(key(command))


def metadata_option(text: str) -> Callable[[Command], Command]:
    """Give a command the option for metadata."""
    return click.option("--metadata", multiple=True, metavar="NAME=VALUE", callback=_pairs, help=text)


def _pairs(ctx: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    if not all(name and equals for name, equals, _ in pairs):
        raise click.BadParameter("Write it as NAME=VALUE.", ctx, option)
    return {name: value for name, _, value in pairs}


def batch_options(command: Command) -> Command:
    """Give a command the options that `Service` has."""
    options = (
        connection_options,
        click.option("--json", is_flag=True, help="Write a line of JSON for each file."),
        click.option("--jobs", type=click.IntRange(1), default=3, show_default=True, help="Files at a time."),
        click.option(
            "--timeout",
            type=click.FloatRange(0, min_open=True),
            default=3600,
            show_default=True,
            metavar="SECONDS",
            help="Give up after so long in all.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
@click.version_option(__version__, prog_name=PROGRAM)
def main() -> None:
    """Upload files to a Ferryman service, and watch, list, download and delete them."""


@main.command(epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option("--mode", type=MODES, default="async", show_default=True)
@click.option("--watch/--no-watch", "follow", help="Wait until every file is COMPLETE or ERROR.")
@click.option("--name", help="The name of the file that comes by standard input.")
@click.option("--recursive", "-r", is_flag=True, help="Upload the files in folders, and in the folders below.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave out matching files and folders.")
@metadata_option("Your own words beside each file.")
@click.option("--expires-in", type=click.IntRange(1), metavar="SECONDS", help="Delete the files after so long.")
@click.option("--process", multiple=True, metavar="PRESET", help="Make something of each file; may come often.")
@click.option(
    "--resume/--no-resume",
    default=None,
    help="Go on where an earlier run has come to; by default with files from 16 MiB, not in normal mode.",
)
@click.option("--direct", is_flag=True, help="Send the bytes to S3 itself, where the service lets them.")
@batch_options
@click.pass_context
def upload(
    ctx: click.Context,
    /,
    files: tuple[str, ...],
    mode: str,
    follow: bool,
    name: str | None,
    recursive: bool,
    exclude: tuple[str, ...],
    metadata: dict[str, str],
    expires_in: int | None,
    process: tuple[str, ...],
    **service: Any,
) -> None:
    """Upload files; `-` is standard input."""
    if files.count(STDIN) != (name is not None):
        raise click.UsageError("Standard input, '-', needs a --name; other files keep their own.")
    if service["direct"] and mode == "normal":
        raise click.UsageError("Where --direct is not possible, a file goes by tus: in mode async or celery.")
    if exclude and not recursive:
        raise click.UsageError("--exclude is for the files in folders; add --recursive.")
    failures: list[tuple[str, OSError]] = []
    found = list(expand(files, exclude, lambda *failure: failures.append(failure))) if recursive else files

    options = {"metadata": metadata, "expires_in": expires_in, "process": process}

    def task(batch: Batch) -> None:
        for source, error in failures:
            batch.report_failure(source, None, error)
        batch.upload(found, mode, name, follow, options)

    run(ctx, Service(**service), sum(map(_size, found)), task)


@main.command(epilog=EPILOG)
@click.argument("ids", nargs=-1, required=True)
@batch_options
@click.pass_context
def watch(ctx: click.Context, /, ids: tuple[str, ...], **service: Any) -> None:
    """Wait until files that were uploaded earlier are COMPLETE or ERROR."""
    run(ctx, Service(**service), 0, lambda batch: batch.watch(ids))


@main.command("process")
@click.argument("file_id")
@click.argument("presets", nargs=-1, required=True)
@connection_options
@click.pass_context
def process_file(ctx: click.Context, /, file_id: str, presets: tuple[str, ...], to: str, key: str | None) -> None:
    """Make more of a file, and wait until it is made."""

    def task(client: Client) -> None:
        file = client.wait(client.process(file_id, presets).id)
        for one in file.derivatives or ():
            write(f"{one['id']}  {one['upload_status']}  {one['preset']}  {one['error'] or one['name']}")

    ctx.exit(_each(to, key, [file_id], lambda client, _: task(client)))


@main.command("list")
@click.option("--status", type=STATUSES, help="Only files with this status.")
@click.option("--mode", type=click.Choice([*MODES.choices, "direct"]), help="Only files of this mode.")
@click.option("--name", help="Only files with this in their name.")
@click.option("--subject", help="Only files of this user.")
@metadata_option("Only files with this metadata, three at most.")
@click.option("--limit", type=click.IntRange(1), help="At most so many files; all by default.")
@click.option("--json", is_flag=True, help="Write a line of JSON for each file.")
@connection_options
@click.pass_context
def list_files(
    ctx: click.Context,
    /,
    metadata: dict[str, str],
    limit: int | None,
    json: bool,
    to: str,
    key: str | None,
    **filters: Any,
) -> None:
    """List the files, newest first."""

    def task(client: Client) -> None:
        wanted = {name: value for name, value in filters.items() if value is not None}
        wanted |= {f"metadata.{name}": value for name, value in metadata.items()}
        for file in itertools.islice(client.files(**wanted), limit):
            write(json_format.dumps(file._asdict()) if json else _line(file))

    ctx.exit(_each(to, key, [""], lambda client, _: task(client)))


@main.command()
@click.argument("ids", nargs=-1, required=True)
@click.option("--output", "-o", metavar="PATH", help="The file or folder to write; '-' is standard output.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@connection_options
@click.pass_context
def download(
    ctx: click.Context, /, ids: tuple[str, ...], output: str | None, force: bool, to: str, key: str | None
) -> None:
    """Download files, by default under their own names into this folder."""
    if len(ids) > 1 and output and not os.path.isdir(output):
        raise click.UsageError("Several files need a folder as --output.")

    def task(client: Client, file_id: str) -> None:
        if output == STDIN:
            _to_stdout(client, file_id)
            return
        target = _target(client, file_id, output)
        if target.exists() and not force:
            raise FileExistsError(None, "The file exists; replace it with --force", str(target))
        client.download(file_id, target)
        write(f"{file_id}  {click.format_filename(target)}")

    ctx.exit(_each(to, key, ids, task))


@main.command()
@click.argument("ids", nargs=-1, required=True)
@click.option("--expires-in", type=click.IntRange(1), default=3600, show_default=True, metavar="SECONDS")
@click.option("--inline", is_flag=True, help="Let a browser show the file; by default it is downloaded.")
@connection_options
@click.pass_context
def link(
    ctx: click.Context, /, ids: tuple[str, ...], expires_in: int, inline: bool, to: str, key: str | None
) -> None:
    """Make links to files, for whoever has them."""
    disposition = "inline" if inline else "attachment"
    ctx.exit(_each(to, key, ids, lambda client, one: write(client.link(one, expires_in, disposition).url)))


@main.group()
def tokens() -> None:
    """Upload tokens, for the browsers of your users."""


@tokens.command("create")
@click.option("--subject", help="The user, who sees only their own files; by default the whole account.")
@click.option("--expires-in", type=click.IntRange(1), metavar="SECONDS", help="By default 900.")
@click.option("--grant", "grants", multiple=True, type=GRANTS, help="By default to upload and to read.")
@click.option("--max-bytes", type=click.IntRange(1), help="The largest file.")
@click.option("--max-files", type=click.IntRange(1), help="How many files it uploads in all.")
@click.option("--content-type", "content_types", multiple=True, metavar="TYPE", help="Such as image/*.")
@click.option("--mode", "modes", multiple=True, type=MODES, help="By default every mode.")
@click.option("--process", multiple=True, metavar="PRESET", help="By default every preset.")
@metadata_option("Metadata of all its files, which its holder cannot change.")
@click.option(
    "--file-expires-in", type=click.IntRange(1), metavar="SECONDS", help="The longest life of its files."
)
@connection_options
@click.pass_context
def create_token(ctx: click.Context, /, to: str, key: str | None, **wanted: Any) -> None:
    """Make a token, and print it once."""
    given = {name: value for name, value in wanted.items() if value not in (None, (), {})}
    ctx.exit(_each(to, key, [""], lambda client, _: write(client.create_token(**given).token)))


@main.command()
@click.argument("ids", nargs=-1, required=True)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@connection_options
@click.pass_context
def delete(ctx: click.Context, /, ids: tuple[str, ...], yes: bool, to: str, key: str | None) -> None:
    """Delete files, and their objects in S3."""
    if not yes:
        click.confirm(
            f"Delete {len(ids)} file{'s' * (len(ids) > 1)}? This cannot be undone.", abort=True, err=True
        )
    ctx.exit(_each(to, key, ids, lambda client, file_id: client.delete(file_id)))


def run(ctx: click.Context, service: Service, size: int, task: Callable[[Batch], None]) -> None:
    """Do a batch's task, show its progress on a terminal, and exit with its code."""
    _connect(service.to, service.key)
    with tqdm(total=size, unit="B", unit_scale=True, leave=False, disable=None) as bar, logging_redirect_tqdm():
        batch = Batch(service, bar)
        try:
            task(batch)
        except KeyboardInterrupt:
            batch.interrupt()
    if batch.watched:
        write(f"To go on watching: {_resume(ctx, service, batch.watched)}", sys.stderr)
    if batch.running:
        sys.stdout.flush()
        os._exit(batch.exit_code)  # an ordinary exit waits for threads, and they may wait for an answer
    ctx.exit(batch.exit_code)


def _connect(to: str, key: str | None) -> Client:
    try:
        return Client(to, key)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _each(to: str, key: str | None, ids: Sequence[str], task: Callable[[Client, str], None]) -> int:
    """Do a task for every id, also when it fails for some. Returns the exit code."""
    exit_code = OK
    with _connect(to, key) as client:
        for file_id in ids:
            try:
                task(client, file_id)
            except Unreachable as error:
                write(str(error), sys.stderr)
                return UNREACHABLE
            except (ClientError, OSError) as error:
                exit_code = FAILED
                write(_failure(file_id, error), sys.stderr)
    return exit_code


def _failure(file_id: str, error: ClientError | OSError) -> str:
    status = f" ({error.status})" if isinstance(error, Problem) else ""
    detail = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
    return f"{file_id + ': ' if file_id else ''}{detail}{status}"


def _line(file: File) -> str:
    return "  ".join((file.upload_status, file.id, file.name, file.url or file.error or "")).rstrip()


def _target(client: Client, file_id: str, output: str | None) -> Path:
    """Return where a download goes. The file's own name never leads out of the folder."""
    if output and not os.path.isdir(output):
        return Path(output)
    name = "".join(
        letter if letter.isprintable() and letter not in "/\\:" else "_" for letter in client.file(file_id).name
    )
    return Path(output or ".") / (file_id if name.strip(". ") == "" else name)


def _to_stdout(client: Client, file_id: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "content"
        client.download(file_id, target)
        with target.open("rb") as content:
            shutil.copyfileobj(content, sys.stdout.buffer)


def _size(source: str) -> int:
    """Return the size of a file in bytes, or 0 if it cannot be known before the file is opened."""
    try:
        return os.path.getsize(source)
    except OSError:  # reported when the file's turn comes, so that the others are sent
        return 0


def _resume(ctx: click.Context, service: Service, ids: Iterable[str]) -> str:
    """Return the command that goes on watching. The key is left to the environment."""
    words = (ctx.find_root().info_name or PROGRAM).split()
    words += itertools.takewhile(lambda word: word != ctx.info_name, sys.argv[1:])
    words += ["watch", *ids]
    if service.to != DEFAULT_ADDRESS:
        words += ["--to", service.to]
    return shlex.join(words)
