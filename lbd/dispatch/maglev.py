"""Maglev hashing (Eisenbud et al., NSDI'16) with weights: the same client, the same backend.

Each backend fills the lookup table along a permutation of its own, taking turns in proportion to
its weight. A change of one backend moves about 1/N of the table. The permutation comes from the
backend's name, so that every worker builds the same table, and so does every other balancer,
whatever the order in which it came to know the backends.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b
from heapq import heapify, heapreplace
from typing import Final

from lbd.dispatch.load import Load
from lbd.dispatch.policy import NONE, Policy

TABLE_SIZE: Final = 65537  # prime, 100 times the number of backends or more


class Maglev(Policy):
    """Weights as configured: this table is not for weights that change 4 times a second.

    Nor for shares, which change as often: who starts slowly would move clients twice.
    """

    name = "maglev"
    uses_key = True

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._built: tuple[list[int], list[float], list[str]] | None = None
        self.refresh()

    def refresh(self) -> None:
        load = self.load
        slots = list(load.usable)
        names = [load.names.get(slot, str(slot)) for slot in slots]
        of = (slots, [float(load.weight[slot]) for slot in slots], names)
        if of != self._built:
            self._table, self._built = build(*of), of

    def choose(self, now_ns: int, key: int) -> int:
        return self._table[key % TABLE_SIZE] if self._table else NONE

    def choose_but(self, now_ns: int, key: int, barred: Collection[int]) -> int:
        """The next in the table, so that what one backend cannot take is spread over all others."""
        if all(slot in barred for slot in self.load.usable):
            return NONE
        at = key % TABLE_SIZE
        while self._table[at] in barred:
            at = (at + 1) % TABLE_SIZE
        return self._table[at]


def build(
    slots: list[int], weights: list[float], names: list[str], size: int = TABLE_SIZE
) -> list[int]:
    """The lookup table, `size` slots; empty where there is no backend. `size` must be prime.

    names: of the backends, one a slot, unique. In whatever order they come, the table is the same.
    """
    if not slots:
        return []
    table = [NONE] * size
    # In the order of names: whose turn is first decides who gets a contested entry.
    of = sorted(zip(names, slots, weights, strict=True))
    slots = [slot for _, slot, _ in of]
    # A backend's walk over the table: offset + i * skip, a permutation because size is prime.
    digests = [blake2b(name.encode(), digest_size=16).digest() for name, _, _ in of]
    place = [int.from_bytes(digest[:8]) % size for digest in digests]
    skip = [int.from_bytes(digest[8:]) % (size - 1) + 1 for digest in digests]
    # The k-th turn of a backend is due at k / weight: a heap finds the next in any ratio of weights
    # without rounds in which it is nobody's turn.
    gap = [1.0 / weight for _, _, weight in of]
    due = [(gap[index], index) for index in range(len(slots))]
    heapify(due)
    for _ in range(size):
        when, index = due[0]
        heapreplace(due, (when + gap[index], index))
        at, step = place[index], skip[index]
        while table[at] != NONE:
            at = (at + step) % size
        table[at] = slots[index]
        place[index] = at
    return table
