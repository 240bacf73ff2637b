"""Smooth weighted round robin, as nginx has it.

At each choice every backend gains its weight, the richest is chosen and pays the sum of all: shares
are the weights', and the same backend's turns are spread out.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import random

import numpy as np

from lbd.dispatch.load import Load, Vector
from lbd.dispatch.policy import NONE, Policy


class SmoothWeightedRoundRobin(Policy):
    """Keeps its credits over a change of weights or backends; one that comes has none at first."""

    name = "wrr"
    uses_weight = True

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        # Any start will do; not the same, lest workers walk in step and ties fall alike.
        self._credit: Vector = 1e-6 * np.array([random() for _ in range(load.slots)])
        self.refresh()

    def refresh(self) -> None:
        usable = self.load.usable
        self._gain = np.zeros(self.load.slots)
        self._gain[usable] = self.load.weight[usable] * self.load.share[usable]
        self._total = float(self._gain.sum())
        out = np.ones(self.load.slots, dtype=bool)
        out[usable] = False
        self._credit[out] = 0.0
        self._barred = np.where(out, -np.inf, 0.0)

    def inherit(self, former: Policy, slots: Sequence[int]) -> None:
        assert isinstance(former, SmoothWeightedRoundRobin)
        at = list(slots)
        self._credit.fill(0.0)
        self._credit[at] = former._credit[at]

    def choose(self, now_ns: int, key: int) -> int:
        if not self.load.usable:
            return NONE
        credit = self._credit
        credit += self._gain
        slot = int((credit + self._barred).argmax())
        credit[slot] -= self._total
        return slot
