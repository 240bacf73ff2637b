"""Hot-cold lexicographic: Prequal's rule (NSDI'24) on passive signals.

A backend is hot if its requests in flight exceed the HOT_QUANTILE of what was seen lately. Among
cold backends the one with the lowest latency is chosen, where there is none the one with the fewest
in flight. Prequal probes a random pool; here q and durations of the flows themselves are the
signals, and of many backends a random POOL is looked at.

The latency is that of a flow that comes now, as Prequal has it, who asks each server for its
latency at the requests in flight of the moment. Flows share a server, so a duration is taken as in
proportion to q: durations are averaged per flow in progress, and the choice multiplies by q + 1. A
plain average of past durations says nothing of the flows that were sent since, all of which follow
each other to one backend.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import random, sample
from typing import Final

import numpy as np

from lbd.dispatch.latency import LatencyAverages, Memory
from lbd.dispatch.load import Load
from lbd.dispatch.policy import NONE, Policy

HOT_QUANTILE: Final = 0.84
POOL: Final = 16
HISTORY: Final = 128
REFRESH_EVERY: Final = 16


class HotCold(Policy):
    name = "hcl"

    def __init__(self, load: Load, memory: Memory | None = None) -> None:
        super().__init__(load)
        self._latency = LatencyAverages(load.slots, memory or Memory(flows=20.0))
        self._seen: deque[float] = deque(maxlen=HISTORY)
        self._hot_above = float("inf")
        self._choices = 0
        self.refresh()

    def refresh(self) -> None:
        self._share: list[float] = self.load.share.tolist()

    def choose(self, now_ns: int, key: int) -> int:
        usable = self.load.usable
        if not usable:
            return NONE
        pool = usable if len(usable) <= POOL else sample(usable, POOL)
        share = self._share
        flows = {slot: self.load.q(slot) for slot in pool}
        q = {slot: flows[slot] / share[slot] for slot in pool}
        self._seen.extend(q.values())
        self._choices += 1
        if self._choices % REFRESH_EVERY == 1:
            self._hot_above = float(np.quantile(self._seen, HOT_QUANTILE))
        each_ns = self._latency.filled_ns()

        def latency_now(slot: int) -> float:
            latency_ns = float(each_ns[slot]) * (flows[slot] + 1.0) / share[slot]
            return latency_ns * (1.0 + 1e-9 * random())

        cold = [slot for slot in pool if q[slot] <= self._hot_above]
        if cold:
            return min(cold, key=latency_now)
        return min(pool, key=lambda slot: (q[slot], random()))

    def inherit(self, former: Policy, slots: Sequence[int]) -> None:
        assert isinstance(former, HotCold)
        self._latency.inherit(former._latency, slots)
        self._seen, self._hot_above = former._seen, former._hot_above
        self._choices = former._choices

    def sampled(self, slot: int, now_ns: int, duration_ns: int) -> None:
        self._latency.add(slot, now_ns, self._per_flow_ns(slot, duration_ns))
        self._latency.forgive()

    def failed(self, slot: int, now_ns: int, age_ns: int) -> None:
        self._latency.add_failure(slot, self._per_flow_ns(slot, age_ns))

    def _per_flow_ns(self, slot: int, time_ns: int) -> float:
        return time_ns / max(self.load.q(slot), 1.0)
