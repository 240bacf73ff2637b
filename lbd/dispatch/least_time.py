"""nginx's least_time with `inflight`: average time to first byte, times active flows, over weight.

nginx documents the rule as "the lowest average response time and the least number of active
connections, taking weights into account", and `inflight` as taking incomplete requests into
account. Here: argmin (q + 1) * t_j / w_j, where t_j averages what is answered, and flows still
waiting count by their age once that exceeds the average.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lbd.dispatch.latency import LatencyAverages, Memory
from lbd.dispatch.load import Load, Vector
from lbd.dispatch.policy import LeastScore, Policy


class LeastTime(LeastScore):
    name = "least_time"

    def __init__(self, load: Load, memory: Memory | None = None) -> None:
        self._latency = LatencyAverages(load.slots, memory or Memory(flows=20.0))
        super().__init__(load)

    def refresh(self) -> None:
        super().refresh()
        usable = self.load.usable
        self._divisor = self.load.weight[usable] * self.load.share[usable]

    def costs(self) -> Vector:
        return self._latency.filled_ns()

    def choose(self, now_ns: int, key: int) -> int:
        waiting, age_ns = self.load.waiting_age_ns(now_ns)
        mean_ns = self._latency.filled_ns()
        pending_ns = age_ns / np.maximum(waiting, 1)
        usable = self.load.usable
        cost = np.maximum(mean_ns, pending_ns)[usable] / self._divisor
        self.cost[usable] = cost
        return super().choose(now_ns, key)

    def inherit(self, former: Policy, slots: Sequence[int]) -> None:
        assert isinstance(former, LeastTime)
        self._latency.inherit(former._latency, slots)

    def sampled(self, slot: int, now_ns: int, duration_ns: int) -> None:
        self._latency.add(slot, now_ns, duration_ns)
        self._latency.forgive()

    def failed(self, slot: int, now_ns: int, age_ns: int) -> None:
        self._latency.add_failure(slot, age_ns)
