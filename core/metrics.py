"""Metrics: counters and timers of all processes that share PROMETHEUS_MULTIPROC_DIR."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from flask import Flask, current_app
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86400)
LOOPS = ("sweep", "clean", "direct", "webhooks", "events", "process")
KINDS = ("image", "table")
OUTCOMES = ("made", "unprocessable", "died", "proof_failed")


class Metrics:
    """The metrics of one app; every label has a small fixed set of values.

    Args:
        modes: the ways of an upload, known before the first.
    """

    def __init__(self, modes: Iterable[str]) -> None:
        self.registry = registry = CollectorRegistry()
        self._most_memory: dict[str, int] = {}
        self.uploads = Counter("ferryman_uploads", "Files accepted.", ["mode"], registry=registry)
        self.bytes = Counter("ferryman_upload_bytes", "Bytes of files accepted.", ["mode"], registry=registry)
        self.accept = Histogram(
            "ferryman_accept_seconds",
            "From the start of an upload's request to its row.",
            ["mode"],
            buckets=SECONDS,
            registry=registry,
        )
        self.delivery = Histogram(
            "ferryman_delivery_seconds", "From row to COMPLETE.", ["mode"], buckets=SECONDS, registry=registry
        )
        self.run = Histogram(
            "ferryman_run_seconds",
            "One attempt to deliver, failed or not.",
            ["mode"],
            buckets=SECONDS,
            registry=registry,
        )
        self.retries = Counter(
            "ferryman_retries", "Deliveries given back for another attempt.", ["mode"], registry=registry
        )
        self.errors = Counter(
            "ferryman_errors",
            "What was answered as an error, or ended an attempt to deliver.",
            ["cause"],
            registry=registry,
        )

        self.loop_failures = Counter(
            "ferryman_loop_failures",
            "Turns of background loops that failed; the loop goes on.",
            ["loop"],
            registry=registry,
        )

        self.processing = Counter(
            "ferryman_processed",
            "Runs that made derivatives, or failed to.",
            ["kind", "outcome"],
            registry=registry,
        )
        self.processing_cpu = Histogram(
            "ferryman_processing_cpu_seconds",
            "Computing of one child process that made derivatives.",
            ["kind"],
            buckets=SECONDS,
            registry=registry,
        )
        self.processing_memory = Gauge(
            "ferryman_processing_memory_bytes",
            "The most memory that a child process has used.",
            ["kind"],
            multiprocess_mode="max",
            registry=registry,
        )
        for kind in KINDS:
            self.processing_cpu.labels(kind)
            self.processing_memory.labels(kind)
            for outcome in OUTCOMES:
                self.processing.labels(kind, outcome)
        for loop in LOOPS:
            self.loop_failures.labels(loop)
        for mode in modes:  # from the start, since a rate needs the 0 before the first 1
            for instrument in (self.uploads, self.bytes, self.accept, self.delivery, self.run, self.retries):
                instrument.labels(mode)

    def accepted(self, mode: str, size: int, seconds: float) -> None:
        """Count an accepted upload: its bytes, and the time until its row was committed."""
        self.uploads.labels(mode).inc()
        self.bytes.labels(mode).inc(size)
        self.accept.labels(mode).observe(seconds)

    def processed(self, kind: str, outcome: str, cpu_seconds: float = 0, memory_bytes: int = 0) -> None:
        """Count a run of a lane: one of OUTCOMES, and what its child has used."""
        self.processing.labels(kind, outcome).inc()
        if cpu_seconds:
            self.processing_cpu.labels(kind).observe(cpu_seconds)
            if memory_bytes > self._most_memory.get(kind, 0):
                self._most_memory[kind] = memory_bytes
                self.processing_memory.labels(kind).set(memory_bytes)

    def failed(self, cause: str) -> None:
        """Count an error by its cause: the name of its class, `Database` or `Unexpected`."""
        self.errors.labels(cause).inc()


def init_app(app: Flask, modes: Iterable[str], folder: str) -> None:
    """Create the app's metrics, shared with other processes if there is a folder for them.

    Args:
        app: the app.
        modes: the ways of an upload.
        folder: PROMETHEUS_MULTIPROC_DIR, which the library itself reads from the environment; or empty.

    Source: https://prometheus.github.io/client_python/multiprocess/
    """
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        # Containers that share the folder have the same process ids. And the library decided when it was imported,
        # which may have been before .env was read.
        values.ValueClass = values.MultiProcessValue(_process)  # type: ignore[no-untyped-call]
    app.extensions["ferryman.metrics"] = Metrics(modes)


def metrics() -> Metrics:
    """Return the metrics of the current app."""
    found: Metrics = current_app.extensions["ferryman.metrics"]
    return found


def _process() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"
