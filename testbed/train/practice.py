"""Balancers that learn while they work: one episode of soft actor-critic in the simulator.

Lives here: the controller that learns, the fleet of balancers, an episode. Never here: which
scenario comes next, checkpoints, validation (`testbed.train.refine`).
Source: [MPG] Alg. 2, with one set of parameters for all balancers instead of one each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent.act.policy import Policy
from agent.agent import Agent, Decision
from agent.learn.inline import InlineLearner
from agent.learn.replay import Replay
from agent.learn.sac import Learner, Losses
from agent.settings import AgentSettings, LearnSettings
from testbed.sim.compiled import dispatch
from testbed.sim.policies import Rule
from testbed.sim.run import Run
from testbed.sim.scenario import Scenario
from testbed.sim.world import World


class Learning:
    """An agent in a simulated balancer. Weights come into force `late_s` after the snapshot."""

    def __init__(self, agent: Agent, period_s: float, late_s: float) -> None:
        if not 0.0 <= late_s < period_s:
            raise ValueError("late_s must be at least 0 and less than a period")
        self.agent = agent
        self.rewards: list[float] = []
        self.period_s = period_s
        self._times_s = late_s, period_s - late_s
        self._waiting: Decision | None = None

    def step(self, world: World, balancer: int) -> None:
        """Decide, or, `late_s` after that, put in force; the next call is due in `period_s`."""
        decision, self._waiting = self._waiting, None
        if decision is None:
            decision = self.agent.step(world.snapshot(balancer))
            if decision.reward is not None:
                self.rewards.append(decision.reward)
            if self._times_s[0] > 0.0:
                self._waiting, self.period_s = decision, self._times_s[0]
                return
        self.period_s = self._times_s[1]
        if decision.publish:
            world.set_weights(balancer, decision.identity, decision.weights, decision.offset)


@dataclass(frozen=True)
class Episode:
    """What came of one: mean reward, mean completion time, and the losses of the last update."""

    reward: float
    mean_s: float
    losses: Losses | None


def shared_learner(settings: LearnSettings) -> Learner:
    """For a fleet, whose balancers bring the replays: its own stays empty."""
    return Learner(settings, Replay(settings.replay_steps, 1))


class Fleet:
    """Balancers with replays of their own and one learner; as many as a scenario asks for."""

    def __init__(self, learner: Learner, agent: AgentSettings, period_s: float) -> None:
        self.learner = learner
        self._agent = agent
        self._period_s = period_s
        self._ports: list[InlineLearner] = []

    def practise(self, scenario: Scenario, seed: int, late_s: float = 0.0) -> Episode:
        """One run in which every balancer explores and learns; memory begins empty."""
        missing = scenario.balancers - len(self._ports)
        for _ in range(missing):
            self._ports.append(InlineLearner(self.learner.settings, self.learner))
        controllers: list[Learning] = []

        def make(world: World, balancer: int, seed: int) -> Learning:
            noise = int(np.random.SeedSequence([seed, balancer]).generate_state(1)[0])
            policy = Policy(self._agent.policy, self.learner.actor_arrays(), noise)
            agent = Agent(self._agent, policy, self._ports[balancer])
            controllers.append(Learning(agent, self._period_s, late_s))
            return controllers[-1]

        result = Run(scenario, Rule("practice", dispatch.SED, controller=make), seed).finish()
        rewards = [reward for controller in controllers for reward in controller.rewards]
        losses = [port.losses for port in self._ports[: scenario.balancers] if port.losses]
        return Episode(
            float(np.mean(rewards)) if rewards else 0.0,
            result.mean_s,
            losses[0] if losses else None,
        )
