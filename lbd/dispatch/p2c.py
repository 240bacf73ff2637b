"""The power of two choices: of two random backends the one with the shorter expected delay.

Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001); with weights, the
better of the two is that with the smaller (q + 1) / weight.
"""

from __future__ import annotations

from random import random

from lbd.dispatch.load import Load
from lbd.dispatch.policy import NONE, Policy


class TwoChoices(Policy):
    name = "p2c"
    uses_weight = True

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.refresh()

    def refresh(self) -> None:
        self._part: list[float] = (self.load.weight * self.load.share).tolist()

    def choose(self, now_ns: int, key: int) -> int:
        load = self.load
        usable = load.usable
        count = len(usable)
        if count < 2:
            return usable[0] if usable else NONE
        first = int(random() * count)
        second = int(random() * (count - 1))
        if second >= first:
            second += 1
        a, b = usable[first], usable[second]
        # Either order is equally likely, so a tie is broken at random by taking the first.
        score_a = (load.q(a) + 1.0) * self._part[b]
        score_b = (load.q(b) + 1.0) * self._part[a]
        return a if score_a <= score_b else b
