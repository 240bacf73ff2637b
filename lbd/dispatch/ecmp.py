"""Equal-cost multi-path: a uniformly random backend (the papers' ECMP, P(j) = 1/n)."""

from __future__ import annotations

from random import random

from lbd.dispatch.policy import NONE, Policy


class Ecmp(Policy):
    name = "ecmp"

    def choose(self, now_ns: int, key: int) -> int:
        usable = self.load.usable
        return usable[int(random() * len(usable))] if usable else NONE
