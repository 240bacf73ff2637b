"""Weighted-cost multi-path: a random backend (the papers' WCMP, P(j) = w_j / sum w)."""

from __future__ import annotations

from bisect import bisect_right
from random import random

import numpy as np

from lbd.dispatch.load import Load
from lbd.dispatch.policy import NONE, Policy


class Wcmp(Policy):
    name = "wcmp"
    uses_weight = True

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.refresh()

    def refresh(self) -> None:
        load = self.load
        part = load.weight[load.usable] * load.share[load.usable]
        self._edges: list[float] = np.cumsum(part).tolist()

    def choose(self, now_ns: int, key: int) -> int:
        edges = self._edges
        if not edges:
            return NONE
        # random() < 1, but a product rounded up may reach the last edge.
        at = bisect_right(edges, random() * edges[-1])
        return self.load.usable[min(at, len(edges) - 1)]
