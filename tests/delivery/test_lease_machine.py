"""A state machine over the lease: whatever the order of runs, crashes, sweeps and time, a file has one owner."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from unittest import mock

import pytest
from flask import Flask
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from core import database
from core.database import db, new_id, utcnow
from models import File, UploadStatus
from storage import file_queries

LEASE = 30
WINDOW = 3600
LIFETIME = 5 * LEASE
SPOOL = "here"

ANY_RUN = st.integers(min_value=0, max_value=1000)
DELAYS = st.sampled_from([0, 1, 5 * LEASE])
TIMES = st.sampled_from([1, LEASE - 1, LEASE, LEASE + 1, 10 * LEASE])


@dataclass
class Run:
    """A run as it sees itself: until when it believes to hold the lease. One that crashed is never heard of."""

    owner: str
    until: datetime
    crashed: bool = False


@dataclass
class Expected:
    """What the row must be."""

    due_at: datetime
    upload_status: UploadStatus = UploadStatus.PENDING
    lease_owner: str | None = None
    attempts: int = 0
    url: str | None = None


class LeaseMachine(RuleBasedStateMachine):
    """One File, any number of runs that want it, and a clock."""

    parent_id: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.now = utcnow()
        self.clock = mock.patch("models.utcnow", side_effect=lambda: self.now)
        self.clock.start()
        self.file_id = new_id()
        self.runs: list[Run] = []
        self.completions = 0
        self.expires_at = self.after(LIFETIME)
        self.is_erased = False
        self.is_made = self.parent_id is None
        self.expected = Expected(self.after(LEASE))
        row = File(
            id=self.file_id,
            owner="anonymous",
            name="a.txt",
            key=self.file_id,
            mode="celery",
            size=1,
            content_type="text/plain",
            crc64nvme="AAAAAAAAAAA=",
            spool_id=SPOOL,
            due_at=self.expected.due_at,
            retry_until=self.after(WINDOW),
            expires_at=self.expires_at,
            parent_id=self.parent_id,
        )
        db.session.add(row)
        db.session.commit()

    def teardown(self) -> None:
        """Every run crashes here, and time goes on: a sweep takes the row, unless it is final."""
        try:
            self.now = self.after(20 * LEASE)
            undelivered = self.expected.upload_status in (UploadStatus.PENDING, UploadStatus.PROCESSING)
            assert self.is_due() == undelivered
            claimed = File.claim(self.file_id, new_id(), LEASE, SPOOL, to_make=not self.is_made)
            assert bool(claimed) == undelivered
        finally:
            self.clock.stop()

    def after(self, seconds: int) -> datetime:
        return self.now + timedelta(seconds=seconds)

    def is_due(self) -> bool:
        waits_to_be_made = self.file_id in [row.id for row in file_queries.to_make(SPOOL, 1000)]
        waits_for_delivery = self.file_id in file_queries.due(SPOOL, 1000)
        assert not (waits_to_be_made if self.is_made else waits_for_delivery)
        return waits_for_delivery if self.is_made else waits_to_be_made

    def pick(self, number: int) -> Run | None:
        """A run that has not crashed, be it long out of its lease or at its end."""
        living = [run for run in self.runs if not run.crashed]
        return living[number % len(living)] if living else None

    def holds(self, run: Run) -> bool:
        return self.expected.lease_owner == run.owner

    def claim(self, spool_id: str | None, to_make: bool = False) -> bool:
        """Let a new run claim the row, as far as it may."""
        over = self.expected.lease_owner is not None and self.expected.due_at <= self.now
        free = self.expected.upload_status == UploadStatus.PENDING
        may = (free or over) and spool_id in (None, SPOOL) and to_make != self.is_made
        run = Run(new_id(), self.after(LEASE))
        assert bool(File.claim(self.file_id, run.owner, LEASE, spool_id, to_make)) == may
        if may:
            self.runs.append(run)
            self.expected.attempts += 1
            self.expected.upload_status = UploadStatus.PROCESSING
            self.expected.lease_owner = run.owner
            self.expected.due_at = run.until
        return may

    def let_go(self, run: Run, moved: bool, status: UploadStatus) -> None:
        """A run ends; the row moves only if the run held it."""
        assert moved == self.holds(run)
        run.until = self.now
        if moved:
            self.expected.upload_status = status
            self.expected.lease_owner = None

    @rule(spool_id=st.sampled_from([None, SPOOL, "elsewhere"]))
    def deliver(self, spool_id: str | None) -> None:
        """A message comes, for the first time or again; it brings its bytes, or has them in a spool."""
        self.claim(spool_id)

    @rule()
    def sweep(self) -> None:
        if self.is_due():
            assert self.claim(SPOOL, to_make=not self.is_made)

    @rule(number=ANY_RUN, seconds=st.sampled_from([1, LEASE]))
    def renew(self, number: int, seconds: int) -> None:
        if run := self.pick(number):
            renewed = File.renew(self.file_id, run.owner, seconds)
            assert renewed == self.holds(run)
            run.until = self.after(seconds) if renewed else self.now
            if renewed:
                self.expected.due_at = run.until

    @rule(number=ANY_RUN)
    def complete(self, number: int) -> None:
        if run := self.pick(number):
            completed = File.complete(self.file_id, run.owner, run.owner, "f" * 64)
            self.let_go(run, completed, UploadStatus.COMPLETE)
            if completed:
                self.completions += 1
                self.expected.url = run.owner

    @rule(number=ANY_RUN)
    def fail(self, number: int) -> None:
        if run := self.pick(number):
            self.let_go(run, File.fail(self.file_id, run.owner, "no"), UploadStatus.ERROR)

    @rule(number=ANY_RUN, delay=DELAYS)
    def give_back(self, number: int, delay: int) -> None:
        if run := self.pick(number):
            given_back = File.give_back(self.file_id, run.owner, delay, "no")
            self.let_go(run, given_back, UploadStatus.PENDING)
            if given_back:
                self.expected.due_at = self.after(delay)

    @rule(number=ANY_RUN)
    def crash(self, number: int) -> None:
        """Nobody hears of the run again, but its name stays on the row."""
        if run := self.pick(number):
            run.crashed = True

    @precondition(lambda self: any(not self.holds(run) for run in self.runs))
    @rule(number=ANY_RUN)
    def wake_up(self, number: int) -> None:
        """A run that lost its lease tries everything."""
        strangers = [run for run in self.runs if not self.holds(run)]
        owner = strangers[number % len(strangers)].owner
        assert not File.renew(self.file_id, owner, LEASE)
        assert not File.complete(self.file_id, owner, owner, "0" * 64)
        assert not File.fail(self.file_id, owner, "no")
        assert not File.give_back(self.file_id, owner, 0, "no")

    @rule(by_owner=st.booleans())
    def erase(self, by_owner: bool) -> None:
        """The owner deletes the file, or its time is over; no run has it any more, and nobody retries it."""
        may = not self.is_erased and (by_owner or self.now >= self.expires_at)
        assert (File.erase(self.file_id, "anonymous") if by_owner else File.expire(self.file_id)) == may
        if may:
            self.is_erased = True
            if self.expected.upload_status != UploadStatus.PROCESSING:
                self.expected.due_at = self.now
            self.expected.upload_status = UploadStatus.ERROR
            self.expected.lease_owner = None

    @rule()
    def put_forward(self) -> None:
        """A hand-off came to nothing."""
        is_pending = self.expected.upload_status == UploadStatus.PENDING
        assert File.put_forward(self.file_id) == is_pending
        if is_pending:
            self.expected.due_at = self.now
            assert self.is_due()

    @rule()
    def retry(self) -> None:
        in_error = self.expected.upload_status == UploadStatus.ERROR and not self.is_erased
        assert File.retry(self.file_id, WINDOW) == in_error
        if in_error:
            self.expected = Expected(due_at=self.now)
            assert self.is_due()

    @rule(seconds=TIMES)
    def time_passes(self, seconds: int) -> None:
        self.now = self.after(seconds)

    @invariant()
    def the_row_is_as_expected(self) -> None:
        """So a run without the lease changed nothing, COMPLETE is final, and attempts fall by a retry only."""
        row = File.find(self.file_id)
        assert row
        assert self.expected == Expected(
            due_at=row.due_at,
            upload_status=row.upload_status,
            lease_owner=row.lease_owner,
            attempts=row.attempts,
            url=row.url,
        )

    @invariant()
    def at_most_one_run_believes_to_hold_it(self) -> None:
        assert sum(run.until > self.now for run in self.runs) <= 1

    @invariant()
    def it_is_completed_once_at_most(self) -> None:
        is_complete = self.expected.upload_status == UploadStatus.COMPLETE
        assert self.completions == is_complete or (self.is_erased and self.completions == 1)


class DerivativeMachine(LeaseMachine):
    """One derivative: it is made before it is delivered, and again where its bytes are lost."""

    parent_id = "f" * 32

    @rule()
    def make(self) -> None:
        """A slot or a worker looks at it."""
        self.claim(None, to_make=True)

    @rule(number=ANY_RUN, has_bytes=st.booleans())
    def made(self, number: int, has_bytes: bool) -> None:
        """A run has made it, or nothing of it; a run that lost the lease records nothing."""
        run = self.pick(number)
        if run is None or self.is_made:
            return
        columns = {"size": 3, "summary": "{}"} if has_bytes else {}
        kept = File.made(run.owner, {self.file_id: columns}, [], "no")
        assert (kept is not None) == self.holds(run)
        if kept is None:
            return
        assert (self.file_id in kept) == has_bytes
        if has_bytes:
            self.is_made = True
        else:
            self.let_go(run, True, UploadStatus.ERROR)

    @rule(number=ANY_RUN)
    def unmake(self, number: int) -> None:
        """A delivery finds the bytes gone."""
        run = self.pick(number)
        if run and self.is_made:
            unmade = File.unmake(self.file_id, run.owner)
            self.let_go(run, unmade, UploadStatus.PENDING)
            if unmade:
                self.is_made = False
                self.expected.due_at = self.now

    @rule()
    def retry_without_bytes(self) -> None:
        in_error = self.expected.upload_status == UploadStatus.ERROR and not self.is_erased
        assert File.retry(self.file_id, WINDOW, make=True) == in_error
        if in_error:
            self.expected, self.is_made = Expected(due_at=self.now), False


@pytest.mark.parametrize("machine", [LeaseMachine, DerivativeMachine])
def test_the_lease_holds_in_every_order(tmp_path: Path, machine: type[LeaseMachine]) -> None:
    app = Flask(__name__)
    database.init_app(app, f"sqlite:///{tmp_path / 'files.db'}", survive_power_loss=False)
    chosen = settings(
        max_examples=50,
        stateful_step_count=40,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    with app.app_context():
        db.create_all()
        run_state_machine_as_test(machine, settings=chosen)
        db.session.remove()
        db.engine.dispose()
