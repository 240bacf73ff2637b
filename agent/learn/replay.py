"""Sequence replay: a bounded ring of steps, and chunks drawn from it.

Lives here: storage in preallocated numpy arrays, which chunks are whole, padding to a common N.
Never here: torch, losses, rescaling; a reward stays what it was when stored.
Upstream: `agent.learn.process` or a test (`agent.steps.Step`). Downstream: `agent.learn.sac`.

A chunk never spans a gap in step numbers or a change of the set of backends: rows then mean the
same backends from end to end, and the stored hidden state belongs to them. What such a cut costs
is a chunk's length of steps after each change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.observe import FEATURE_COUNT, SERVICE_COUNT
from agent.settings import ACTIONS, HIDDEN
from agent.steps import Step

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """B chunks of T actions and T + 1 observations, time first, backends padded to N.

    features (T+1, B, N, F), service (T+1, B, S), mask (B, N), hidden (B, N, H) of the actor before
    the first step, u (T, B, N, A), reward (T, B, N): reward[t] is what followed
    u[t], shared out over the backends.
    """

    features: Float32
    service: Float32
    mask: Float32
    hidden: Float32
    u: Float32
    reward: Float32


class Replay:
    """The newest `capacity` steps. Counters: stored, overwritten, refused (too many backends)."""

    def __init__(self, capacity: int, max_backends: int) -> None:
        # np.zeros maps pages lazily: backends that never come cost address space, not memory.
        self._features = np.zeros((capacity, max_backends, FEATURE_COUNT), np.float32)
        self._service = np.zeros((capacity, SERVICE_COUNT), np.float32)
        self._hidden = np.zeros((capacity, max_backends, HIDDEN), np.float32)
        self._u = np.zeros((capacity, max_backends, len(ACTIONS)), np.float32)
        self._reward = np.zeros((capacity, max_backends), np.float32)
        self._count = np.zeros(capacity, np.int64)
        self._run = np.zeros(capacity, np.int64)  # steps of the same sequence that end here
        self._capacity = capacity
        self._max_backends = max_backends
        self._last: Step | None = None
        self.stored = 0
        self.refused = 0

    def __len__(self) -> int:
        return min(self.stored, self._capacity)

    @property
    def overwritten(self) -> int:
        return max(self.stored - self._capacity, 0)

    def add(self, step: Step) -> bool:
        """Store a step whose rows are in the order of identity; False if it was refused."""
        count = step.identity.size
        if count < 1 or count > self._max_backends:
            self.refused += 1
            return False
        at = self.stored % self._capacity
        follows = (
            self._last is not None
            and step.number == self._last.number + 1
            and np.array_equal(step.identity, self._last.identity)
        )
        before = int(self._run[(at - 1) % self._capacity]) if follows else 0
        self._run[at] = before + 1
        self._features[at, :count] = step.features
        self._features[at, count:] = 0.0
        self._service[at] = step.service
        self._hidden[at, :count] = step.hidden
        self._hidden[at, count:] = 0.0
        self._u[at, :count] = step.u
        self._u[at, count:] = 0.0
        self._reward[at, :count] = step.reward
        self._reward[at, count:] = 0.0
        self._count[at] = count
        self._last = step
        self.stored += 1
        return True

    def ends(self, actions: int) -> NDArray[np.int64]:
        """Positions where a whole chunk of `actions` actions (one observation more) ends."""
        held = len(self)
        # Age 0 is the newest. The chunk's first step must not have been overwritten yet.
        age = (self.stored - 1 - np.arange(held)) % self._capacity
        whole = (self._run[:held] > actions) & (age + actions < held)
        return np.flatnonzero(whole)

    def sample(self, chunks: int, actions: int, rng: np.random.Generator) -> Batch | None:
        """`chunks` chunks drawn uniformly with replacement; None while there is no whole one."""
        ends = self.ends(actions)
        if ends.size == 0:
            return None
        end = ends[rng.integers(ends.size, size=chunks)]
        at = (end[None, :] - np.arange(actions, -1, -1)[:, None]) % self._capacity  # (T+1, B)
        count = self._count[end]
        n = int(count.max())
        return Batch(
            features=self._features[at, :n],
            service=self._service[at],
            mask=(np.arange(n)[None, :] < count[:, None]).astype(np.float32),
            hidden=self._hidden[at[0], :n],
            u=self._u[at[:-1], :n],
            reward=self._reward[at[1:], :n],
        )
