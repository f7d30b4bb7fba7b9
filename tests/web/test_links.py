"""Links: for whom, for how long, and inline only for what cannot run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import requests

from tests.access.test_tokens import PNG, SVG
from tests.kit.stack import RedisServer
from tests.kit.tokens import Ferry, ferry_of


@pytest.fixture(scope="module")
def ferry(s3: Any, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ferry]:
    yield from ferry_of(tmp_path_factory.mktemp("links"), {**s3.settings, **redis_server.settings})
