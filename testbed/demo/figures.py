"""The comparison's table: one row a method, over repetitions.

Lives here: numbers. Never here: how they are shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from testbed.demo.compare import Comparison
from testbed.demo.scenario import METHODS
from testbed.load.result import Result
from testbed.stats import Interval, mean_interval


@dataclass(frozen=True)
class Row:
    """Latencies of the requests that succeeded, in seconds: the mean over repetitions, 95 %
    intervals (Student's t). ratio: this method's mean over that of SED with true weights, paired by
    repetition. believable: how many of the repetitions were."""

    method: str
    repetitions: int
    mean: Interval
    p50: Interval
    p90: Interval
    p99: Interval
    ratio: float
    requests: int
    failures: dict[str, int]
    believable: int


def table(comparison: Comparison) -> list[Row]:
    """Methods that have run at least once."""
    reference = {run.repetition: _mean_s(run.result) for run in comparison.of("sed-true")}
    rows = []
    for method in METHODS:
        runs = comparison.of(method.name)
        spreads = [run.result.summary().latency for run in runs]
        if not spreads or any(math.isnan(spread.mean_s) for spread in spreads):
            continue
        failures: dict[str, int] = {}
        for run in runs:
            for kind, count in run.result.failures().items():
                failures[kind] = failures.get(kind, 0) + count
        paired = [run for run in runs if run.repetition in reference]
        ratio = math.nan
        if paired:
            above = sum(_mean_s(run.result) for run in paired)
            ratio = above / sum(reference[run.repetition] for run in paired)
        rows.append(
            Row(
                method=method.name,
                repetitions=len(runs),
                mean=mean_interval([spread.mean_s for spread in spreads]),
                p50=mean_interval([spread.p50_s for spread in spreads]),
                p90=mean_interval([spread.p90_s for spread in spreads]),
                p99=mean_interval([spread.p99_s for spread in spreads]),
                ratio=ratio,
                requests=sum(len(run.result.table) for run in runs),
                failures=failures,
                believable=sum(run.result.believable for run in runs),
            )
        )
    return rows


def _mean_s(result: Result) -> float:
    return float(np.mean(result.latency_s()))
