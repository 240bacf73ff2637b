"""What every policy is: a choice, and the few things it is told.

Lives here: the interface and the shared argmin. Never here: a rule of its own (one file each), I/O,
clocks. Times come as arguments, randomness from `random`: tests and a simulator decide both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from functools import cache, lru_cache
from random import getrandbits
from typing import ClassVar, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lbd.dispatch.load import Load, Vector

_add = np.add
_multiply = np.multiply

NONE: Final = -1
"""No backend may be chosen."""


class Score(NamedTuple):
    """One backend in a comparison that the least wins: as it was in the last, and now."""

    last: float
    now: float


class Policy(ABC):
    """One service's rule. `choose` returns a slot, or NONE where no backend is usable."""

    name: ClassVar[str]
    uses_weight: ClassVar[bool] = False
    uses_key: ClassVar[bool] = False

    def __init__(self, load: Load) -> None:
        self.load = load

    @abstractmethod
    def choose(self, now_ns: int, key: int) -> int:
        """The backend of a new flow. `key` identifies its client where `uses_key` is set."""

    def choose_but(self, now_ns: int, key: int, barred: Collection[int]) -> int:
        """A choice among the usable that are not barred; for the rare case, not every flow."""
        load = self.load
        usable = load.usable
        load.usable = [slot for slot in usable if slot not in barred]
        self.refresh()
        slot = self.choose(now_ns, key)
        load.usable = usable
        self.refresh()
        return slot

    def scores(self) -> list[Score] | None:
        """By slot, what choices compare; None where this policy compares no scores, and before its
        first choice."""
        return None

    # The four below do nothing here because most policies do not learn from what they chose.

    def inherit(self, former: Policy, slots: Sequence[int]) -> None:  # noqa: B027
        """Go on where `former` was, the same rule with the same settings, before any choice.

        slots: of the backends that are the same still; nothing is known of any other.
        """

    def refresh(self) -> None:  # noqa: B027
        """`load.usable`, `load.weight`, `load.share` or what `load` counts has changed."""

    def sampled(self, slot: int, now_ns: int, duration_ns: int) -> None:  # noqa: B027
        """A flow on `slot` got its first server byte `duration_ns` after it was connected."""

    def failed(self, slot: int, now_ns: int, age_ns: int) -> None:  # noqa: B027
        """`slot` failed a flow that was `age_ns` old: never to be taken for a quick answer."""


# Ties are broken by an amount far below any real difference of scores: q + 1 is taken as q + a
# random number just above 1. Windows of one long row of such numbers are as good as fresh ones, and
# cost 0.1 us a choice instead of up to 5.
_TIE_BITS: Final = 12


@lru_cache(maxsize=8)
def tie_row(slots: int) -> Vector:
    """The long row of numbers just above 1, of which each choice takes a window of `slots`."""
    return 1.0 + 1e-9 * np.random.default_rng(0x5ED).random((1 << 16) + slots)


@cache
def tie_starts() -> NDArray[np.int64]:
    """Where the windows begin, 2^12 of them."""
    return np.random.default_rng(0x71E).integers(0, 1 << 16, 1 << _TIE_BITS)


def _windows(row: Vector, slots: int) -> list[Vector]:
    return [row[at : at + slots] for at in tie_starts()]


@lru_cache(maxsize=8)
def _tie_windows(slots: int) -> list[Vector]:
    return _windows(tie_row(slots), slots)


class LeastScore(Policy):
    """argmin over usable backends of (q + b) * cost, ties at random; b is 1, or `load.offset`.

    q is summed over the workers at each choice, straight from their live rows: nothing is kept up
    to date beside them. `cost` (slots,) is infinite for what may not be chosen.
    """

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.cost: Vector = np.full(load.slots, np.inf)
        self._score: Vector = np.zeros(load.slots)
        self._argmin = self._score.argmin
        self._ties = _tie_windows(load.slots)
        self._offset = 1.0
        self._row: Vector | None = None
        self._first = load.flows[0]
        self.refresh()

    def refresh(self) -> None:
        usable, share = self.load.usable, self.load.share
        self._rest = self.load.flows[1:]
        self._share: list[float] = share.tolist()
        self.cost.fill(np.inf)
        self.cost[usable] = self.costs()[usable] / share[usable]
        if self.load.offset != self._offset:
            self._rescale(self.load.offset)

    def _rescale(self, offset: float) -> None:
        """Windows of a row about b instead of 1: some 30 us a step of the agent, nothing a flow."""
        row = tie_row(self.load.slots)
        if self._row is None:
            self._row = row.copy()
            self._ties = _windows(self._row, self.load.slots)
        np.multiply(row, offset, out=self._row)
        self._offset = offset

    @abstractmethod
    def costs(self) -> Vector:
        """(slots,) expected delay a flow in progress, in any unit; positive and finite."""

    def scores(self) -> list[Score] | None:
        if not self._score.any():
            return None
        now = (self._first + sum(self._rest) + self._offset) * self.cost
        return [Score(*pair) for pair in zip(self._score.tolist(), now.tolist(), strict=True)]

    def choose(self, now_ns: int, key: int) -> int:
        if not self.load.usable:
            return NONE
        score = self._score
        _add(self._first, self._ties[getrandbits(_TIE_BITS)], score)
        for row in self._rest:
            _add(score, row, score)
        _multiply(score, self.cost, score)
        return int(self._argmin())
