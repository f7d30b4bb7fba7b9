"""The table: what was measured, beside the others, judged by what issue 4 asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bench.results import Results

OTHERS = ("limit", "article", "busboy", "tus")
HEAD = ("work", "unit", "ours", "p95", *OTHERS, "x limit", "x article", "x busboy", "must", "aim", "reached")


class Row(NamedTuple):
    """One line; `over` names whom the bounds are ratios to, and without it they are absolute."""

    what: str
    unit: str
    must: float | None = None
    aim: float | None = None
    over: str = ""
    more_is_better: bool = False


def rows(sizes: list[str], large: str) -> list[Row]:
    """All lines, for these sizes of single uploads and this largest file."""
    found: list[Row] = []
    accept = {
        ("async", "10 MB"): (2.0, 1.2),
        ("celery", "10 MB"): (2.2, 1.3),
        ("async", "100 MB"): (1.6, 1.1),
        ("celery", "100 MB"): (1.6, 1.1),
    }
    normal = {"10 MB": (0.65, 0.5), "100 MB": (0.45, 0.26), "1 GB": (0.40, 0.22)}
    for mode in ("async", "celery"):
        for size in sizes:
            must, aim = accept.get((mode, size), (None, None))
            found.append(Row(f"{mode} {size}", "ms", must, aim, "limit"))
    for size in [*sizes, "1 GB"]:
        must, aim = normal.get(size, (None, None))
        found.append(Row(f"normal {size}", "ms", must, aim, "article"))
    found += [
        Row("normal 100 MB, both links 50 MB/s", "ms", 1.2, 1.1, "limit"),
        Row("normal 10 MB, link 2 MB/s", "ms", 1.05, 1.02, "limit"),
        Row("async 10 MB, link 2 MB/s", "ms", 30, 15),
        Row("celery 10 MB, link 2 MB/s", "ms", 40, 20),
        Row("32 clients, async 10 MB", "/s", 0.35, 0.60, "limit", True),
        Row("32 clients, async 1 MB", "/s", 0.15, 0.40, "limit", True),
        Row("32 clients, async 100 kB", "/s", 5, 10, "article", True),
        Row("status reads, 1 web process", "/s", 1500, 3000, "", True),
        Row("deliver 100 MB, http", "CPU ms/MB", 1.2, 0.5),
        Row("deliver 100 MB, https", "CPU ms/MB", 1.8, 1.1),
    ]
    for part in ("web, normal", "web, async", "web, celery", "worker, celery"):
        found.append(Row(f"peak over idle, {large}: {part}", "MB", 64, 32))
    found += [
        Row("600 MB by Celery, answer", "status"),
        Row("600 MB by Celery, time to answer", "ms"),
        Row("600 MB by Celery: web", "MB", 64, 32),
        Row("600 MB by Celery: worker", "MB", 64, 32),
        Row("Redis peak, 100 queued of 10 MB", "MB", 20, 5),
        Row("enqueue to pickup, idle", "ms", 15),
    ]
    for mode in ("normal", "async", "celery"):
        found += [Row(f"{mode} {size}, SeaweedFS", "ms") for size in sizes if size in ("10 MB", "100 MB")]
    return found


def lines(results: Results, table: list[Row]) -> list[str]:
    """The table as text; rows without a sample of ours are left out."""
    cells = [HEAD, *(_cells(results, row) for row in table if results.median("ours", row.what) is not None)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]

    def line(texts: tuple[str, ...]) -> str:
        first, *rest = (text.ljust(width) if column < 2 else text.rjust(width)
                        for column, (text, width) in enumerate(zip(texts, widths, strict=True)))  # fmt: skip
        return "  ".join((first, *rest)).rstrip()

    return [line(cells[0]), "-" * (sum(widths) + 2 * len(widths) - 2), *(line(texts) for texts in cells[1:])]


def judged(results: Results, row: Row) -> float | None:
    """The figure that the bounds speak of."""
    mine = results.median("ours", row.what)
    if not row.over:
        return mine
    other = results.median(row.over, row.what)
    return mine / other if mine is not None and other else None


def verdict(results: Results, row: Row) -> str:
    """Whether it is reached: `aim`, `must`, or `NO`."""
    figure = judged(results, row)
    if figure is None or row.must is None:
        return ""
    for name, bound in (("aim", row.aim), ("must", row.must)):
        if bound is not None and (figure >= bound if row.more_is_better else figure <= bound):
            return name
    return "NO"


def _cells(results: Results, row: Row) -> tuple[str, ...]:
    mine = results.median("ours", row.what)
    others = [results.median(who, row.what) for who in OTHERS]
    ratios = [_number(mine / other) if mine is not None and other else "" for other in others[:3]]
    measured = (_number(mine), _number(results.p95("ours", row.what)), *(_number(other) for other in others))
    return (row.what, row.unit, *measured, *ratios, *_bounds(row), verdict(results, row))


def _bounds(row: Row) -> Iterator[str]:
    sign = ">=" if row.more_is_better else "<="
    for bound in (row.must, row.aim):
        yield "" if bound is None else f"{sign} {bound:g}{f' x {row.over}' if row.over else ''}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"
