"""What the agent sees while it acts: sequences of observations to train a network on.

Lives here: runs of an agent with given parameters, recorded. Never here: labels, gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.act.network import fresh_parameters
from agent.act.policy import Policy
from agent.agent import Agent
from agent.settings import ACTIONS, AgentSettings, PolicySettings
from testbed.sim.compiled import dispatch
from testbed.sim.policies import Controller, MakeController, Rule
from testbed.sim.run import Run
from testbed.sim.scenario import Scenario
from testbed.sim.world import World

Float32 = NDArray[np.float32]


PIECES = 4
"""Of a sequence that are kept: short ones of many scenarios teach more than long ones of few."""


@dataclass(frozen=True)
class Sequence:
    """One balancer of one run: T steps while its backends stayed the same N.

    features (T, N, F), service (T, S); at_s (T,) since the start of the run.
    """

    features: Float32
    service: Float32
    at_s: NDArray[np.float64]

    def pieces(self, steps: int, rng: np.random.Generator) -> list[Sequence]:
        """The first `steps` steps, when memory is empty, and PIECES - 1 times as many from
        anywhere."""
        latest = max(len(self.features) - steps, 0)
        starts = [0, *rng.integers(latest + 1, size=PIECES - 1).tolist()]
        return [
            Sequence(
                self.features[start : start + steps].copy(),
                self.service[start : start + steps].copy(),
                self.at_s[start : start + steps].copy(),
            )
            for start in starts
        ]


class Recorder:
    """An agent in a simulated balancer that keeps what it saw."""

    def __init__(self, agent: Agent, period_s: float) -> None:
        self.agent = agent
        self.period_s = period_s
        self._steps: list[tuple[NDArray[np.uint64], Float32, Float32, float]] = []

    def step(self, world: World, balancer: int) -> None:
        decision = self.agent.step(world.snapshot(balancer))
        seen = decision.observation
        self._steps.append((decision.identity, seen.features, seen.service, world.now_s))
        if decision.publish:
            world.set_weights(balancer, decision.identity, decision.weights, decision.offset)

    def sequences(self, least: int) -> list[Sequence]:
        """Runs of steps with the same backends, of `least` steps or more."""
        found: list[Sequence] = []
        start = 0
        for at in range(1, len(self._steps) + 1):
            same = at < len(self._steps) and np.array_equal(
                self._steps[at][0], self._steps[start][0]
            )
            if same:
                continue
            part = self._steps[start:at]
            if len(part) >= least and part[0][0].size > 1:
                found.append(
                    Sequence(
                        np.stack([features for _, features, _, _ in part]),
                        np.stack([service for _, _, service, _ in part]),
                        np.array([at_s for _, _, _, at_s in part]),
                    )
                )
            start = at
        return found


def holding(offset_u: float, memory_u: float, busy_u: float) -> dict[str, Float32]:
    """Parameters of a network that always says the same, with g = 1."""
    parameters = fresh_parameters(0)
    parameters["decide2.weight"][:] = 0.0
    spread = parameters["decide2.bias"][len(ACTIONS) :]
    means = np.arctanh(np.clip([0.0, offset_u, memory_u, busy_u], -0.99, 0.99))
    parameters["decide2.bias"] = np.concatenate([means, spread]).astype(np.float32)
    return parameters


def record(
    scenario: Scenario,
    parameters: Mapping[str, Float32],
    seed: int,
    *,
    stochastic: bool = False,
    beside: MakeController | None = None,
    least: int = 80,
    period_s: float = 0.25,
) -> list[Sequence]:
    """Sequences of all balancers of one run; stochastic: with the policy's own exploration.

    beside: what all balancers but the first follow instead, unrecorded.
    """
    recorders: list[Recorder] = []

    def make(world: World, balancer: int, seed: int) -> Controller:
        if balancer and beside is not None:
            return beside(world, balancer, seed)
        settings = AgentSettings(mode="learn" if stochastic else "frozen", seed=seed)
        policy = Policy(PolicySettings(), parameters, seed + balancer)
        recorders.append(Recorder(Agent(settings, policy), period_s))
        return recorders[-1]

    run = Run(scenario, Rule("recorded", dispatch.SED, controller=make), seed)
    run.advance(scenario.duration_s)
    return [sequence for recorder in recorders for sequence in recorder.sequences(least)]
