"""Runs in figures: one row a case, page, window and method, with intervals over repetitions.

Lives here: numbers. Never here: how they are shown, what the papers say (`beside`).
Latency is from the planned time of a request. One that failed counts as long as a client waits, so
that nobody gains by failing; `answered_mean` is of those that were answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from testbed.experiments.store import Kept
from testbed.stats import Interval, mean_interval

REFERENCE = "sed"

FIGURES = ("mean", "p50", "p90", "p95", "p99", "answered_mean")

PAIRS_MIN = 4
"""Repetitions below which no interval is given: that of fewer says nothing."""

ALL = "all"
"""Pages of every kind together."""

Window = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """seconds, ratio: by figure, over the repetitions; ratio to REFERENCE in the same repetitions,
    None where that has not run. ratio_sound: whether of those only, and of REFERENCE's, that there
    is no reason to doubt; if none is left, it is of all. believable: of `repetitions`, how many
    there is no reason to doubt. sound: by figure and repetition, those only. balancer_us: CPU of
    all balancers a request. load: what it really was, mean over repetitions; None where it cannot
    be told."""

    case: str
    page: str
    window: Window
    method: str
    repetitions: int
    believable: int
    requests: int
    failed: int
    seconds: Mapping[str, Interval]
    ratio: Mapping[str, Interval | None]
    ratio_sound: bool
    sound: Mapping[str, Mapping[int, float]]
    balancer_us: float
    load: float | None

    def over(self, other: Row, figure: str) -> Interval | None:
        """This figure over another's in the same repetitions; None where they share none that is
        to be believed of both."""
        mine, theirs = self.sound[figure], other.sound[figure]
        both = sorted(mine.keys() & theirs.keys())
        return _ratio([mine[at] for at in both], [theirs[at] for at in both])


def by_run(kept: Kept, windows: Sequence[Window], timeout_s: float) -> pl.DataFrame:
    """One row a page and window: requests, failed, and each of FIGURES in seconds."""
    requests = kept.requests()
    pages = sorted(requests["page"].unique().to_list())
    rows = []
    for window in windows:
        inside = requests.filter(pl.col("planned_s").is_between(*window, closed="left"))
        for page in (*pages, ALL) if len(pages) > 1 else pages:
            of = inside if page == ALL else inside.filter(pl.col("page") == page)
            if not of.is_empty():
                rows.append(
                    {"page": page, "from_s": window[0], "to_s": window[1], **_run(of, timeout_s)}
                )
    return pl.DataFrame(rows)


def _run(requests: pl.DataFrame, timeout_s: float) -> dict[str, float]:
    latency_s = waited_s(requests, timeout_s)
    answered = requests.filter(pl.col("outcome") == "ok")["latency_s"].to_numpy()
    p50, p90, p95, p99 = np.percentile(latency_s, (50, 90, 95, 99)).tolist()
    return {
        "requests": len(requests),
        "failed": len(requests) - len(answered),
        "mean": float(latency_s.mean()),
        "p50": p50,
        "p90": p90,
        "p95": p95,
        "p99": p99,
        "answered_mean": float(answered.mean()) if len(answered) else math.nan,
    }


def waited_s(requests: pl.DataFrame, timeout_s: float) -> NDArray[np.float64]:
    """Latencies of all requests; of one that failed as long as a client waits."""
    return (
        requests.select(
            pl.when(pl.col("outcome") == "ok").then(pl.col("latency_s")).otherwise(timeout_s)
        )
        .to_series()
        .to_numpy()
    )


def rows(
    runs: Sequence[Kept], windows: Mapping[str, Sequence[Window]], timeout_s: float
) -> list[Row]:
    """All rows, cases and methods in the order in which they first ran. windows: by case."""
    if not runs:
        return []
    tables = []
    for kept in runs:
        if kept.case in windows:
            tables.append(
                by_run(kept, windows[kept.case], timeout_s).with_columns(
                    case=pl.lit(kept.case),
                    method=pl.lit(kept.method),
                    repetition=pl.lit(kept.repetition),
                )
            )
    table = pl.concat(tables)
    found = []
    for case in dict.fromkeys(table["case"].to_list()):
        of_case = table.filter(pl.col("case") == case)
        trusted = _sound([r for r in runs if (r.case, r.method) == (case, REFERENCE)])
        for window in windows[case]:
            of_window = of_case.filter(
                (pl.col("from_s") == window[0]) & (pl.col("to_s") == window[1])
            )
            for page in dict.fromkeys(of_window["page"].to_list()):
                of_page = of_window.filter(pl.col("page") == page)
                reference = of_page.filter(pl.col("method") == REFERENCE)
                for method in dict.fromkeys(of_page["method"].to_list()):
                    of_method = of_page.filter(pl.col("method") == method)
                    mine = [r for r in runs if (r.case, r.method) == (case, method)]
                    found.append(
                        _row(case, page, window, method, of_method, reference, trusted, mine)
                    )
    return found


def _row(
    case: str,
    page: str,
    window: Window,
    method: str,
    table: pl.DataFrame,
    reference: pl.DataFrame,
    trusted: set[int],
    runs: Sequence[Kept],
) -> Row:
    """reference: its rows; trusted: the repetitions of it that there is no reason to doubt."""
    sound = _sound(runs)
    loads = [run.record["load"] for run in runs if run.record.get("load") is not None]
    numbers = table["repetition"].to_list()
    beside = table.join(reference, on="repetition", suffix="_reference").sort("repetition")
    both = beside.filter(pl.col("repetition").is_in(list(sound & trusted)))
    beside = beside if both.is_empty() else both
    return Row(
        case=case,
        page=page,
        window=window,
        method=method,
        repetitions=len(table),
        believable=sum(not run.record["why_not"] for run in runs),
        requests=int(table["requests"].sum()),
        failed=int(table["failed"].sum()),
        seconds={name: _mean(table[name].to_list()) for name in FIGURES},
        ratio={
            name: _ratio(beside[name].to_list(), beside[f"{name}_reference"].to_list())
            for name in FIGURES
        },
        ratio_sound=not both.is_empty(),
        sound={
            name: {
                at: value
                for at, value in zip(numbers, table[name].to_list(), strict=True)
                if at in sound
            }
            for name in FIGURES
        },
        balancer_us=_balancer_us(runs),
        load=sum(loads) / len(loads) if loads else None,
    )


def _sound(runs: Sequence[Kept]) -> set[int]:
    """Repetitions that there is no reason to doubt."""
    return {run.repetition for run in runs if not run.record["why_not"]}


def _mean(values: Sequence[float]) -> Interval:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return Interval(math.nan, -math.inf, math.inf)
    return _enough(mean_interval(finite), len(finite))


def _enough(interval: Interval, count: int) -> Interval:
    """The same; without bounds where repetitions are too few for any."""
    return interval if count >= PAIRS_MIN else Interval(interval.estimate, -math.inf, math.inf)


def _ratio(above: Sequence[float], below: Sequence[float]) -> Interval | None:
    """The geometric mean of the ratios in each repetition."""
    logs = [
        math.log(a / b) for a, b in zip(above, below, strict=True) if math.isfinite(a) and a * b > 0
    ]
    if not logs:
        return None
    found = mean_interval(logs)
    bounds = (math.exp(value) for value in (found.estimate, found.low, found.high))
    return _enough(Interval(*bounds), len(logs))


def _balancer_us(runs: Sequence[Kept]) -> float:
    requests = sum(len(run.requests()) for run in runs)
    return sum(float(run.record["balancer_cpu_s"]) for run in runs) / max(requests, 1) * 1e6


def busy_by_group(kept: Kept, settle_s: float, until_s: float) -> dict[str, list[int]]:
    """Busy workers at each look while the run was settled, by group of equal servers."""
    groups = _groups(kept)
    truth = kept.truth().filter(pl.col("at_s").is_between(settle_s, until_s))
    found: dict[str, list[int]] = {}
    for server, busy in truth.select("server", "busy").iter_rows():
        found.setdefault(groups[server], []).append(busy)
    return found


def used_by_server(kept: Kept, settle_s: float, until_s: float) -> dict[str, float]:
    """CPU used over what the server had at each moment, while the run was settled."""
    truth = kept.truth().filter(pl.col("at_s").is_between(settle_s, until_s))
    found = {}
    for (server,), looks in truth.sort("at_s").group_by(["server"], maintain_order=True):
        spent_s = looks["cpu_s"][-1] - looks["cpu_s"][0]
        # What it had from one look to the next is what it was found to have at the first.
        had_s = float((looks["at_s"].diff()[1:] * looks["cores"][:-1]).sum())
        found[str(server)] = spent_s / had_s if had_s > 0 else math.nan
    return found


def _groups(kept: Kept) -> dict[str, str]:
    groups = kept.record["content"]["topology"]["groups"]
    return {f"{g['name']}{n + 1}": str(g["name"]) for g in groups for n in range(g["count"])}
