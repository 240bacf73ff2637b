"""Many episodes side by side, in this process and in others."""

from __future__ import annotations

import numpy as np
import pytest

from testbed.sim import policies
from testbed.sim.env.vector import vector
from testbed.sim.run import simulate
from tests.sim.env_scenarios import LONE, SHORT


def mean_s(processes: bool) -> np.ndarray:
    """(4,) of the rows' first episodes, all by equal weights."""
    rows = vector((SHORT, LONE), copies=2, processes=processes, others="lsq")
    try:
        observation, info = rows.reset(seed=[1, 2, 1, 2])
        assert info["scenario"].tolist() == ["short", "short", "lone", "lone"]
        assert observation["mask"].sum(axis=1).tolist() == [7, 7, 3, 3]
        over = np.zeros(4, bool)
        while not over.any():
            *_, over, info = rows.step(np.zeros(rows.action_space.shape, np.float32))
        assert over.all()
        # The step after an episode's end begins the next.
        *_, after = rows.step(np.zeros(rows.action_space.shape, np.float32))
        assert (after["now_s"] == 0.0).all()
        return info["mean_s"]
    finally:
        rows.close()


@pytest.mark.parametrize("processes", [False, True])
def test_rows_are_scenarios_times_copies(processes):
    expected = [
        simulate(scenario, policies.rule("lsq"), seed).mean_s
        for scenario in (SHORT, LONE)
        for seed in (1, 2)
    ]
    assert mean_s(processes).tolist() == expected
