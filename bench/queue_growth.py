"""How the queue of undelivered files grows under a burst, and drains: a small simulation, and a picture of it.

Run it as `python -m bench.queue_growth`, after `python -m bench.costs`, whose figures it takes.
"""

from __future__ import annotations

import heapq
import json
import math
import random
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt

from bench.costs import MB, RESULTS, Line

PICTURE = Path(__file__).parent.parent / "docs" / "burst.png"
SECONDS = 600
BURST_FROM, BURST_TO = 60, 120
CALM_RATE, BURST_RATE = 20.0, 200.0  # uploads a second
MEAN_SIZE, SIGMA = 1 * MB, 1.3
S3_WAIT_MS, S3_MB_PER_SECOND = 60.0, 40.0  # per delivery: two requests to S3, and the bytes on one connection
SETUPS = ((2, 4), (2, 16), (4, 4), (4, 16))
"""Web processes with a core each, and UPLOAD_THREADS: so many deliveries share the core and wait for S3."""
BACKLOG = 1000
"""UPLOAD_BACKLOG, for each web process."""


class Outcome(NamedTuple):
    """What became of a burst: queue length by second, waits in seconds, when it was gone."""

    queue: list[int]
    waits: list[float]
    drained_at: float


def simulate(cores: int, threads: int, cost: Line, seed: int = 1) -> Outcome:
    """Files arrive at random and are delivered first come first served, by a fixed number of slots.

    A delivery takes what is longer: its wait for S3, or its share of a core that also accepts, among all slots.
    """
    chance = random.Random(seed)
    slots = [0.0] * (cores * threads)
    queue, waits, drained_at = [0] * SECONDS, [], 0.0
    mean = math.log(MEAN_SIZE) - SIGMA**2 / 2
    for arrival in arrivals(chance):
        size = chance.lognormvariate(mean, SIGMA)
        begin = max(arrival, heapq.heappop(slots))
        own = cost.at(size) * threads / 1000
        heapq.heappush(slots, begin + max(own, S3_WAIT_MS / 1000 + size / MB / S3_MB_PER_SECOND))
        waits.append(begin - arrival)
        for second in range(math.ceil(arrival), min(SECONDS, math.ceil(begin))):
            queue[second] += 1
        if begin - arrival > 1:
            drained_at = max(drained_at, begin)
    return Outcome(queue, waits, drained_at)


def arrivals(chance: random.Random) -> list[float]:
    """Moments at which files come: at a calm rate, but for the burst."""
    moments, now = [], 0.0
    while now < SECONDS:
        now += chance.expovariate(BURST_RATE)
        if BURST_FROM <= now < BURST_TO or chance.random() < CALM_RATE / BURST_RATE:
            moments.append(now)
    return moments


def main() -> None:
    """Simulate, print and draw."""
    lines = json.loads(RESULTS.read_text())["lines"]
    accept, deliver = Line(*lines["accept"]), Line(*lines["deliver in a thread"])
    cost = Line(accept.per_upload + deliver.per_upload, accept.per_mb + deliver.per_mb)
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    sys.stdout.write("| processes | threads | longest queue | longest wait | 95 % wait | gone after, s |\n")
    sys.stdout.write("|---|---|---|---|---|---|\n")
    for cores, threads in SETUPS:
        found = simulate(cores, threads, cost)
        waits = sorted(found.waits)
        late = max(0.0, found.drained_at - BURST_TO)
        usual = waits[int(0.95 * len(waits))]
        sys.stdout.write(
            f"| {cores} | {threads} | {max(found.queue)} | {waits[-1]:.1f} | {usual:.1f} | {late:.0f} |\n"
        )
        axes.plot(range(SECONDS), found.queue, label=f"{cores} processes, UPLOAD_THREADS={threads}")
    axes.axhline(
        2 * BACKLOG, color="grey", linestyle=":", label="UPLOAD_BACKLOG of two web processes: 503 from here"
    )
    axes.axvspan(
        BURST_FROM, BURST_TO, alpha=0.15, label=f"burst: {BURST_RATE:.0f} uploads/s instead of {CALM_RATE:.0f}"
    )
    axes.set(xlabel="seconds", ylabel="files that wait for delivery", title="Queue under a burst (simulated)")
    axes.legend(fontsize=8)
    figure.savefig(PICTURE, dpi=110)
    sys.stdout.write(
        f"{PICTURE.name}: {cost.per_upload:.2f} ms + {cost.per_mb:.2f} ms/MB for accept and delivery\n"
    )


if __name__ == "__main__":
    main()
