"""Running averages of flow duration a backend, shared by the policies that go by latency.

Lives here: the average and how failures are charged. Never here: a choice.
"""

from __future__ import annotations

from collections.abc import Sequence
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
"""Each failure multiplies what a backend counts as, each answer divides it again. The base is the
slowest average of all: however soon a failure came, it never makes a backend look better than one
that answers."""
FAILURE_CAP = 64.0
"""The bound of that: where the others are so much busier, a failed backend is tried again."""


FORGIVE_FLOWS = 32
"""A backend that has answered none of the service's last FORGIVE_FLOWS x backends flows is avoided
on old news: its average goes half the way to the others', its charge for failures is halved."""


class LatencyAverages:
    """Exponentially weighted mean of durations (slots,), in nanoseconds.

    Until a backend has as many samples as the memory it is their plain mean. A backend without any
    counts as the mean of the others: it is tried, and not favoured. Failures are no samples: they
    are charged beside the mean, while `failing`.
    """

    def __init__(self, slots: int, memory: Memory) -> None:
        self._memory = memory
        self._count = np.zeros(slots)
        self._last_ns = np.zeros(slots, dtype=np.int64)
        self.mean_ns: Vector = np.zeros(slots)
        self._charge = np.ones(slots)
        self._failed_ns = np.zeros(slots)
        self.failing = False
        self._samples = 0
        self._sampled_at = np.zeros(slots, dtype=np.int64)

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
        if self.failing:
            self._discharge(slot, float(self._charge[slot]) / FAILURE_FACTOR)
        self._samples += 1
        self._sampled_at[slot] = self._samples
        return mean

    def forgive(self) -> bool:
        """Let go of old news; to be called after every sample. True if averages have changed."""
        if self._samples % FORGIVE_FLOWS:
            return False
        known = self._count + self._charge > 1.0
        patience = FORGIVE_FLOWS * np.count_nonzero(known)
        stale = known & (self._samples - self._sampled_at > patience)
        if not stale.any():
            return False
        neutral = float(self.mean_ns[self._count > 0].mean())
        high = stale & (self.mean_ns > neutral)
        self.mean_ns[high] = 0.5 * (self.mean_ns[high] + neutral)
        for slot in np.flatnonzero(stale & (self._charge > 1.0)):
            self._discharge(int(slot), float(self._charge[slot]) / FAILURE_FACTOR)
        self._sampled_at[stale] = self._samples
        return True

    def add_failure(self, slot: int, age_ns: float) -> None:
        """Charge a failed flow that was `age_ns` old."""
        self._charge[slot] = min(FAILURE_FACTOR * self._charge[slot], FAILURE_CAP)
        self._failed_ns[slot] = max(self._failed_ns[slot], float(age_ns))
        self.failing = True

    def _discharge(self, slot: int, charge: float) -> None:
        if charge <= 1.0:
            charge = 1.0
            self._failed_ns[slot] = 0.0
        self._charge[slot] = charge
        self.failing = bool((self._charge > 1.0).any())

    def inherit(self, former: LatencyAverages, slots: Sequence[int]) -> None:
        """Go on with what `former`, of the same memory, knows of `slots`, and of no others."""
        at = list(slots)
        self._count[at], self.mean_ns[at] = former._count[at], former.mean_ns[at]
        self._last_ns[at] = former._last_ns[at]
        self._charge[at], self._failed_ns[at] = former._charge[at], former._failed_ns[at]
        self.failing = bool((self._charge > 1.0).any())
        # Whoever is new has had no time yet to be old news.
        self._samples = former._samples
        self._sampled_at[:] = former._samples
        self._sampled_at[at] = former._sampled_at[at]

    def filled_ns(self) -> Vector:
        """(slots,) positive means; a backend without samples has the mean of those with any.

        What fails counts as the slowest of them times its charge, or as long as its failures took.
        """
        seen = self._count > 0
        neutral = float(self.mean_ns[seen].mean()) if seen.any() else 1.0
        filled = np.maximum(np.where(seen, self.mean_ns, neutral), 1.0)
        if self.failing:
            bad = self._charge > 1.0
            charged = np.maximum(filled.max() * self._charge, self._failed_ns)
            filled[bad] = charged[bad]
        return filled
