"""Fixtures of the fault kit, and the table of what it saw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kit import Kit, Result
from tests.kit.stack import PostgresServer, RedisServer, S3Server


@pytest.fixture
def kit(tmp_path: Path, s3: S3Server, redis_server: RedisServer, postgres: PostgresServer) -> Iterator[Kit]:
    """A service on PostgreSQL."""
    yield from started(Kit(tmp_path, s3, redis_server, postgres))


@pytest.fixture
def sqlite_kit(tmp_path: Path, s3: S3Server, redis_server: RedisServer) -> Iterator[Kit]:
    """A service on SQLite."""
    yield from started(Kit(tmp_path, s3, redis_server, None))


def started(kit: Kit) -> Iterator[Kit]:
    try:
        kit.start()
        yield kit
    finally:
        kit.stop()


@pytest.fixture
def results(request: pytest.FixtureRequest) -> Iterator[list[Result]]:
    """The results of a test; they travel with its report, which may come from another process."""
    found: list[Result] = []
    yield found
    request.node.user_properties.extend(("fault", list(result)) for result in found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    teardowns = [report for report in reports if getattr(report, "when", "") == "teardown"]
    results = [Result(*fact) for report in teardowns for name, fact in report.user_properties if name == "fault"]
    if not results:
        return
    terminalreporter.section("faults")
    row = "{:46} {:7} {:>9} {:>10} {:>5} {:>11} {:>9}"
    header = ("fault", "mode", "accepted", "delivered", "lost", "duplicated", "healed s")
    terminalreporter.write_line(row.format(*header))
    for result in results:
        shown = [*map(str, result[:-1]), f"{result.seconds_to_heal:.1f}"]
        terminalreporter.write_line(row.format(*shown))
