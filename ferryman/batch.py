"""Uploads and watches many files in parallel, with one line for each and one progress bar for all."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Any, NamedTuple, TextIO

import click
from tqdm import tqdm

from ferryman import direct, resumable
from ferryman.client import Client, ClientError, File, Problem, TimedOut, Unreachable

OK, FAILED, UNREACHABLE, INTERRUPTED = 0, 1, 3, 130
STDIN = "-"
RESUMED_BYTES = 16 * 1024 * 1024


class Service(NamedTuple):
    """A service and how to use it: the options that the commands share."""

    to: str
    key: str | None
    json: bool
    jobs: int
    timeout: float
    resume: bool | None = None
    """Whether uploads go on where an earlier run has come to; None for large files."""
    direct: bool = False
    """Whether uploads go to S3 itself, where that is possible."""

    def client(self) -> Client:
        """Return a client of the service, for one thread."""
        return Client(self.to, self.key)


class Batch:
    """Uploads and watches that run in parallel.

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

    def upload(
        self, sources: Sequence[str], mode: str, name: str | None, follow: bool, options: Mapping[str, Any]
    ) -> None:
        """Upload all, and then, if wanted, watch what is accepted.

        Args:
            sources: paths, or `-`.
            mode: normal, async or celery.
            name: the name of what comes by standard input.
            follow: watch them afterwards.
            options: of all uploads, as `Client.upload` takes them.
        """
        for source in sources:
            self.running[self._pool.submit(self._upload, source, mode, name, options)] = (source, None)
        for source, file in self._results():
            if follow and not file.is_settled:
                self._follow(source, file.id)
            else:
                self._report(source, file)

    def watch(self, ids: tuple[str, ...]) -> None:
        """Watch what was accepted earlier."""
        for file_id in ids:
            self._follow(file_id, file_id)
        for source, file in self._results():
            self._report(source, file)

    def interrupt(self) -> None:
        """Report the progress of every unfinished file, and end the batch."""
        for future, (source, file_id) in self.running.items():
            if file_id:
                reason = "Interrupted; its delivery to S3 goes on."
            elif future.cancel():
                reason = "Interrupted before it was sent."
            else:
                reason = "Interrupted before the service had answered."
            self.report_failure(source, file_id, ClientError(reason))
        self.exit_code = INTERRUPTED

    def _follow(self, source: str, file_id: str) -> None:
        self.watched[file_id] = source
        self.running[self._pool.submit(self._watch, file_id)] = (source, file_id)

    def _results(self) -> Iterator[tuple[str, File]]:
        """Yield the finished files; failures are reported here."""
        while self.running:
            done = self._done()
            for future in done:
                source, file_id = self.running.pop(future)
                try:
                    file = future.result()
                except (ClientError, OSError) as error:
                    self.report_failure(source, file_id, error)
                else:
                    self.watched.pop(file.id, None)
                    yield source, file
            if not done:
                for source, file_id in self.running.values():
                    self.report_failure(source, file_id, TimedOut(f"Not done within {self._service.timeout:g} s."))
                return

    def _done(self) -> set[Future[File]]:
        """Return the finished work as soon as there is some; nothing once the time is up."""
        while True:
            left = max(self._deadline - time.monotonic(), 0)
            # A signal just before the wait, or to another thread, does not end it: heed it after a second.
            done = wait(self.running, min(left, 1), FIRST_COMPLETED).done
            if done or not left:
                return done

    def _upload(self, source: str, mode: str, name: str | None, options: Mapping[str, Any]) -> File:
        sent_before = 0

        def on_progress(sent: int, size: int) -> None:
            nonlocal sent_before
            with self._lock:
                self._bar.update(sent - sent_before)
            sent_before = sent

        with self._client() as client:
            if source == STDIN:
                return client.upload(sys.stdin.buffer, mode, name, on_progress, **options)
            send = self._way(source, mode)
            return send(client, source, mode, on_progress=on_progress, **options)

    def _way(self, source: str, mode: str) -> Callable[..., File]:
        """Return what sends a file."""
        if self._service.direct and os.path.isfile(source):
            return direct.upload
        return resumable.upload if self._is_resumed(source, mode) else Client.upload

    def _is_resumed(self, source: str, mode: str) -> bool:
        """Returns True if a file goes up so that it can go on after a break."""
        if mode not in resumable.MODES or not os.path.isfile(source):
            return False
        wanted = self._service.resume
        return os.path.getsize(source) >= RESUMED_BYTES if wanted is None else wanted

    def _watch(self, file_id: str) -> File:
        with self._client() as client:
            return client.wait(file_id)

    def _client(self) -> Client:
        if self._away:  # then each of a thousand files need not find out anew
            raise self._away
        return self._service.client()

    def _report(self, source: str, file: File) -> None:
        if file.upload_status == "ERROR":
            self.exit_code = max(self.exit_code, FAILED)
        if self._service.json:
            write_json(source, file._asdict(), None)
        else:
            facts = (file.upload_status, file.id, click.format_filename(source), file.url or file.error or "")
            write("  ".join(facts).rstrip())

    def report_failure(self, source: str, file_id: str | None, error: ClientError | OSError) -> None:
        if isinstance(error, Unreachable):
            self._away = error
        elif isinstance(error, Problem) and file_id:  # it is refused to watch it
            self.watched.pop(file_id)
        self.exit_code = max(self.exit_code, UNREACHABLE if isinstance(error, Unreachable | TimedOut) else FAILED)
        status = error.status if isinstance(error, Problem) else None
        file_id = error.file_id or file_id if isinstance(error, Problem) else file_id
        detail = (isinstance(error, OSError) and error.strerror) or str(error)
        if self._service.json:
            write_json(source, None, {"status": status, "detail": detail, "file_id": file_id})
        about = ", ".join(str(fact) for fact in (status, file_id and f"file {file_id}") if fact)
        write(f"{click.format_filename(source)}: {detail}{about and f' ({about})'}", sys.stderr)


def write_json(source: str, file: dict[str, Any] | None, problem: dict[str, Any] | None) -> None:
    write(json.dumps({"source": source, "file": file, "problem": problem}))


def write(line: str, stream: TextIO | None = None) -> None:
    """Write a line past the progress bar; escape what the stream cannot show or a terminal would obey."""
    stream = stream or sys.stdout
    safe = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)
    encoding = stream.encoding or "utf-8"
    tqdm.write(safe.encode(encoding, "backslashreplace").decode(encoding), stream)
    stream.flush()
