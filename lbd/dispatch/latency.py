"""Running averages of flow duration a backend, shared by the policies that go by latency.

Lives here: the average and how failures are charged. Never here: a choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

import numpy as np

from lbd.dispatch.load import Vector


@dataclass(frozen=True)
class Memory:
    """How long an average remembers: a number of flows of the backend, or seconds."""

    flows: float | None = 200.0
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.flows is None) == (self.seconds is None):
            raise ValueError("a memory is either of flows or of seconds")


FAILURE_FACTOR = 2.0
"""A failure counts as this many times the slowest backend's average: however soon it came, it never
makes a backend look better than one that answers."""


class LatencyAverages:
    """Exponentially weighted mean of durations (slots,), in nanoseconds.

    Until a backend has as many samples as the memory it is their plain mean. A backend without any
    counts as the mean of the others: it is tried, and not favoured.
    """

    def __init__(self, slots: int, memory: Memory) -> None:
        self._memory = memory
        self._count = np.zeros(slots)
        self._last_ns = np.zeros(slots, dtype=np.int64)
        self.mean_ns: Vector = np.zeros(slots)

    def add(self, slot: int, now_ns: int, duration_ns: float) -> float:
        """Take a sample; returns the new mean."""
        count = float(self._count[slot]) + 1.0
        self._count[slot] = count
        if self._memory.flows is not None:
            share = 1.0 / self._memory.flows
        else:
            since_s = (now_ns - int(self._last_ns[slot])) * 1e-9
            share = 1.0 - exp(-since_s / (self._memory.seconds or 1.0))
            self._last_ns[slot] = now_ns
        mean = float(self.mean_ns[slot])
        mean += max(share, 1.0 / count) * (duration_ns - mean)
        self.mean_ns[slot] = mean
        return mean

    def add_failure(self, slot: int, now_ns: int, age_ns: int) -> float:
        """Charge a failed flow; returns the new mean."""
        worst_ns = float(self.mean_ns.max(initial=0.0))
        return self.add(slot, now_ns, max(FAILURE_FACTOR * worst_ns, float(age_ns)))

    def forget(self, slot: int) -> None:
        """The slot is another backend's now."""
        self._count[slot] = self.mean_ns[slot] = 0.0

    def filled_ns(self) -> Vector:
        """(slots,) positive means; a backend without samples has the mean of those with any."""
        seen = self._count > 0
        if not seen.any():
            return np.ones(len(self.mean_ns))
        neutral = max(float(self.mean_ns[seen].mean()), 1.0)
        return np.maximum(np.where(seen, self.mean_ns, neutral), 1.0)
