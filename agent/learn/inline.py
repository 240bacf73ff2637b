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
    """Updates `updates_per_step` times for each step pushed; hands out parameters after updates.

    Of several balancers each has a port with a replay of its own; given one `learner` they share
    its parameters ([MPG] Alg. 2 gives each its own).
    """

    def __init__(self, settings: LearnSettings, learner: Learner | None = None) -> None:
        self.replay = Replay(settings.replay_steps, settings.max_backends)
        self.learner = learner or Learner(settings, self.replay)
        self.losses: Losses | None = None
        self._owed = 0.0
        self._polled = self.learner.updates

    def push(self, step: Step) -> bool:
        if not self.replay.add(step):
            return False
        self._owed += self.learner.settings.updates_per_step
        due = int(self._owed)
        self._owed -= due
        self.losses = self.learner.update(due, self.replay) or self.losses
        return True

    def poll(self) -> dict[str, NDArray[np.float32]] | None:
        if self.learner.updates == self._polled:
            return None
        self._polled = self.learner.updates
        return self.learner.actor_arrays()
