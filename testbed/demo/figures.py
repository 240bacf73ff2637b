"""The comparison's table: one row a method, over repetitions.

Lives here: numbers. Never here: how they are shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.demo.compare import CHANGED, CONFIGURED, Comparison
from testbed.demo.scenario import METHODS
from testbed.load.result import Result
from testbed.stats import Interval, mean_interval


@dataclass(frozen=True)
class Row:
    """Latencies of the requests that succeeded, in seconds: the mean over repetitions, 95 %
    intervals (Student's t). ratio: this method's mean over that of SED with the weights that were
    true at the start, paired by repetition. believable: how many of the repetitions were."""

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


def table(comparison: Comparison, part: str = CONFIGURED) -> list[Row]:
    """Methods that have run at least once in that part."""
    reference = {run.repetition: _mean_s(run.result) for run in comparison.of("sed-true", part)}
    rows = []
    for method in METHODS:
        runs = comparison.of(method.name, part)
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


SETTLED_RATIO = 1.5


def settled_s(comparison: Comparison) -> dict[str, float | None]:
    """Seconds under load until the agent's weights were where they stayed, by part.

    That is: each within a factor of SETTLED_RATIO of its geometric mean over the last third of the
    part's looks, nine looks of ten from then on. None where that cannot be said. Only looks at the
    agent's service count: the turns of other methods are no time.
    """
    changed_s = comparison.changed_s if comparison.changed_s is not None else math.inf
    before = [look for look in comparison.weights if look[0] < changed_s]
    after = [look for look in comparison.weights if look[0] >= changed_s]
    return {CONFIGURED: _settled_s(before), CHANGED: _settled_s(after)}


def _settled_s(looks: Sequence[tuple[float, NDArray[np.float64]]]) -> float | None:
    if len(looks) < 12:
        return None
    at_s = np.array([at for at, _ in looks])
    logs = np.log(np.array([weights for _, weights in looks]))  # (looks, N)
    logs -= logs.mean(axis=1, keepdims=True)
    final = logs[-len(looks) // 3 :].mean(axis=0)
    near = np.abs(logs - final).max(axis=1) <= math.log(SETTLED_RATIO)
    from_then_on = np.cumsum(near[::-1])[::-1] / np.arange(len(near), 0, -1)
    first = int(np.argmax(near & (from_then_on >= 0.9)))
    if not near[first]:
        return None
    steps_s = np.diff(at_s[: first + 1])
    return float(steps_s[steps_s < 2.0].sum())  # a longer gap is another method's turn
