"""Attacks on the signal: what a backend that lies, or a client that floods, can gain.

In the simulator, with the real agent; a backend that resets at once is in tests/lbd, on sockets.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.act.network import Parameters
from agent.act.policy import Policy
from agent.agent import Agent
from agent.learn import checkpoint
from agent.policies import SHIPPED
from agent.settings import AgentSettings, PolicySettings
from shm.snapshot import Samples, Snapshot
from testbed.sim.compiled import dispatch
from testbed.sim.policies import Rule
from testbed.sim.run import Run
from testbed.sim.scenario import Application, Arrivals, Event, Scenario, Servers, Size
from testbed.sim.world import World
from testbed.train.rollouts import holding

LIAR = 0
SERVERS = 6


class Deceived:
    """The agent, shown durations of the LIAR that are `factor` times the truth."""

    period_s = 0.25

    def __init__(self, factor: float, parameters: Parameters) -> None:
        self.factor = factor
        policy = Policy(PolicySettings(), parameters)
        self.agent = Agent(AgentSettings(mode="frozen"), policy)

    def step(self, world: World, balancer: int) -> None:
        decision = self.agent.step(self.bend(world.snapshot(balancer)))
        world.set_weights(balancer, decision.identity, decision.weights, decision.offset)

    def bend(self, shown: Snapshot) -> Snapshot:
        lie = np.where(np.arange(len(shown.slots)) == LIAR, self.factor, 1.0)
        bent = (shown.duration.value_ns * lie[:, None]).astype(np.uint64)
        total = (shown.totals["duration_ns_total"] * lie).astype(np.int64)
        return replace(
            shown,
            totals={**shown.totals, "duration_ns_total": total},
            duration=Samples(shown.duration.t_ns, bent),
        )


SHIPPED_PARAMETERS = checkpoint.actor_of(checkpoint.load(SHIPPED), str(SHIPPED))
POLICIES = pytest.mark.parametrize(
    "parameters", [SHIPPED_PARAMETERS, holding(0.0, 0.0, 0.0)], ids=["shipped", "constant"]
)


def shares(factor: float, parameters: Parameters) -> np.ndarray:
    """(SERVERS,) shares of the flows, all servers alike."""
    scenario = Scenario(
        name="attack",
        balancers=1,
        servers=(Servers(count=SERVERS, backlog=1024),),
        applications=(Application(stages=(("cpu", Size(mean_s=0.02)),)),),
        arrivals=Arrivals(load=0.7),
        duration_s=90.0,
        warmup_s=45.0,
    )
    rule = Rule("deceived", dispatch.SED, controller=lambda *_: Deceived(factor, parameters))
    result = Run(scenario, rule, seed=3).finish()
    return np.bincount(result.server, minlength=SERVERS) / len(result.server)


@POLICIES
def test_a_backend_that_answers_early_gains_little_by_it(parameters):
    honest, lying = shares(1.0, parameters), shares(0.02, parameters)
    assert abs(honest[LIAR] - 1 / SERVERS) < 0.05
    # Fifty times as quick by its own account; by Little's law its flows stay as long as ever.
    assert lying[LIAR] < 2.0 / SERVERS


@POLICIES
def test_a_flooded_backend_gets_less(parameters):
    """As much as clients who go around the balancer take of a server, it is slower: the others
    take over. The flood itself is not simulated."""
    scenario = Scenario(
        name="flood",
        balancers=1,
        servers=(Servers(count=SERVERS, backlog=1024),),
        applications=(Application(stages=(("cpu", Size(mean_s=0.02)),)),),
        arrivals=Arrivals(load=0.7),
        events=(Event(at_s=40.0, server=LIAR, kind="speed", factor=0.25),),
        duration_s=90.0,
        warmup_s=45.0,
    )
    rule = Rule("flooded", dispatch.SED, controller=lambda *_: Deceived(1.0, parameters))
    result = Run(scenario, rule, seed=3).finish()
    flooded = float(np.mean(result.server == LIAR))
    assert flooded < 0.6 / SERVERS
    assert result.mean_s < 0.2
