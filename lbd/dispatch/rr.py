"""Round robin: every usable backend in turn."""

from __future__ import annotations

from random import randrange

from lbd.dispatch.load import Load
from lbd.dispatch.policy import NONE, Policy


class RoundRobin(Policy):
    """Starts anywhere, so that several workers do not walk in step."""

    name = "rr"

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._next = randrange(max(1, len(load.usable)))

    def choose(self, now_ns: int, key: int) -> int:
        usable = self.load.usable
        if not usable:
            return NONE
        self._next = (self._next + 1) % len(usable)
        return usable[self._next]
