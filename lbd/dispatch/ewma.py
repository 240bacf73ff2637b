"""EWMA of latency times (q + 1): no configuration, and the fallback when the agent is silent.

A cousin of Finagle's peak EWMA, without the peak: cost_j is the running average of flow durations.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from lbd.dispatch.latency import LatencyAverages, Memory
from lbd.dispatch.load import Load, Vector
from lbd.dispatch.policy import LeastScore, Policy


class Ewma(LeastScore):
    name = "ewma"

    def __init__(self, load: Load, memory: Memory | None = None) -> None:
        self._latency = LatencyAverages(load.slots, memory or Memory())
        self._unseen = set(range(load.slots))
        super().__init__(load)

    def costs(self) -> Vector:
        return self._latency.filled_ns()

    def inherit(self, former: Policy, slots: Sequence[int]) -> None:
        assert isinstance(former, Ewma)
        self._latency.inherit(former._latency, slots)
        self._unseen.difference_update(set(slots) - former._unseen)
        self.refresh()

    def sampled(self, slot: int, now_ns: int, duration_ns: int) -> None:
        latency = self._latency
        others_too = latency.failing or bool(self._unseen)
        mean_ns = latency.add(slot, now_ns, duration_ns)
        if latency.forgive() or others_too:
            # The mean of those seen is the neutral cost of the rest, the worst what failures cost.
            self._unseen.discard(slot)
            self._unseen.intersection_update(self.load.usable)
            self.refresh()
        elif self.cost[slot] < inf:
            # A flow may outlive its backend's place among the usable.
            self.cost[slot] = max(mean_ns, 1.0) / self._share[slot]

    def failed(self, slot: int, now_ns: int, age_ns: int) -> None:
        self._latency.add_failure(slot, age_ns)
        self.refresh()
