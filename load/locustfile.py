"""Users for Locust: they upload files of many sizes in all modes and watch them until they are COMPLETE."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable

import gevent
from locust import FastHttpUser, between

KIB = 1024
MIB = 1024 * KIB
SMALLEST, LARGEST = 1 * KIB, 20 * MIB
MEDIAN, SIGMA = 300 * KIB, 1.3  # five of six files have 50 kB to 2 MB
MODES = {"async": 50, "celery": 35, "normal": 15}
GIVE_UP_SECONDS = 60.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0

BYTES = os.urandom(LARGEST)
BOUNDARY = "ferryman-load"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def form(field: str, size: int) -> bytes:
    """A form with one file of random bytes."""
    disposition = f'Content-Disposition: form-data; name="{field}"; filename="load.bin"'
    head = f"--{BOUNDARY}\r\n{disposition}\r\nContent-Type: application/octet-stream\r\n\r\n"
    return b"".join([head.encode(), memoryview(BYTES)[:size], f"\r\n--{BOUNDARY}--\r\n".encode()])


def some_size() -> int:
    """A file's size, log-normal as sizes of files are."""
    return min(LARGEST, max(SMALLEST, round(random.lognormvariate(math.log(MEDIAN), SIGMA))))


class Uploader(FastHttpUser):  # type: ignore[misc]
    """Somebody who uploads a file, waits for it, looks around and uploads the next."""

    wait_time = between(0.2, 1.0)
    network_timeout = GIVE_UP_SECONDS
    connection_timeout = GIVE_UP_SECONDS

    def upload(self) -> None:
        """Upload a file in one of the modes, and see it through."""
        (mode,) = random.choices(list(MODES), list(MODES.values()))
        size = some_size()
        started = time.monotonic()
        path = f"/{mode}_upload"
        with self.client.post(path, data=form("file", size), headers=HEADERS, catch_response=True) as answer:
            if answer.status_code not in (201, 202):
                answer.failure(f"status {answer.status_code}")
                return
            answer.success()
            file_id = answer.json()["id"]
        self._measure(mode, size, started, self._see_through(file_id))

    def bad_request(self) -> None:
        """Send a form without a file, and be refused."""
        self._expect(400, "POST", "/async_upload", "bad request", data=form("fill", 1 * KIB), headers=HEADERS)

    def unknown_id(self) -> None:
        """Ask for a file that nobody uploaded."""
        self._expect(404, "GET", f"/files/{random.randbytes(16).hex()}", "unknown id")

    tasks: dict[Callable[[Uploader], None], int] = {upload: 46, bad_request: 1, unknown_id: 3}  # noqa: RUF012

    def _see_through(self, file_id: str) -> str:
        """Ask for the file's status, less and less often, until it is settled."""
        give_up, pause = time.monotonic() + GIVE_UP_SECONDS, FIRST_PAUSE_SECONDS
        while time.monotonic() < give_up:
            answer = self.client.get(f"/files/{file_id}", name="/files/<id>")
            status = answer.json()["upload_status"] if answer.status_code == 200 else ""
            if status in ("COMPLETE", "ERROR"):
                return str(status)
            gevent.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(LONGEST_PAUSE_SECONDS, pause * 1.5)
        return "still not COMPLETE"

    def _measure(self, mode: str, size: int, started: float, status: str) -> None:
        """Report the whole time from the upload's start to COMPLETE."""
        self.environment.events.request.fire(
            request_type="WHOLE",
            name=f"{mode} until COMPLETE",
            response_time=(time.monotonic() - started) * 1000,
            response_length=size,
            exception=None if status == "COMPLETE" else RuntimeError(status),
        )

    def _expect(self, status: int, method: str, path: str, name: str, **more: object) -> None:
        with self.client.request(method, path, name=name, catch_response=True, **more) as answer:
            if answer.status_code == status:
                answer.success()
            else:
                answer.failure(f"status {answer.status_code}, not {status}")
