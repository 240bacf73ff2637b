"""Both worlds in figures: one row a method, over the rounds.

Lives here: numbers. Never here: how they are shown, measuring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from testbed.faithful.compare import Pair
from testbed.faithful.live import Overhead
from testbed.stats import Interval, ratio_interval

Floats = NDArray[np.float64]

BAR = 0.1
"""The simulated mean shall be this close to the live one."""


@dataclass(frozen=True)
class Twofold:
    """A figure in both worlds, in seconds, the mean over the rounds.

    ratio: live over simulated, with the 95 % interval of a bootstrap over the rounds. median: of
    the rounds' ratios. spread: standard deviation of `ratio` if live runs were simulated ones, from
    ties that are broken otherwise.
    """

    live_s: float
    simulated_s: float
    ratio: Interval
    median: float
    spread: float


@dataclass(frozen=True)
class Row:
    """failed: of the live runs' requests. Means over the live runs: overhead, busy (share of the
    cores), lag_p99_s of the load generator."""

    method: str
    rounds: int
    requests: int
    mean: Twofold
    p99: Twofold
    failed: int
    overhead: Overhead
    busy: float
    lag_p99_s: float

    @property
    def close(self) -> bool:
        """Whether the mean meets the bar."""
        return abs(self.mean.ratio.estimate - 1.0) <= BAR


def rows(pairs: Sequence[Pair]) -> list[Row]:
    """In the order in which the methods first ran."""
    return [
        _row(method, [pair for pair in pairs if pair.method == method])
        for method in dict.fromkeys(pair.method for pair in pairs)
    ]


def _row(method: str, pairs: Sequence[Pair]) -> Row:
    return Row(
        method=method,
        rounds=len(pairs),
        requests=sum(len(pair.live_s) for pair in pairs),
        mean=_twofold(pairs, lambda latency_s: latency_s.mean(axis=-1)),
        p99=_twofold(pairs, lambda latency_s: np.percentile(latency_s, 99, axis=-1)),
        failed=sum(pair.failed for pair in pairs),
        overhead=Overhead(
            inside_s=fmean(pair.overhead.inside_s for pair in pairs),
            outside_s=fmean(pair.overhead.outside_s for pair in pairs),
        ),
        busy=fmean(pair.busy for pair in pairs),
        lag_p99_s=fmean(pair.lag_p99_s for pair in pairs),
    )


def _twofold(pairs: Sequence[Pair], figure: Callable[[Floats], Floats]) -> Twofold:
    live = np.array([figure(pair.live_s) for pair in pairs])  # (rounds,)
    simulated = np.array([figure(pair.simulated_s) for pair in pairs])  # (rounds, TIE_SEEDS)
    expected = simulated.mean(axis=1)
    return Twofold(
        live_s=float(live.mean()),
        simulated_s=float(expected.mean()),
        ratio=ratio_interval(live, expected, seed=0),
        median=float(np.median(live / expected)),
        spread=float(np.sqrt(simulated.var(axis=1, ddof=1).sum()) / expected.sum()),
    )
