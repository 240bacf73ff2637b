"""The learner's bookkeeping: what gradients reach, whether runs repeat, whether a resume is exact.

Lives here: the check as figures. Steps are random: arithmetic is looked at, not learning.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agent.learn.replay import Replay
from agent.learn.sac import Learner
from agent.learn.state import capture, restore
from agent.observe import FEATURE_COUNT, SERVICE_COUNT
from agent.settings import HIDDEN, LearnSettings
from agent.steps import Step

SETTINGS = LearnSettings(seed=1, train_steps=4, burn_in_steps=2, batch_chunks=4, min_steps=8)
UPDATES = 20
BACKENDS = 5


def run() -> dict[str, Any]:
    """Arrays of actor and critics moved by UPDATES updates, of how many; and two equalities."""
    start = capture(_learner()).arrays
    first, second = _learner(), _learner()
    first.update(UPDATES)
    second.update(UPDATES)
    ended = capture(first).arrays
    resumed = _learner()
    half = _learner()
    half.update(UPDATES // 2)
    restore(resumed, capture(half))
    resumed.update(UPDATES - UPDATES // 2)
    learned = [name for name in start if name.startswith(("actor.", "critic")) and _trained(name)]
    moved = [name for name in learned if (start[name] != ended[name]).any()]
    return {
        "arrays": len(learned),
        "reached": len(moved),
        "two_runs_equal": _equal(ended, capture(second).arrays),
        "resumed_equals_unstopped": _equal(ended, capture(resumed).arrays),
    }


def _trained(name: str) -> bool:
    """Not an optimiser's moment, which stands under its parameter's name."""
    return not name.endswith((".step", ".exp_avg", ".exp_avg_sq"))


def _equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def _learner() -> Learner:
    rng = np.random.default_rng(0)
    replay = Replay(64, BACKENDS)
    for number in range(40):
        replay.add(
            Step(
                number=number,
                identity=np.arange(1, BACKENDS + 1, dtype=np.uint64),
                features=rng.standard_normal((BACKENDS, FEATURE_COUNT), np.float32),
                service=rng.standard_normal(SERVICE_COUNT, np.float32),
                hidden=rng.standard_normal((BACKENDS, HIDDEN), np.float32),
                u=np.tanh(rng.standard_normal(BACKENDS, np.float32)),
                reward=rng.standard_normal(BACKENDS, np.float32),
            )
        )
    return Learner(SETTINGS, replay)
