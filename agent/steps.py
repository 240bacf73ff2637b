"""One step of experience, as the acting side hands it to the learner.

Lives here: the record. Never here: torch, transport (`agent.learn.wire`), storage (`replay`).
Upstream: `agent.agent`. Downstream: `agent.learn.process`, `agent.learn.replay`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Step:
    """What was seen and done at step `number`; consecutive numbers make a sequence.

    identity (N,) u64, features (N, F), service (S,), hidden (N, H) before the step, u (N, A) the
    squashed action; reward (N,): of the action of the step before, shared out over the backends by
    `agent.rewards.shares`, as computed then, never rescaled.
    """

    number: int
    identity: NDArray[np.uint64]
    features: Float32
    service: Float32
    hidden: Float32
    u: Float32
    reward: Float32

    def sorted(self) -> Step:
        """The same step with backends in the order of identity: the learner's canonical order."""
        order = np.argsort(self.identity)
        return Step(
            self.number,
            self.identity[order],
            self.features[order],
            self.service,
            self.hidden[order],
            self.u[order],
            self.reward[order],
        )
