"""Equal-cost multi-path: a uniformly random backend (the papers' ECMP, P(j) = 1/n)."""

from __future__ import annotations

from random import choices, random

from lbd.dispatch.load import Load
from lbd.dispatch.policy import NONE, Policy


class Ecmp(Policy):
    name = "ecmp"

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.refresh()

    def refresh(self) -> None:
        load = self.load
        self._parts = None if load.whole else load.share[load.usable].tolist()

    def choose(self, now_ns: int, key: int) -> int:
        usable = self.load.usable
        if self._parts and usable:
            return choices(usable, self._parts)[0]
        return usable[int(random() * len(usable))] if usable else NONE
