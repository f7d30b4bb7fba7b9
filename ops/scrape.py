"""GET /metrics: the counters, and the present contents of database, spool and pool."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from access import auth
from access.principal import Grant
from core import background
from core.database import utcnow
from core.metrics import metrics
from core.services import services
from intake.direct import rows as direct_rows
from intake.uploads import rows as upload_rows
from storage import file_queries

bp = Blueprint("scrape", __name__)


@bp.get("/metrics")
@auth.needs(Grant.METRICS)
def show() -> Response:
    """Return all metrics in the text format of Prometheus.
    ---
    get: {operationId: getMetrics, tags: [Service], responses: {200: Metrics}}
    """
    now = CollectorRegistry()
    now.register(Present())
    counted = metrics().registry
    if folder := services().config.PROMETHEUS_MULTIPROC_DIR:
        counted = CollectorRegistry()
        MultiProcessCollector(counted, folder)  # type: ignore[no-untyped-call]
    return Response(generate_latest(counted) + generate_latest(now), content_type=CONTENT_TYPE_LATEST)


class Present(Collector):
    """Metrics of the present state, read when asked."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the present metrics of database, spool and pool."""
        ferry = services()
        files = GaugeMetricFamily(
            "ferryman_undelivered_files", "Files on their way, by status.", labels=["status"]
        )
        for status, count in file_queries.count_undelivered().items():
            files.add_metric([status], count)
        yield files
        oldest = file_queries.oldest_undelivered()
        waited = max((utcnow() - oldest).total_seconds(), 0) if oldest else 0
        yield _gauge("ferryman_oldest_undelivered_seconds", "Age of the oldest file on its way.", waited)
        yield _gauge("ferryman_spool_bytes", "Bytes in the spool.", ferry.spool.used_bytes())
        count, _ = upload_rows.totals()
        yield _gauge("ferryman_unfinished_uploads", "Resumable uploads in progress.", count)
        yield _gauge("ferryman_unfinished_direct_uploads", "Direct uploads in progress.", direct_rows.count())
        unfinished = ferry.spool.growing_bytes()
        yield _gauge(
            "ferryman_unfinished_upload_bytes", "Bytes of them in the spool, which may be half of it.", unfinished
        )
        yield _gauge("ferryman_pool_files", "Files that the pool of the answering process holds.", ferry.pool.held)
        loops = GaugeMetricFamily(
            "ferryman_loop_last_turn_seconds",
            "Time since a background loop of the answering process last completed a turn.",
            labels=["loop"],
        )
        for name, seconds in background.silent_seconds().items():
            loops.add_metric([name], seconds)
        yield loops

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Return nothing, so that registering reads nothing."""
        return iter(())


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
