"""The comparison's table: one row a method, over repetitions.

Lives here: numbers. Never here: how they are shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
LEAST_LOOKS = 12


@dataclass(frozen=True)
class Weights:
    """The agent's weights in one part; None where it cannot be said.

    settled_s: seconds under load until they were where they stayed, that is, each within a factor
    of SETTLED_RATIO of its geometric mean over the last third of the part's looks, nine looks of
    ten from then on. Only looks at the agent's service count: the turns of other methods are no
    time. off: the largest factor between such a mean and the backend's true speed, both over
    those of all backends.
    """

    settled_s: float | None
    off: float | None


def weights(comparison: Comparison) -> dict[str, Weights]:
    """By part."""
    scenario = comparison.scenario
    changed_s = comparison.changed_s if comparison.changed_s is not None else math.inf
    before = [look for look in comparison.weights if look[0] < changed_s]
    after = [look for look in comparison.weights if look[0] >= changed_s]
    return {
        CONFIGURED: _weights(before, scenario.speeds),
        CHANGED: _weights(after, scenario.changed),
    }


def _weights(
    looks: Sequence[tuple[float, NDArray[np.float64]]], speeds: Mapping[str, float]
) -> Weights:
    if len(looks) < LEAST_LOOKS:
        return Weights(None, None)
    at_s = np.array([at for at, _ in looks])
    logs = _centred(np.log(np.array([weights for _, weights in looks])))  # (looks, N)
    final = logs[-len(looks) // 3 :].mean(axis=0)
    off = float(np.exp(np.abs(final - _centred(np.log(list(speeds.values())))).max()))
    near = np.abs(logs - final).max(axis=1) <= math.log(SETTLED_RATIO)
    from_then_on = np.cumsum(near[::-1])[::-1] / np.arange(len(near), 0, -1)
    first = int(np.argmax(near & (from_then_on >= 0.9)))
    if not near[first]:
        return Weights(None, off)
    steps_s = np.diff(at_s[: first + 1])
    # A longer gap is another method's turn.
    return Weights(float(steps_s[steps_s < 2.0].sum()), off)


def _centred(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without the mean over the backends (..., N)."""
    centred: NDArray[np.float64] = logs - logs.mean(axis=-1, keepdims=True)
    return centred
