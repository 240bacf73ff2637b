"""The edges of the simulator's model that its documentation states."""

from __future__ import annotations

import numpy as np
import pytest
from sim_worlds import given_flows, scenario

from testbed.sim.policies import rule
from testbed.sim.records import FINISHED, REJECTED
from testbed.sim.run import simulate
from testbed.sim.scenario import Servers

pytestmark = pytest.mark.timeout(600)


def test_a_full_server_refuses_a_flow_whose_first_work_is_io() -> None:
    of = scenario(Servers(in_service=1, backlog=0))
    flows = given_flows([0.0, 0.5, 6.0], [[5.0], [0.0, 1.0], [0.0, 1.0]])
    found = simulate(of, rule("rr"), 0, flows)
    assert found.outcome.tolist() == [FINISHED, REJECTED, FINISHED]
    np.testing.assert_allclose(found.fct_s, [5.0, of.timeout_s, 1.0])


def test_a_flow_that_returns_from_io_waits_beyond_the_backlog() -> None:
    """It comes back at 2 s; the CPU is another's from 1.5 to 6.5 s, and nobody may wait there."""
    of = scenario(Servers(in_service=1, backlog=0))
    flows = given_flows([0.0, 1.5, 3.0], [[1.0, 1.0, 1.0], [5.0], [1.0]])
    found = simulate(of, rule("rr"), 0, flows)
    assert found.outcome.tolist() == [FINISHED, FINISHED, REJECTED]
    np.testing.assert_allclose(found.fct_s, [7.5, 5.0, of.timeout_s])


def test_a_flow_that_is_served_late_counts_with_its_own_time() -> None:
    of = scenario(Servers(in_service=1, backlog=9), timeout_s=1.0)
    found = simulate(of, rule("rr"), 0, given_flows([0.0] * 3, [[30.0]] * 3))
    np.testing.assert_allclose(found.fct_s, [30.0, 60.0, 90.0])
    assert found.counts()["finished"] == 3
