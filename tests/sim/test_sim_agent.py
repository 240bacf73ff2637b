"""The live agent over the simulator: its snapshots are a reader's, on a clock of their own."""

from __future__ import annotations

import numpy as np
import pytest
from sim_worlds import given_flows, scenario

from agent.act.network import fresh_parameters
from agent.act.policy import Policy
from agent.agent import Agent
from agent.settings import AgentSettings, PolicySettings
from testbed.sim.compiled import dispatch
from testbed.sim.policies import AgentWeights, Rule
from testbed.sim.records import START_NS
from testbed.sim.run import Run
from testbed.sim.scenario import Arrivals, Event, Servers
from testbed.sim.world import World

pytestmark = pytest.mark.timeout(600)


def make_agent() -> Agent:
    settings = AgentSettings(mode="frozen", policy=PolicySettings())
    return Agent(settings, Policy(settings.policy, fresh_parameters(0)))


def test_a_snapshot_is_what_happened() -> None:
    """Three flows on one server: two answered, one on its way."""
    flows = given_flows([1.0, 2.0, 3.0], [[0.5], [0.25], [9.0]])
    world = World(scenario(Servers()), 0, flows)
    world.use(dispatch.SED)
    world.advance(4.0)
    seen = world.snapshot(0)
    assert seen.now_ns == START_NS + 4 * 10**9
    assert seen.flows.tolist() == seen.waiting.tolist() == [1]
    assert seen.waiting_age_ns.tolist() == [10**9]
    assert seen.totals["flows_total"].tolist() == [3]
    assert seen.totals["first_byte_total"].tolist() == [2]
    assert seen.totals["duration_ns_total"].tolist() == [75 * 10**7]
    assert seen.totals["backend_reset_total"].tolist() == [0]
    taken = seen.duration.t_ns > 0
    # A random slot of the reservoir each: the later may have fallen on the earlier.
    assert set(seen.duration.value_ns[taken].tolist()) <= {5 * 10**8, 25 * 10**7}
    assert set(seen.duration.t_ns[taken].tolist()) <= {
        START_NS + 15 * 10**8,
        START_NS + 225 * 10**7,
    }
    assert START_NS + 225 * 10**7 in seen.duration.t_ns
    gaps = seen.interarrival
    assert set(gaps.value_ns[gaps.t_ns > 0].tolist()) == {10**9}
    # A snapshot is its owner's: nothing that happens later changes it.
    world.advance(np.inf)
    assert seen.flows.tolist() == [1]
    assert (seen.duration.t_ns > 0).sum() == taken.sum()


def test_the_live_agent_steers_the_simulated_balancers() -> None:
    """Four servers at 1 and four at 4: what it reads there becomes weights that say so."""
    of = scenario(
        Servers(count=4, weight=1.0),
        Servers(count=4, speed=4.0, weight=1.0),
        balancers=2,
        arrivals=Arrivals(load=0.8),
        events=(Event(at_s=20.0, server=0, kind="remove"), Event(at_s=30.0, server=0, kind="add")),
        link_s=(1e-4, 1e-3),
    )
    made = Rule("agent", dispatch.SED, controller=lambda world, m, seed: AgentWeights(make_agent()))
    run = Run(of, made, 1)
    result = run.finish()
    agents = [controller.agent for controller in run.controllers.values()]
    assert [agent.counters.steps for agent in agents] == [240, 240]
    weight = run.world.state.weight
    assert np.isfinite(weight).all()
    assert (weight > 0).all()
    assert weight[:, 4:].mean() > 1.5 * weight[:, :4].mean()
    blind = Run(of, Rule("sed", dispatch.SED), 1).finish()
    assert result.mean_s < blind.mean_s


def test_a_late_action_of_the_agent_names_who_it_is_for() -> None:
    """Weights of a snapshot before a backend was replaced do not reach its successor."""
    of = scenario(
        Servers(count=3),
        events=(Event(at_s=1.0, server=2, kind="remove"), Event(at_s=2.0, server=2, kind="add")),
    )
    world = World(of, 1)
    world.use(dispatch.SED)
    world.advance(0.5)
    decision = make_agent().step(world.snapshot(0))
    world.advance(3.0)
    world.state.weight[:] = 1.0
    world.set_weights(0, decision.identity, np.array([2.0, 3.0, 4.0]))
    assert world.state.weight[0].tolist() == [2.0, 3.0, 1.0]
