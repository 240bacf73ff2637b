"""One episode: a run in which some balancers take their weights from outside, step by step.

Lives here: the order of a step, with the features, rewards and weights of the live agent.
Never here: spaces, seeds of a series of episodes, rendering.
Upstream: `testbed.sim.run`. Downstream: `single`, `parallel`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.act.weights import log_bound, log_factor, score
from agent.carry import carry
from agent.observe import Observation, observe
from agent.rewards import REWARDS
from agent.settings import ACTIONS, PolicySettings
from shm.snapshot import Ints, Words
from testbed.load.sizes import Law
from testbed.sim.env.coding import Coded, decode, encode
from testbed.sim.policies import Rule
from testbed.sim.run import Run
from testbed.sim.scenario import Application, Arrivals, Resource, Scenario, Servers, Size

Float32 = NDArray[np.float32]

STEP_S = 0.25

DEFAULT = Scenario(
    name="hidden speeds",
    balancers=2,
    servers=(
        Servers(count=2, speed=1.0, weight=1.0),
        Servers(count=2, speed=2.0, weight=1.0),
        Servers(count=3, speed=4.0, weight=1.0),
    ),
    applications=(Application(stages=((Resource.CPU, Size(mean_s=0.06, law=Law.EXPONENTIAL)),)),),
    arrivals=Arrivals(load=0.8),
)
"""Two balancers, seven servers whose speeds nobody configured, 80 % load, a minute."""


@dataclass(frozen=True)
class Options:
    """What an action means and what it earns.

    policy: how actions become weights, as in the live agent. Base 'none', the default here: the
    first column is the log-weight over its bound; 'latency': of a factor on 1 / latency.
    reward: a name of `agent.rewards.REWARDS`.
    """

    policy: PolicySettings = field(default_factory=lambda: PolicySettings(base="none"))
    reward: str = "VBF+logVBF"

    def __post_init__(self) -> None:
        if self.reward not in REWARDS:
            raise ValueError(f"unknown reward {self.reward!r}; known: {sorted(REWARDS)}")


class _Led:
    """What one led balancer saw last and did last."""

    def __init__(self) -> None:
        self.observation: Observation | None = None
        self.slots: Ints = np.zeros(0, np.int64)
        self.identity: Words = np.zeros(0, np.uint64)
        self.u: Float32 = np.zeros((0, len(ACTIONS)), np.float32)


class Game:
    """An episode of `scenario` under `seed`: the flows are those of every run of that seed.

    led: the balancers that `step` gives weights to; the others follow the rule. max_backends: rows
    of observations and actions, at least the scenario's servers.
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        rule: Rule,
        led: Collection[int],
        max_backends: int,
        options: Options,
    ) -> None:
        self.run = Run(scenario, rule, seed, led=led)
        self.led = tuple(led)
        self._max_backends = max_backends
        self._options = options
        self._reward = REWARDS[options.reward]
        self._sides = {balancer: _Led() for balancer in led}
        self._steps = 0
        self._look()

    @property
    def now_s(self) -> float:
        return self.run.world.now_s

    @property
    def over(self) -> bool:
        return self.now_s >= self.run.world.scenario.duration_s

    def step(self, actions: Mapping[int, NDArray[Any]]) -> None:
        """Put the actions (max_backends, A) of led balancers in force, and let a step pass.

        A balancer without an action keeps its weights. Raises ActionError.
        """
        policy = self._options.policy
        for balancer, action in actions.items():
            side = self._sides[balancer]
            u = decode(action, side.slots, self._max_backends)
            if not u.size:
                continue
            assert side.observation is not None
            side.u = u
            found = score(u, side.observation.latency_s, side.observation.busy, policy)
            self.run.world.set_weights(balancer, side.identity, found.weights, found.offset)
        self._steps += 1
        # From the number of steps: sums of steps would drift off the scenario's end.
        self.run.advance(min(self._steps * STEP_S, self.run.world.scenario.duration_s))
        self._look()

    def observation(self, balancer: int) -> Coded:
        """What the balancer saw at the end of the last step; see `coding.observation_space`."""
        side = self._sides[balancer]
        assert side.observation is not None
        return encode(side.observation, side.slots, self._max_backends)

    def reward(self, balancer: int) -> float:
        """Fairness of the durations that the balancer saw last; its maximum where it saw none."""
        side = self._sides[balancer]
        assert side.observation is not None
        return self._reward(side.observation.duration_s)

    def figures(self) -> dict[str, float]:
        """What the clients of the whole episode saw; ends it.

        mean_s, p99_s: completion times of all flows after the warm-up; failed: share not served.
        """
        result = self.run.finish()
        if not len(result.fct_s):
            return {"mean_s": 0.0, "p99_s": 0.0, "failed": 0.0}
        served = result.counts()["finished"]
        return {
            "mean_s": result.mean_s,
            "p99_s": result.quantile_s(0.99),
            "failed": 1.0 - served / len(result.fct_s),
        }

    def _look(self) -> None:
        policy = self._options.policy
        for balancer, side in self._sides.items():
            snapshot = self.run.world.snapshot(balancer)
            identity = snapshot.identity
            missing = np.zeros((identity.size, len(ACTIONS)), np.float32)
            side.u = carry(identity, side.identity, side.u, missing)
            last = side.u.copy()
            if last.size:
                last[:, 0] = log_factor(last[:, 0], policy) / log_bound(policy)
            side.observation = observe(snapshot, side.observation, last)
            side.slots, side.identity = snapshot.slots, identity
