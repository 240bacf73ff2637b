"""What a policy may look at when it chooses: the load of every backend, as plain vectors.

Lives here: the vectors. Never here: where they come from (shared memory live, plain arrays in tests
and in a simulator) or how a policy weighs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


class Rows(Protocol):
    """Of who else gives flows to the same backends; by slot, `slots` long or longer."""

    q: Vector
    waiting: NDArray[np.int64]
    waiting_start_ns: NDArray[np.int64]


class Load:
    """The backends of one service. All vectors are indexed by slot, `slots` long.

    flows: q, one vector a worker, and one more for what `count_also` was given; their sum counts.
    waiting, waiting_start_ns: of the flows that wait for their first server byte, likewise. usable:
    slots that may be chosen, ascending. weight: positive; of the slots not usable it is
    meaningless. share: positive, the part of its fair share of flows that a backend gets, 1 unless
    it starts slowly or asked for less. offset: positive, what rules by weight add to q: 1, the flow
    to come, unless an agent knows better. names: what tells a backend from others wherever it is
    balanced, by slot; the slot itself where there is none.
    """

    def __init__(
        self,
        flows: Sequence[Vector],
        waiting: Sequence[NDArray[np.int64]],
        waiting_start_ns: Sequence[NDArray[np.int64]],
        usable: Sequence[int],
        weight: Vector,
    ) -> None:
        self.slots = len(weight)
        self.flows = list(flows)
        self.waiting = list(waiting)
        self.waiting_start_ns = list(waiting_start_ns)
        self.usable = list(usable)
        self.weight = np.asarray(weight, dtype=np.float64)
        self.share: Vector = np.ones(self.slots)
        self.offset = 1.0
        self.names: dict[int, str] = {}
        self._own = len(self.flows)

    @classmethod
    def of(cls, flows: Sequence[float], weight: Sequence[float] | None = None) -> Load:
        """A stand-alone load of one worker, all backends usable and nothing waiting."""
        count = len(flows)
        none = np.zeros(count, dtype=np.int64)
        return cls(
            [np.asarray(flows, dtype=np.float64)],
            [none],
            [none.copy()],
            range(count),
            np.asarray(weight if weight is not None else [1.0] * count, dtype=np.float64),
        )

    def count_also(self, others: Rows | None) -> None:
        """From now on with the flows of other balancers, too, or with nobody's but its own."""
        del self.flows[self._own :], self.waiting[self._own :], self.waiting_start_ns[self._own :]
        if others is not None:
            self.flows.append(others.q[: self.slots])
            self.waiting.append(others.waiting[: self.slots])
            self.waiting_start_ns.append(others.waiting_start_ns[: self.slots])

    @property
    def whole(self) -> bool:
        """Whether every usable backend gets its full share."""
        return bool((self.share[self.usable] == 1.0).all())

    def q(self, slot: int) -> float:
        """Flows in progress on one backend, over all that is counted."""
        return float(sum(row[slot] for row in self.flows))

    def waiting_age_ns(self, now_ns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(slots,) flows that wait for a first server byte, and the sum of their ages."""
        waiting = np.sum(self.waiting, axis=0)
        start_ns = np.sum(self.waiting_start_ns, axis=0)
        return waiting, np.maximum(waiting * now_ns - start_ns, 0)
