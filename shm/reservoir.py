"""Reservoir sampling: a fixed number of (t, value) slots that remember a stream.

Both of the papers' variants. Without rejection (Markov potential game paper, Algorithm 3) every
sample overwrites a random slot, so that a slot's age is exponential in the number of samples. With
probability p (RLB-QMIX paper, Algorithm 2) only that share of the samples does, which remembers
1/p times as long.

Lives here: one writer's side, and the reader's copy. The protocol a sample: t = 0, value, t. A
reader copies twice and keeps what both copies show alike with t > 0. Stores become visible in
order, so a slot whose t stood still from the first copy to the second also kept its value; one
that changed between them is left out, and so is one whose writer died half-way.
"""

from __future__ import annotations

from collections.abc import Callable
from random import random

import numpy as np
from numpy.typing import NDArray

from shm.layout import SAMPLE_WORDS


class ReservoirWriter:
    """Writes samples of many reservoirs of `size` slots; one `base` word offset each."""

    def __init__(self, words: memoryview, size: int, probability: float | None = None) -> None:
        self._words = words
        self._size = size
        self._probability = probability
        self.sample: Callable[[int, int, int], None] = (
            self._always if probability is None else self._sometimes
        )

    def _always(self, base: int, now_ns: int, value_ns: int) -> None:
        words = self._words
        at = base + SAMPLE_WORDS * int(random() * self._size)
        words[at] = 0
        words[at + 1] = value_ns
        words[at] = now_ns

    def _sometimes(self, base: int, now_ns: int, value_ns: int) -> None:
        if random() < (self._probability or 0.0):
            self._always(base, now_ns, value_ns)


def read_samples(live: NDArray[np.uint64], rows: NDArray[np.int64] | slice) -> NDArray[np.uint64]:
    """Copies of the reservoirs `rows` of `live` (R, K, 2); a slot in flux comes back empty."""
    first = live[rows].copy() if isinstance(rows, slice) else live[rows]
    second = live[rows]
    stable = first == second
    if not stable.all():
        first[~stable.all(axis=-1)] = 0
    return first
