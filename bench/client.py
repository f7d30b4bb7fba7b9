"""The load client: raw sockets and sendfile, so that it costs next to nothing beside the servers it measures.

Run as a program it is one process of a burst: it says `ready`, waits for a line, and prints what it measured.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypedDict

HOST = "127.0.0.1"
TIMEOUT_SECONDS = 120
PIECE_BYTES = 256 * 1024
BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"  # as Chromium makes them
FORM_HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="bench.bin"\r\n'
    "Content-Type: application/octet-stream\r\n\r\n"
).encode()
FORM_TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


class Answer(NamedTuple):
    """What came back, and how long it took from connect to the last byte; status 0 if the connection broke."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


class Job(TypedDict):
    """What one process of a burst does: uploads of a file, or reads for some seconds if there is no file."""

    port: int
    route: str
    path: str
    threads: int
    uploads_per_thread: int
    seconds: float


class Done(TypedDict):
    """What one process of a burst did; moments are of the system-wide monotonic clock."""

    accepted: int
    refused: int
    began: float
    ended: float
    times: list[float]


def post_form(port: int, route: str, path: Path, rate: float = 0) -> Answer:
    """Upload a file as a browser does, at so many bytes per second; 0 for as fast as it goes."""
    length = len(FORM_HEAD) + path.stat().st_size + len(FORM_TAIL)
    fields = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {length}\r\n"
    return send(port, _head("POST", port, route, fields) + FORM_HEAD, path, FORM_TAIL, rate)


def put_raw(port: int, route: str, path: Path) -> Answer:
    """Send a file as the body and nothing else."""
    return send(port, _head("PUT", port, route, f"Content-Length: {path.stat().st_size}\r\n"), path)


def post_tus(port: int, route: str, path: Path) -> Answer:
    """Upload a file by tus: one request to create it, one for its bytes; the time is that of both."""
    size = path.stat().st_size
    fields = f"Tus-Resumable: 1.0.0\r\nUpload-Length: {size}\r\nContent-Length: 0\r\n"
    created = send(port, _head("POST", port, route, fields))
    if created.status != 201:
        return created
    fields = (
        "Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n"
        f"Content-Length: {size}\r\n"
    )
    place = created.headers["location"].partition(f":{port}")[2]
    sent = send(port, _head("PATCH", port, place, fields), path)
    return sent._replace(seconds=created.seconds + sent.seconds)


def get(port: int, route: str) -> Answer:
    """Read something."""
    return send(port, _head("GET", port, route, ""))


def send(port: int, head: bytes, path: Path | None = None, tail: bytes = b"", rate: float = 0) -> Answer:
    """Make one request on a new connection and read the whole answer."""
    began = time.perf_counter()
    with socket.create_connection((HOST, port), TIMEOUT_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection.sendall(head, socket.MSG_MORE if path else 0)
            if path:
                with path.open("rb") as file:
                    _send_file(connection, file, path.stat().st_size, rate)
                if tail:
                    connection.sendall(tail)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused early; the answer may be there all the same
        try:
            status, headers, body = read_answer(connection, bytearray())
        except (OSError, ValueError):
            status, headers, body = 0, {}, b""
    return Answer(status, headers, body, time.perf_counter() - began)


def read_answer(connection: socket.socket, pending: bytearray) -> tuple[int, dict[str, str], bytes]:
    """Read one answer; what came after it stays in `pending`.

    Raises:
        ValueError: the connection ended before it.
    """
    while (end := pending.find(b"\r\n\r\n")) < 0:
        _receive(connection, pending)
    lines = pending[:end].decode("latin-1").split("\r\n")
    del pending[: end + 4]
    fields = (line.partition(":") for line in lines[1:])
    headers = {name.lower(): value.strip() for name, _, value in fields}
    length = int(headers.get("content-length", 0))
    while len(pending) < length:
        _receive(connection, pending)
    body = bytes(pending[:length])
    del pending[:length]
    return int(lines[0].split()[1]), headers, body


def _head(method: str, port: int, route: str, fields: str) -> bytes:
    return f"{method} {route} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n{fields}\r\n".encode()


def _receive(connection: socket.socket, pending: bytearray) -> None:
    chunk = connection.recv(65536)
    if not chunk:
        raise ValueError("the connection ended early")
    pending += chunk


def _send_file(connection: socket.socket, file: BinaryIO, size: int, rate: float) -> None:
    if not rate:
        connection.sendfile(file, 0, size)
        return
    began = time.monotonic()
    for offset in range(0, size, PIECE_BYTES):
        time.sleep(max(0.0, began + offset / rate - time.monotonic()))
        connection.sendfile(file, offset, min(PIECE_BYTES, size - offset))


def _upload_some(job: Job, done: list[Answer]) -> None:
    for _ in range(job["uploads_per_thread"]):
        done.append(post_form(job["port"], job["route"], Path(job["path"])))


def _read_some(job: Job, done: list[Answer]) -> None:
    """Read JSON over one kept-alive connection; to parse the answers would take as long as to ask."""
    request = f"GET {job['route']} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    with socket.create_connection((HOST, job["port"]), TIMEOUT_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        until = time.monotonic() + job["seconds"]
        while (began := time.monotonic()) < until:
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"}\n"):
                answer += connection.recv(65536)
            done.append(Answer(int(answer[9:12]), {}, b"", time.monotonic() - began))


def main(job: Job) -> None:
    """Be one process of a burst."""
    answers: list[Answer] = []
    work = _upload_some if job["path"] else _read_some
    threads = [threading.Thread(target=work, args=(job, answers)) for _ in range(job["threads"])]
    os.write(1, b"ready\n")
    sys.stdin.readline()
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    accepted = [answer.seconds for answer in answers if 200 <= answer.status < 300]
    refused = len(answers) - len(accepted)
    done = Done(accepted=len(accepted), refused=refused, began=began, ended=time.monotonic(), times=accepted)
    os.write(1, json.dumps(done).encode())


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
