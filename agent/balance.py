"""Where the weights should have put the flows, beside where they are.

Lives here: what dispatch by (q_j + b) / a_j comes to in the mean, and how far what is seen lies
from it. Pure; time is what the caller says has passed. Never here: what follows from it.
Upstream: `agent.agent`, which knows the weights in force and the flows. Downstream: metrics, log.

Seen and predicted part where something else than the weights decides: long flows from before the
weights changed, a backend at its limit, stickiness, a slow start, or a worker that does not follow.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.carry import carry
from shm.snapshot import Ints, Words

Float64 = NDArray[np.float64]

MEMORY_S: Final = 10.0
"""Single moments say little: queues are whole numbers."""
LEAST_FLOWS: Final = 0.5
"""A backend, in the mean: with fewer the next flow's place is all there is to predict."""
MISPLACED_MOST: Final = 0.25
"""Of 26 scenarios in the simulator none comes above 0.19 where dispatch follows the weights, and
few below 0.25 where it follows their inverse."""


def predicted(weights: Float64, offset: float, flows: float) -> Float64:
    """Flows (N,), `flows` in all, for which (q_j + b) / a_j is the same wherever there are some:
    what shortest expected delay tends to."""
    order = np.argsort(-weights)
    sorted_weights = weights[order]
    # With the k largest weights in use the common delay is theta_k; the last k that needs no
    # negative queue is right.
    theta = (flows + offset * np.arange(1, weights.size + 1)) / np.cumsum(sorted_weights)
    used = int(np.count_nonzero(theta * sorted_weights >= offset))
    found: Float64 = np.maximum(theta[max(used, 1) - 1] * weights - offset, 0.0)
    return found


class Balance:
    """One service's, while weights are in force.

    misplaced: the share of flows that are elsewhere than predicted, in [0, 1], over MEMORY_S; None
    where flows are too few to tell.
    """

    def __init__(self) -> None:
        self.misplaced: float | None = None
        self._identity: Words = np.zeros(0, np.uint64)
        self._weights: Float64 = np.zeros(0)
        self._offset = 1.0
        self._seen: Float64 = np.zeros(0)
        self._predicted: Float64 = np.zeros(0)

    def expect(self, identity: Words, weights: Float64, offset: float) -> None:
        """These weights (N,) and this offset are in force from now on."""
        nothing = np.zeros(identity.size)
        self._seen = carry(identity, self._identity, self._seen, nothing)
        self._predicted = carry(identity, self._identity, self._predicted, nothing)
        self._identity, self._weights, self._offset = identity, weights, offset

    def see(self, identity: Words, flows: Ints, step_s: float) -> None:
        """Flows in progress (N,), `step_s` seconds after the last call."""
        if not np.array_equal(identity, self._identity) or not identity.size:
            return
        new = 1.0 - math.exp(-step_s / MEMORY_S)
        told = predicted(self._weights, self._offset, float(flows.sum()))
        self._seen += new * (flows - self._seen)
        self._predicted += new * (told - self._predicted)
        total = float(self._seen.sum())
        self.misplaced = None
        if total >= LEAST_FLOWS * identity.size:
            self.misplaced = 0.5 * float(np.abs(self._seen - self._predicted).sum()) / total
