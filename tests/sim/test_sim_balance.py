"""Where the weights put flows, in the simulator: as predicted where dispatch follows them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sim_worlds import scenario

from agent.act.policy import Policy
from agent.agent import Agent
from agent.balance import MISPLACED_MOST
from agent.settings import AgentSettings, PolicySettings
from testbed.sim.compiled import dispatch
from testbed.sim.policies import AgentWeights, Rule
from testbed.sim.run import Run
from testbed.sim.scenario import Arrivals, Servers
from testbed.sim.world import World
from testbed.train.rollouts import holding


class Looks(AgentWeights):
    """Puts weights in force as they are, or their inverse; and keeps how much was misplaced."""

    def __init__(self, agent: Agent, power: float) -> None:
        super().__init__(agent)
        self.power = power
        self.seen: list[float] = []

    def step(self, world: World, balancer: int) -> None:
        found = self.agent.step(world.snapshot(balancer))
        found = replace(found, weights=found.weights**self.power)
        world.set_weights(balancer, found.identity, found.weights, found.offset)
        if found.misplaced is not None:
            self.seen.append(found.misplaced)


@pytest.mark.parametrize("power", [1.0, -1.0])
def test_flows_are_misplaced_only_where_dispatch_does_otherwise(power: float) -> None:
    made: list[Looks] = []

    def make(world: World, balancer: int, seed: int) -> Looks:
        policy = Policy(PolicySettings(), holding(-0.2, 0.4, -0.1))
        made.append(Looks(Agent(AgentSettings(mode="frozen"), policy), power))
        return made[-1]

    of = scenario(Servers(count=3), Servers(count=3, speed=4.0), arrivals=Arrivals(load=0.85))
    Run(of, Rule("looks", dispatch.SED, controller=make), 0).finish()
    late = [one for looks in made for one in looks.seen[len(looks.seen) // 2 :]]
    assert len(late) > 20
    if power > 0.0:
        assert max(late) < MISPLACED_MOST
    else:
        assert min(late) > MISPLACED_MOST
