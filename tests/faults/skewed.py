"""Runs a module with the service's clock off by what a file says: `python -m tests.faults.skewed gunicorn ...`."""

from __future__ import annotations

import runpy
import sys
from datetime import datetime

from core import database


def skewed() -> datetime:
    """The present moment, plus the seconds in the file that CLOCK_OFFSET names."""
    import os
    from datetime import UTC, datetime, timedelta
    from pathlib import Path

    offset = Path(os.environ["CLOCK_OFFSET"]).read_text()
    return datetime.now(UTC) + timedelta(seconds=float(offset))


# The clock is the edge: every module has its own reference to this function, so its code is exchanged.
database.utcnow.__code__ = skewed.__code__
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
