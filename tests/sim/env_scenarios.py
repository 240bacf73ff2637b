"""Short scenarios for the tests of the environments."""

from __future__ import annotations

import numpy as np

from agent.settings import ACTIONS
from testbed.sim.env.game import DEFAULT
from testbed.sim.scenario import Event, Servers

SHORT = DEFAULT.model_copy(update={"name": "short", "duration_s": 3.0, "warmup_s": 0.5})
LONE = SHORT.model_copy(update={"name": "lone", "balancers": 1, "servers": (Servers(count=3),)})
COMING = SHORT.model_copy(
    update={
        "name": "coming",
        "servers": (Servers(count=4), Servers(spare=True)),
        "events": (
            Event(at_s=1.0, server=4, kind="add"),
            Event(at_s=1.0, server=1, kind="remove"),
        ),
    }
)


def action(*log_weights, rows=None):
    """(rows, A): these log-weights over their bound, all else neutral."""
    u = np.zeros((rows or len(log_weights), len(ACTIONS)), np.float32)
    u[: len(log_weights), 0] = log_weights
    return u


NEUTRAL = action(*[0.0] * 7)
