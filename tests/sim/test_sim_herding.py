"""Rules that look at queues spread flows: nothing is lost where there is plenty of room."""

from __future__ import annotations

import pytest
from sim_worlds import scenario

from lbd.dispatch import POLICIES
from testbed.sim.policies import REFERENCE, rule
from testbed.sim.run import simulate
from testbed.sim.scenario import Arrivals, Scenario, Servers

pytestmark = pytest.mark.timeout(600)

BLIND = {"rr", "wrr", "ecmp", "wcmp", "maglev"}
"""They cannot know; a rule that is added must know, or be named here."""
CASES = {
    "few": (Servers(count=4),),
    "many": (Servers(count=30),),
    "of many CPUs": (Servers(count=20, cpus=16),),
    "unlike": (Servers(count=8, weight=1.0), Servers(count=8, speed=4.0, weight=4.0)),
}
AT_MOST = {"unlike": ("wcmp-true", 1.0)}
"""Of the mean of another rule. Who knows no speeds may be as bad as a choice at random by them."""


def case(name: str, balancers: int) -> Scenario:
    return scenario(
        *CASES[name],
        balancers=balancers,
        arrivals=Arrivals(load=0.6),
        duration_s=300.0,
        warmup_s=50.0,
    )


@pytest.mark.parametrize("name", sorted(set(POLICIES) - BLIND))
@pytest.mark.parametrize("balancers", [1, 3])
@pytest.mark.parametrize("servers", list(CASES))
def test_no_live_queue_aware_rule_loses_flows_at_load_06(
    name: str, balancers: int, servers: str
) -> None:
    of = case(servers, balancers)
    found = simulate(of, rule(name), 1)
    assert found.counts()["finished"] == len(found.at_s) > 500
    other, factor = AT_MOST.get(servers, (REFERENCE, 2.0))
    assert found.mean_s < factor * simulate(of, rule(other), 1).mean_s
