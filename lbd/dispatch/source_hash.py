"""Consistent hashing with bounded loads (Mirrokni et al., SODA'18): the same client, the same
backend, as long as that has no more than its share of the flows, times `bound`.

Lives here: the rule. Never here: the table that it walks (`maglev`).
A client whose backend is full walks on through the table by a stride of its own, so that what one
backend cannot take is spread over all others, and comes back to it when there is room again.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from lbd.dispatch.load import Load
from lbd.dispatch.maglev import TABLE_SIZE, Maglev
from lbd.dispatch.policy import NONE

BOUND: Final = 1.25
STEPS_A_BACKEND: Final = 8
"""So many steps find one of n backends with room in all but 1 of 3,000 cases, if there is but one
and weights are equal; then the one with most room is taken."""


class SourceHash(Maglev):
    """bound: more than 1. Weights as configured.

    A share is of the bound, not of the table: who starts slowly has all of its clients, and passes
    on what is more than its part of the flows.
    """

    name = "source_hash"

    def __init__(self, load: Load, bound: float = BOUND) -> None:
        self._bound = bound
        super().__init__(load)

    def refresh(self) -> None:
        super().refresh()
        usable = self.load.usable
        part = self.load.weight[usable] * self.load.share[usable]
        self._part = np.zeros(self.load.slots)
        self._part[usable] = part / part.sum()

    def choose(self, now_ns: int, key: int) -> int:
        usable = self.load.usable
        if not usable:
            return NONE
        q = np.sum(self.load.flows, axis=0)
        # With this flow among them, so that one backend at least has room for it.
        room = np.ceil(self._bound * (q[usable].sum() + 1.0) * self._part) - q
        table = self._table
        at = key % TABLE_SIZE
        if room[table[at]] >= 1.0:
            return table[at]
        stride = 1 + key // TABLE_SIZE % (TABLE_SIZE - 1)
        for _ in range(STEPS_A_BACKEND * len(usable)):
            at = (at + stride) % TABLE_SIZE
            if room[table[at]] >= 1.0:
                return table[at]
        return usable[int(room[usable].argmax())]
