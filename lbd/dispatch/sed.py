"""Shortest expected delay: argmin (q + 1) / weight, the rule that the agent's weights steer."""

from __future__ import annotations

import numpy as np

from lbd.dispatch.load import Vector
from lbd.dispatch.policy import LeastScore


class ShortestExpectedDelay(LeastScore):
    name = "sed"
    uses_weight = True

    def costs(self) -> Vector:
        costs = np.ones(self.load.slots)
        usable = self.load.usable
        costs[usable] = 1.0 / self.load.weight[usable]
        return costs
