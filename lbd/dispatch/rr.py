"""Round robin: every usable backend in turn."""

from __future__ import annotations

from collections.abc import Sequence
from random import random, randrange

from lbd.dispatch.load import Load
from lbd.dispatch.policy import NONE, Policy


class RoundRobin(Policy):
    """Starts anywhere, so that several workers do not walk in step.

    A backend with less than a full share misses turns at random.
    """

    name = "rr"

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._next = randrange(max(1, len(load.usable)))
        self.refresh()

    def refresh(self) -> None:
        load = self.load
        self._parts = None if load.whole else load.share / load.share[load.usable].max()

    def inherit(self, former: Policy, slots: Sequence[int]) -> None:
        assert isinstance(former, RoundRobin)
        self._next = former._next

    def choose(self, now_ns: int, key: int) -> int:
        usable = self.load.usable
        if not usable:
            return NONE
        for _ in usable:
            self._next = (self._next + 1) % len(usable)
            if self._parts is None or random() < self._parts[usable[self._next]]:
                break
        return usable[self._next]
