"""kill -9 at every step of a resumable upload: what was acknowledged is kept, and the file is in S3 once."""

from __future__ import annotations

import http.client
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.faults.kit import MODES, Kit, Strike, arm_at_commit, is_probe
from tests.kit.tus import Answer, Tus, metadata

MIB = 1024 * 1024
SIZE = 24 * MIB
PIECE = 5 * MIB
NAME = "an upload.bin"
GONE = (OSError, http.client.HTTPException)
"""What a client meets whose server dies."""


class Resuming:
    """A client that goes on where the service says, and sees that no offset falls below an acknowledged one."""

    def __init__(self, kit: Kit, mode: str, piece: int = PIECE, pause_seconds: float = 0, **headers: str) -> None:
        self.content = random.randbytes(SIZE)
        self.acknowledged = 0
        self.cuts = 0
        self._piece = piece
        self._pause_seconds = pause_seconds
        self._tus = Tus(kit.web.url)
        named = metadata(filename=NAME)
        self.path = self._tus.begin(SIZE, f"/uploads?mode={mode}", Upload_Metadata=named, **headers)
        self.file_id = self.path.rpartition("/")[2]

    def run(self, seconds: float = 90) -> None:
        """Send all, whatever dies."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(*GONE):
                answer = self._tus.head(self.path)
                if answer.status == 200:
                    assert answer.offset >= self.acknowledged, "acknowledged bytes are lost"
                    if self._send(answer.offset):
                        return
                else:
                    assert answer.status == 423, answer
            self.cuts += 1
            time.sleep(0.2)
        raise AssertionError("the upload did not come to its end")

    def _send(self, offset: int) -> bool:
        while offset < SIZE:
            answer: Answer = self._tus.patch(self.path, offset, self.content[offset : offset + self._piece])
            if answer.status != 204:
                assert answer.status in (409, 423, 503), answer
                return False
            offset = self.acknowledged = answer.offset
            time.sleep(self._pause_seconds)  # else all is here before a part is sent
        return True


def check(kit: Kit, *clients: Resuming) -> None:
    """All files are in S3 once, with their bytes, and nothing else is left."""
    accepted = {client.file_id: client.content for client in clients}
    kit.settle(accepted)
    result = kit.count("kill", "tus", accepted, time.monotonic())
    assert (result.lost, result.duplicated) == (0, 0), result
    kit.assert_nothing_is_left()


Arm = Callable[[Kit, Strike], None]


def is_checkpoint(data: bytes) -> bool:
    return b"UPDATE uploads" in data and b"crc64nvme" in data


def is_insert(data: bytes) -> bool:
    return b"INSERT INTO files" in data or NAME.encode() in data


def before(statement: Callable[[bytes], bool]) -> Arm:
    def arm(kit: Kit, strike: Strike) -> None:
        assert kit.db_proxy
        kit.db_proxy.on_request = lambda link, data: statement(data) and strike()

    return arm


def after(statement: Callable[[bytes], bool]) -> Arm:
    return lambda kit, strike: arm_at_commit(kit, strike, statement)


def in_a_part(kit: Kit, strike: Strike) -> None:
    """Parts are on their way to S3, while the upload is."""
    kit.s3_proxy.on_request = lambda link, data: (
        b"partNumber=" in link.request and not is_probe(link) and link.sent > MIB and strike()
    )


def when_a_part_is_there(kit: Kit, strike: Strike) -> None:
    kit.s3_proxy.on_response = lambda link, data: (
        b"partNumber=" in link.request and not is_probe(link) and b" 200 OK" in data[:20] and strike()
    )


def when_the_object_is_there(kit: Kit, strike: Strike) -> None:
    kit.s3_proxy.on_response = lambda link, data: (
        link.request.startswith(b"POST ")
        and b"uploadId=" in link.request
        and not is_probe(link)
        and b" 200 OK" in data[:20]
        and strike()
    )


MOMENTS: dict[str, Arm] = {
    "before a checkpoint": before(is_checkpoint),
    "after a checkpoint": after(is_checkpoint),
    "before the file's row": before(is_insert),
    "after the file's row": after(is_insert),
    "in a part": in_a_part,
    "when a part is there": when_a_part_is_there,
    "when the object is there": when_the_object_is_there,
}


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_a_step(kit: Kit, moment: str, mode: str) -> None:
    client = Resuming(kit, mode, pause_seconds=0.6)
    strike = Strike(lambda: kit.web.signal(signal.SIGKILL))
    MOMENTS[moment](kit, strike)
    sending = threading.Thread(target=client.run)
    sending.start()
    assert strike.done.wait(30), "the fault did not strike"
    for proxy in (kit.db_proxy, kit.s3_proxy):
        if proxy:
            proxy.on_request = proxy.on_response = lambda link, data: False
    kit.restart(kit.web)
    kit.web.wait()
    sending.join()
    check(kit, client)


@pytest.fixture(params=["kit", "sqlite_kit"])
def any_kit(request: pytest.FixtureRequest) -> Kit:
    found: Kit = request.getfixturevalue(request.param)
    return found


def test_killed_again_and_again(any_kit: Kit) -> None:
    """At random moments, with both databases; one sends all in one request, others in pieces."""
    kit = any_kit
    clients = [Resuming(kit, "async", SIZE), Resuming(kit, "celery"), Resuming(kit, "async", MIB // 4)]
    errors: list[BaseException] = []

    def run(client: Resuming) -> None:
        try:
            client.run()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for _ in range(6):
        time.sleep(random.uniform(0.05, 0.5))
        kit.web.kill()
        kit.web.start()
        kit.web.wait()
    for thread in threads:
        thread.join()
    assert not errors, errors
    assert sum(client.cuts for client in clients) >= 3
    check(kit, *clients)


def test_killed_in_a_concatenation(any_kit: Kit) -> None:
    """While 24 MiB are joined, or just before or after: the final upload is whole, or it is joined again."""
    kit = any_kit
    tus = Tus(kit.web.url)
    content = random.randbytes(SIZE)
    parts = []
    for start in range(0, SIZE, 8 * MIB):
        path = tus.begin(8 * MIB, Upload_Concat="partial")
        assert tus.patch(path, 0, content[start : start + 8 * MIB]).status == 204
        parts.append(path)
    killing = threading.Timer(0.01, kit.web.kill)
    killing.start()
    final = None
    with suppress(*GONE):
        final = tus.create(Upload_Concat=f"final;{' '.join(parts)}", Idempotency_Key="join").headers["Location"]
    killing.join()
    kit.web.start()
    kit.web.wait()
    final = (
        final or tus.create(Upload_Concat=f"final;{' '.join(parts)}", Idempotency_Key="join").headers["Location"]
    )
    file_id = final.rpartition("/")[2]
    kit.settle({file_id: content})
    result = kit.count("kill", "concat", {file_id: content}, time.monotonic())
    assert (result.lost, result.duplicated) == (0, 0), result
    kit.assert_nothing_is_left()
