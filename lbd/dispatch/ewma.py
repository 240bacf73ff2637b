"""EWMA of latency times (q + 1): no configuration, and the fallback when the agent is silent.

A cousin of Finagle's peak EWMA, without the peak: cost_j is the running average of flow durations.
"""

from __future__ import annotations

from lbd.dispatch.latency import LatencyAverages, Memory
from lbd.dispatch.load import Load, Vector
from lbd.dispatch.policy import LeastScore


class Ewma(LeastScore):
    name = "ewma"

    def __init__(self, load: Load, memory: Memory | None = None) -> None:
        self._latency = LatencyAverages(load.slots, memory or Memory())
        self._unseen = set(range(load.slots))
        super().__init__(load)

    def costs(self) -> Vector:
        return self._latency.filled_ns()

    def sampled(self, slot: int, now_ns: int, duration_ns: int) -> None:
        self._set(slot, self._latency.add(slot, now_ns, duration_ns))

    def failed(self, slot: int, now_ns: int, age_ns: int) -> None:
        self._set(slot, self._latency.add_failure(slot, now_ns, age_ns))

    def _set(self, slot: int, mean_ns: float) -> None:
        if self._unseen:
            # What the others have is the neutral cost of those not seen yet.
            self._unseen.discard(slot)
            self._unseen.intersection_update(self.load.usable)
            self.refresh()
        else:
            self.cost[slot] = max(mean_ns, 1.0)
