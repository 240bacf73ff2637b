"""One seed of the learning experiment over real TCP, and what its weights came to.

Lives here: the run and its score. Never here: plots, flags.
The agent starts from random parameters with base `none`: nothing but what it learns from the
reward ranks the backends. Their speeds are shuffled by the seed; nobody configured them.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.stack import ServiceSpec, Stack, StackSpec
from testbed.watch import Watch

SPEEDS = (1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 4.0)
UTILISATION = 0.8
MEAN_WORK_S = 0.06
LOOK_S = 0.5
RECENT_S = 15.0


@dataclass(frozen=True)
class Curve:
    """at_s (T,), weights (T, N) with mean 1, speeds (N,)."""

    seed: int
    at_s: NDArray[np.float64]
    weights: NDArray[np.float64]
    speeds: NDArray[np.float64]

    def smoothed(self) -> NDArray[np.float64]:
        """(T, N) geometric means over the last RECENT_S: exploration averaged out."""
        logs = np.log(self.weights)
        rows = []
        for row, now_s in enumerate(self.at_s):
            first = int(np.searchsorted(self.at_s, now_s - RECENT_S))
            rows.append(logs[first : row + 1].mean(axis=0))
        return np.exp(np.array(rows))

    def agreement(self) -> NDArray[np.float64]:
        """(T,) Spearman's rank correlation of the smoothed weights with the speeds."""
        return np.array([spearman(row, self.speeds) for row in self.smoothed()])

    def pairs_right(self) -> float:
        """At the end: share of the pairs of unequal speed that the weights rank rightly."""
        last = self.smoothed()[-1]
        i, j = np.triu_indices(len(last), 1)
        unequal = self.speeds[i] != self.speeds[j]
        right = (last[i] > last[j]) == (self.speeds[i] > self.speeds[j])
        return float(right[unequal].mean())


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Rank correlation; equal values share their mean rank. 0 where one of them is constant."""
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale else 0.0


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)


def run(seed: int, duration_s: float) -> Curve:
    """Raises ChildError where a process fails."""
    speeds = np.random.default_rng(seed).permutation(SPEEDS)
    names = {chr(ord("a") + i): float(speed) for i, speed in enumerate(speeds)}
    spec = StackSpec(
        names,
        [ServiceSpec("learn", "sed", agent=True)],
        agent={"mode": "learn", "base": "none", "seed": seed},
    )
    rate = UTILISATION * sum(SPEEDS) / MEAN_WORK_S
    with Stack(spec) as stack:
        argv = [sys.executable, "-m", "testbed", "load", "--json", "--seed", str(seed)]
        argv += ["--target", f"127.0.0.1:{stack.port['learn']}", "--rate", f"{rate:g}"]
        argv += ["--duration", f"{duration_s:g}", "--mean-ms", f"{MEAN_WORK_S * 1e3:g}"]
        watch = Watch(stack.region("learn"), agent=True)
        load = stack.children.start("load", argv)
        start_s = time.monotonic()
        at_s: list[float] = []
        weights: list[NDArray[np.float64]] = []
        while load.running() and time.monotonic() - start_s < duration_s:
            time.sleep(LOOK_S)
            at_s.append(time.monotonic() - start_s)
            weights.append(watch.look().weight)
    return Curve(seed, np.array(at_s), np.array(weights), speeds)
