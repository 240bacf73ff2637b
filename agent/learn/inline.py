"""A learner in the caller's own process: for simulators and tests, where time may wait for it.

Lives here: the LearnerPort over `Learner`. Never here: processes, files; never in the live agent.
Upstream: `agent.agent` (steps). Downstream: `agent.learn.sac`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.learn.replay import Replay
from agent.learn.sac import Learner, Losses
from agent.settings import LearnSettings
from agent.steps import Step


class InlineLearner:
    """Updates `updates_per_step` times for each step pushed; hands out parameters after each."""

    def __init__(self, settings: LearnSettings) -> None:
        self.learner = Learner(settings, Replay(settings.replay_steps, settings.max_backends))
        self.losses: Losses | None = None
        self._owed = 0.0
        self._fresh = False

    def push(self, step: Step) -> bool:
        if not self.learner.replay.add(step):
            return False
        self._owed += self.learner.settings.updates_per_step
        due = int(self._owed)
        self._owed -= due
        losses = self.learner.update(due)
        self._fresh = losses is not None
        self.losses = losses or self.losses
        return True

    def poll(self) -> dict[str, NDArray[np.float32]] | None:
        if not self._fresh:
            return None
        self._fresh = False
        return self.learner.actor_arrays()
