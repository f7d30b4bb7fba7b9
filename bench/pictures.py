"""Two pictures of a run: response times by size, and the article's setting."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.results import Results

BYTES = {"100 kB": 1e5, "1 MB": 1e6, "10 MB": 1e7, "100 MB": 1e8, "1 GB": 1e9}
COLORS = {"normal": "#b5651d", "async": "#1f77b4", "celery": "#2a8f4f", "limit": "#444444", "busboy": "#8e44ad"}
CLAIMS = {"normal": (5000, "5 s"), "async": (100, "< 100 ms"), "celery": (200, "100-200 ms")}


def draw_times(results: Results, path: Path, caption: str) -> None:
    """Response time by size and mode, both axes logarithmic, beside the limit, the article's way and busboy."""
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    for mode in ("normal", "async", "celery"):
        _line(axes, results, "ours", mode, COLORS[mode], "o-", f"Ferryman, {mode}")
        _line(axes, results, "article", mode, COLORS[mode], "x:", f"the article's way, {mode}")
    _line(axes, results, "busboy", "async", COLORS["busboy"], "s--", "Node, busboy to a file")
    _line(axes, results, "limit", "async", COLORS["limit"], "-", "the limit: bare sink to a file")
    axes.set(xscale="log", yscale="log", xlabel="size of the file", ylabel="time to the answer, ms (median)")
    axes.set_xticks(list(BYTES.values()), list(BYTES))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    axes.set_title(f"Time to the answer, fast S3\n{caption}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_article(results: Results, path: Path, caption: str) -> None:
    """What the article claims, and its way and ours measured: 10 MB over a link of 2 MB/s."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for place, mode in enumerate(CLAIMS):
        what = f"{mode} 10 MB, link 2 MB/s"
        claim, text = CLAIMS[mode]
        bars: list[tuple[float | None, str, str]] = [
            (claim, "#cccccc", text),
            (results.median("article", what), "#b5651d", ""),
            (results.median("ours", what), "#1f77b4", ""),
        ]
        for number, (value, color, label) in enumerate(bars):
            if value is not None:
                bar = axes.bar(place + (number - 1) * 0.27, value, 0.25, color=color)
                axes.bar_label(bar, [label or f"{value:,.0f} ms"], fontsize=8, padding=2)
    for color, label in (
        ("#cccccc", "the article's claim"),
        ("#b5651d", "its way, measured"),
        ("#1f77b4", "Ferryman"),
    ):
        axes.bar(0, 0, color=color, label=label)
    axes.set(yscale="log", ylabel="time to the answer, ms (median)")
    axes.set_ylim(1, 20_000)
    axes.set_xticks(range(len(CLAIMS)), [f"{mode} upload" for mode in CLAIMS])
    axes.legend(fontsize=8)
    axes.set_title(f"10 MB over a link of 2 MB/s to S3\n{caption}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _line(axes: Axes, results: Results, who: str, mode: str, color: str, style: str, label: str) -> None:
    points = [(size, results.median(who, f"{mode} {name}")) for name, size in BYTES.items()]
    known = [(size, median) for size, median in points if median is not None]
    if known:
        axes.plot(*zip(*known, strict=True), style, color=color, label=label, markersize=5)
