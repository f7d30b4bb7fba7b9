"""The client's commands, `upload` and `watch`: as `ferryman`, and in `flask`."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Any, NamedTuple, TextIO

import click
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ferryman.client import Client, ClientError, File, Problem, TimedOut, Unreachable

OK, FAILED, UNREACHABLE, INTERRUPTED = 0, 1, 3, 130
DEFAULT_ADDRESS = "http://localhost:5000"
STDIN = "-"
PROGRAM = "ferryman"
EPILOG = """\b
Exit codes:
  0    every file is COMPLETE (without --watch: accepted)
  1    a file was refused, could not be read or ended in ERROR
  2    the command is not used as it should be
  3    the service could not be reached, or the time is up
  130  Ctrl-C
"""

Command = Callable[..., None]


class Service(NamedTuple):
    """Where to send, and how: the options that both commands share."""

    to: str
    key: str | None
    json: bool
    jobs: int
    timeout: float


def service_options(command: Command) -> Command:
    """Give a command the options that `Service` has."""
    options = (
        click.option("--to", envvar="FERRYMAN_URL", show_envvar=True, default=DEFAULT_ADDRESS, show_default=True),
        click.option(
            "--key", envvar="FERRYMAN_KEY", show_envvar=True, help="Set the variable: `ps` shows options."
        ),
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
def main() -> None:
    """Upload files to a Ferryman, and watch them."""


@main.command(epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option("--mode", type=click.Choice(["normal", "async", "celery"]), default="async", show_default=True)
@click.option("--watch/--no-watch", "follow", help="Wait until every file is COMPLETE or ERROR.")
@click.option("--name", help="The name of what comes by standard input.")
@service_options
@click.pass_context
def upload(
    ctx: click.Context, /, files: tuple[str, ...], mode: str, follow: bool, name: str | None, **service: Any
) -> None:
    """Upload files; `-` is standard input."""
    if files.count(STDIN) != (name is not None):
        raise click.UsageError("Standard input, '-', needs a --name; other files keep their own.")
    run(ctx, Service(**service), sum(map(_size, files)), lambda batch: batch.upload(files, mode, name, follow))


@main.command(epilog=EPILOG)
@click.argument("ids", nargs=-1, required=True)
@service_options
@click.pass_context
def watch(ctx: click.Context, /, ids: tuple[str, ...], **service: Any) -> None:
    """Wait until files that were uploaded earlier are COMPLETE or ERROR."""
    run(ctx, Service(**service), 0, lambda batch: batch.watch(ids))


def run(ctx: click.Context, service: Service, size: int, task: Callable[[Batch], None]) -> None:
    """Do a batch's task, show its progress on a terminal, and exit with its code."""
    try:
        Client(service.to, service.key)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with tqdm(total=size, unit="B", unit_scale=True, leave=False, disable=None) as bar, logging_redirect_tqdm():
        batch = Batch(service, bar)
        try:
            task(batch)
        except KeyboardInterrupt:
            batch.interrupt()
    if batch.watched:
        _write(f"To go on watching: {_resume(ctx, service, batch.watched)}", sys.stderr)
    if batch.running:
        sys.stdout.flush()
        os._exit(batch.exit_code)  # an ordinary exit waits for threads, and they may wait for an answer
    ctx.exit(batch.exit_code)


def _size(source: str) -> int:
    """Return the bytes that a file has, as far as that can be known before it is opened."""
    try:
        return os.path.getsize(source)
    except OSError:  # told when the file's turn comes, so that the others are sent
        return 0


def _resume(ctx: click.Context, service: Service, ids: Iterable[str]) -> str:
    """The command that goes on watching; the key is left to the environment."""
    words = (ctx.find_root().info_name or PROGRAM).split()
    words += itertools.takewhile(lambda word: word != ctx.info_name, sys.argv[1:])
    words += ["watch", *ids]
    if service.to != DEFAULT_ADDRESS:
        words += ["--to", service.to]
    return shlex.join(words)


class Batch:
    """Files on their way, some at a time.

    Args:
        service: where to.
        bar: shows how many bytes are sent.
    """

    def __init__(self, service: Service, bar: tqdm[Any]) -> None:
        self.exit_code = OK
        self.running: dict[Future[File], tuple[str, str | None]] = {}
        """What is done or waits to be done; with its source, and its id once it has one."""
        self.watched: dict[str, str] = {}
        """Sources of what is accepted and not yet seen to end, by id."""
        self._service = service
        self._deadline = time.monotonic() + service.timeout
        self._bar = bar
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(service.jobs)
        self._away: Unreachable | None = None

    def upload(self, sources: tuple[str, ...], mode: str, name: str | None, follow: bool) -> None:
        """Upload all, and then, if wanted, watch what is accepted."""
        for source in sources:
            self.running[self._pool.submit(self._upload, source, mode, name)] = (source, None)
        for source, file in self._results():
            if follow and not file.is_settled:
                self._follow(source, file.id)
            else:
                self._tell(source, file)

    def watch(self, ids: tuple[str, ...]) -> None:
        """Watch what was accepted earlier."""
        for file_id in ids:
            self._follow(file_id, file_id)
        for source, file in self._results():
            self._tell(source, file)

    def interrupt(self) -> None:
        """Tell of every unfinished file how far it has come; ends the batch."""
        for future, (source, file_id) in self.running.items():
            if file_id:
                reason = "Interrupted; its delivery to S3 goes on."
            elif future.cancel():
                reason = "Interrupted before it was sent."
            else:
                reason = "Interrupted before the service had answered."
            self._tell_failure(source, file_id, ClientError(reason))
        self.exit_code = INTERRUPTED

    def _follow(self, source: str, file_id: str) -> None:
        self.watched[file_id] = source
        self.running[self._pool.submit(self._watch, file_id)] = (source, file_id)

    def _results(self) -> Iterator[tuple[str, File]]:
        """What becomes of the files; of those that fail, it is told here."""
        while self.running:
            done = self._done()
            for future in done:
                source, file_id = self.running.pop(future)
                try:
                    file = future.result()
                except (ClientError, OSError) as error:
                    self._tell_failure(source, file_id, error)
                else:
                    self.watched.pop(file.id, None)
                    yield source, file
            if not done:
                for source, file_id in self.running.values():
                    self._tell_failure(source, file_id, TimedOut(f"Not done within {self._service.timeout:g} s."))
                return

    def _done(self) -> set[Future[File]]:
        """What is done, as soon as anything is; nothing once the time is up."""
        while True:
            left = max(self._deadline - time.monotonic(), 0)
            # A signal just before the wait, or to another thread, does not end it: heed it after a second.
            done = wait(self.running, min(left, 1), FIRST_COMPLETED).done
            if done or not left:
                return done

    def _upload(self, source: str, mode: str, name: str | None) -> File:
        sent_before = 0

        def on_progress(sent: int, size: int) -> None:
            nonlocal sent_before
            with self._lock:
                self._bar.update(sent - sent_before)
            sent_before = sent

        with self._client() as client:
            if source == STDIN:
                return client.upload(sys.stdin.buffer, mode, name, on_progress)
            return client.upload(source, mode, on_progress=on_progress)

    def _watch(self, file_id: str) -> File:
        with self._client() as client:
            return client.wait(file_id)

    def _client(self) -> Client:
        if self._away:  # then each of a thousand files need not find out anew
            raise self._away
        return Client(self._service.to, self._service.key)

    def _tell(self, source: str, file: File) -> None:
        if file.upload_status == "ERROR":
            self.exit_code = max(self.exit_code, FAILED)
        if self._service.json:
            _write_json(source, file._asdict(), None)
        else:
            facts = (file.upload_status, file.id, click.format_filename(source), file.url or file.error or "")
            _write("  ".join(facts).rstrip())

    def _tell_failure(self, source: str, file_id: str | None, error: ClientError | OSError) -> None:
        if isinstance(error, Unreachable):
            self._away = error
        elif isinstance(error, Problem) and file_id:  # it is refused to watch it
            self.watched.pop(file_id)
        self.exit_code = max(self.exit_code, UNREACHABLE if isinstance(error, Unreachable | TimedOut) else FAILED)
        status = error.status if isinstance(error, Problem) else None
        file_id = error.file_id or file_id if isinstance(error, Problem) else file_id
        detail = (isinstance(error, OSError) and error.strerror) or str(error)
        if self._service.json:
            _write_json(source, None, {"status": status, "detail": detail, "file_id": file_id})
        about = ", ".join(str(fact) for fact in (status, file_id and f"file {file_id}") if fact)
        _write(f"{click.format_filename(source)}: {detail}{about and f' ({about})'}", sys.stderr)


def _write_json(source: str, file: dict[str, Any] | None, problem: dict[str, Any] | None) -> None:
    _write(json.dumps({"source": source, "file": file, "problem": problem}))


def _write(line: str, stream: TextIO | None = None) -> None:
    """Write a line past the progress bar; escape what the stream cannot show or a terminal would obey."""
    stream = stream or sys.stdout
    safe = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)
    encoding = stream.encoding or "utf-8"
    tqdm.write(safe.encode(encoding, "backslashreplace").decode(encoding), stream)
    stream.flush()
