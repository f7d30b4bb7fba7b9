"""What a credential costs: python -m bench.credentials [CHECKOUT] prints milliseconds and ratios.

One client asks one web process over one connection, with no key, a key, an upload token and a JWT in turns, so
that what else the machine does meets all of them. With another CHECKOUT, its service is asked by key in the same
turns.
"""

from __future__ import annotations

import http.client
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import jwt

from bench.servers import Sink, our_settings, running, s3_settings
from tests.kit.stack import ROOT, RedisServer, Web

ROUNDS, READS, UPLOADS = 15, 100, 20
SECRET = secrets.token_urlsafe(64)
BODY = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
    + bytes(1000)
    + b"\r\n--b--\r\n"
)
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
MANY = "1000000"
LIMITS = {
    f"{who}_{what}": MANY for who in ("KEY", "SUBJECT") for what in ("REQUESTS_PER_MINUTE", "FILES_IN_FLIGHT")
}


class Side(NamedTuple):
    """One kind of credential, and the connection on which it is used."""

    name: str
    connection: http.client.HTTPConnection
    headers: dict[str, str]

    def ask(self, method: str, path: str, body: bytes = b"") -> str:
        """Ask once. Returns the answer's Location."""
        headers = {**self.headers, **(FORM if body else {})}
        self.connection.request(method, path, body or None, headers)
        answer = self.connection.getresponse()
        answer.read()
        assert answer.status in (200, 202), answer.status
        return answer.headers.get("Location", "")


class CheckoutWeb(Web):
    """The web server of a checkout."""

    def __init__(self, folder: Path, env: dict[str, str], checkout: Path) -> None:
        super().__init__(folder, env)
        self.checkout = checkout

    def flask(self, *words: str) -> str:
        command = [sys.executable, "-m", "flask", "--app", "app", *words]
        done = subprocess.run(command, env=self.env, cwd=self.checkout, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def start(self) -> None:
        """Start the process in its checkout."""
        self.flask("db", "upgrade")
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, env=self.env, cwd=self.checkout, stdout=output, stderr=output, start_new_session=True
            )


@contextmanager
def served(folder: Path, checkout: Path, sink: Sink, auth: str) -> Iterator[CheckoutWeb]:
    """A service with a folder of its own."""
    folder.mkdir()
    redis = RedisServer(folder)
    env = {**our_settings(folder, s3_settings(sink.port), redis), **LIMITS, "AUTH": auth, "TOKEN_SECRET": SECRET}
    team = {"JWT_SECRET": SECRET, "JWT_OWNER": "alice"}
    with running(redis):
        web = CheckoutWeb(folder, {**env, **team}, checkout)
        web.start()
        try:
            web.wait()
            yield web
        finally:
            web.kill()


def side(name: str, web: Web, credential: str = "") -> Side:
    """Return a side with a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", int(web.url.rpartition(":")[2]))
    return Side(name, connection, {"Authorization": f"Bearer {credential}"} if credential else {})


def sides(stack: ExitStack, folder: Path, sink: Sink, other: Path | None) -> Iterator[Side]:
    """Yield all sides."""
    open_web = stack.enter_context(served(folder / "open", ROOT, sink, "open"))
    yield side("no key", open_web)
    web = stack.enter_context(served(folder / "keys", ROOT, sink, "required"))
    claims = {"sub": "42", "exp": time.time() + 3600, "owner": "alice", "grants": ["upload", "read"], "limits": {}}
    token = jwt.encode({**claims, "aud": "ferryman:upload", "jti": "1", "iat": time.time()}, SECRET)
    yield side("key", web, web.flask("keys", "create", "alice"))
    yield side("token", web, f"fmu_{token}")
    yield side("JWT", web, jwt.encode(claims, SECRET))
    if other:
        old = stack.enter_context(served(folder / "other", other, sink, "required"))
        yield side("key, the other checkout", old, old.flask("keys", "create", "alice"))


def milliseconds(one: Side, count: int, method: str, path: str, body: bytes = b"") -> float:
    """Ask some times. Returns the milliseconds of one, by their median."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        one.ask(method, path, body)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


def main() -> None:
    """Measure in turns, and print a line for each side."""
    other = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        sink = Sink(folder)
        stack.enter_context(running(sink))
        asked = list(sides(stack, folder, sink, other))
        paths = {one.name: one.ask("POST", "/async_upload", BODY) for one in asked}
        reads: dict[str, list[float]] = {one.name: [] for one in asked}
        accepts: dict[str, list[float]] = {one.name: [] for one in asked}
        for turn in range(ROUNDS):
            for one in asked[turn % len(asked) :] + asked[: turn % len(asked)]:
                reads[one.name].append(milliseconds(one, READS, "GET", paths[one.name]))
                accepts[one.name].append(milliseconds(one, UPLOADS, "POST", "/async_upload", BODY))
                time.sleep(0.2)  # for the deliveries
    by_key = statistics.median(reads["key"]), statistics.median(accepts["key"])
    for one in asked:
        read, accept = statistics.median(reads[one.name]), statistics.median(accepts[one.name])
        sys.stdout.write(
            f"{one.name:24}  status {read:5.2f} ms, {read / by_key[0]:.2f} x a key"
            f"   accept 1 kB {accept:5.2f} ms, {accept / by_key[1]:.2f} x a key\n"
        )


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
