"""Who chooses in a run: every rule by name, and what sets its weights by the clock.

Lives here: the names, their parameters, controllers that step every so often.
Never here: a rule's choice for one flow (`testbed.sim.compiled.dispatch`), agents' insides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agent.act.network import Parameters
from agent.act.policy import Policy
from agent.agent import Agent
from agent.learn import checkpoint
from agent.policies import SHIPPED
from agent.settings import AgentSettings, PolicySettings
from testbed.sim.compiled import dispatch
from testbed.sim.world import World

Floats = NDArray[np.float64]


class Controller(Protocol):
    """What sets one balancer's weights. `step` is called every `period_s`."""

    period_s: float

    def step(self, world: World, balancer: int) -> None: ...


MakeController = Callable[[World, int, int], Controller]
"""(world, balancer, seed) to the controller of that balancer."""


@dataclass(frozen=True)
class Rule:
    """`code`: a constant of `dispatch`. weights: where a balancer's weights come from at first.

    'true' ones follow the capacity as it changes. memory_flows, memory_s: of latency averages.
    """

    name: str
    code: int
    weights: str = "none"
    memory_flows: float = 200.0
    memory_s: float = 1.0
    controller: MakeController | None = field(default=None, compare=False)


@dataclass
class TrueWeights:
    """Tells the balancer each server's capacity of the moment."""

    period_s: float = 0.05

    def step(self, world: World, balancer: int) -> None:
        capacity = world.capacity_per_s()
        if not np.array_equal(world.state.weight[balancer], capacity):
            world.state.weight[balancer] = capacity
            dispatch.refresh(world.state, balancer)


class ActiveProbing:
    """AWCMP: probes every server's busy jobs each period and corrects its weights by them.

    Source: the RLB-QMIX paper's baseline ("periodically probes server resource utilisation, number
    of busy threads, and recomputes server weights"); the rule of correction is not given there.
    Here log w moves by `gain` times log of the mean of busy + 1 over the server's. The answer of
    a probe is `delay_s` old when it counts.
    """

    gain = 0.05
    bound = 0.5 * np.log(16.0)

    def __init__(self, world: World, period_s: float = 0.25, delay_s: float = 0.05) -> None:
        self.period_s = period_s
        self._steps_late = max(1, round(delay_s / period_s)) if delay_s > 0 else 0
        self._seen: list[Floats] = []
        self._log_w = np.zeros(world.count)

    def step(self, world: World, balancer: int) -> None:
        self._seen.append(world.jobs() + 1.0)
        if len(self._seen) <= self._steps_late:
            return
        busy = self._seen.pop(0)
        self._log_w += self.gain * (np.log(busy.mean()) - np.log(busy))
        self._log_w = np.clip(self._log_w - self._log_w.mean(), -self.bound, self.bound)
        world.state.weight[balancer] = np.exp(self._log_w)
        dispatch.refresh(world.state, balancer)


class KalmanWeights:
    """HLB: shortest expected delay with a Kalman-filtered time a flow of each server.

    Source: Yao et al., "HLB: Toward Load-Aware Load Balancing" (2022), whose load balancers filter
    the residence times that they observe. The state is log t_j, a random walk of `drift` a second;
    an observation is the mean log time per flow in progress of the samples since the last step,
    duration / (q + 1), with a variance of `noise` over their number.
    """

    period_s = 0.25
    drift = 0.02
    noise = 1.0

    def __init__(self, world: World) -> None:
        self._log_t = np.zeros(world.count)
        self._variance = np.full(world.count, 100.0)

    def step(self, world: World, balancer: int) -> None:
        snapshot = world.snapshot(balancer)
        since_ns = snapshot.now_ns - int(self.period_s * 1e9)
        fresh = snapshot.duration.t_ns > np.uint64(max(since_ns, 0))
        count = fresh.sum(axis=1)
        logs = np.log(np.maximum(snapshot.duration.value_ns, 1) * 1e-9) * fresh
        slots = snapshot.slots
        self._variance[slots] += self.drift * self.period_s
        seen = count > 0
        at = slots[seen]
        measured = logs[seen].sum(axis=1) / count[seen] - np.log(snapshot.flows[seen] + 1.0)
        gain = self._variance[at] / (self._variance[at] + self.noise / count[seen])
        self._log_t[at] += gain * (measured - self._log_t[at])
        self._variance[at] *= 1.0 - gain
        known = self._variance < 100.0
        neutral = self._log_t[known].mean() if known.any() else 0.0
        log_w = neutral - np.where(known, self._log_t, neutral)
        world.state.weight[balancer] = np.exp(np.clip(log_w, -np.log(4.0), np.log(4.0)))
        dispatch.refresh(world.state, balancer)


class AgentWeights:
    """The agent of the live system, on snapshots of the simulated balancer."""

    def __init__(self, agent: Agent, period_s: float = 0.25) -> None:
        self.period_s = period_s
        self.agent = agent

    def step(self, world: World, balancer: int) -> None:
        decision = self.agent.step(world.snapshot(balancer))
        if decision.publish:
            world.set_weights(balancer, decision.identity, decision.weights, decision.offset)


def agent_rule(
    name: str,
    parameters: Parameters,
    policy: PolicySettings | None = None,
    period_s: float = 0.25,
) -> Rule:
    """Shortest expected delay with the weights of a frozen agent a balancer."""

    def make(world: World, balancer: int, seed: int) -> Controller:
        settings = policy or PolicySettings()
        agent = Agent(AgentSettings(mode="frozen"), Policy(settings, parameters))
        return AgentWeights(agent, period_s)

    return Rule(name, dispatch.SED, controller=make)


_PLAIN = {
    "rr": Rule("rr", dispatch.RR),
    "wrr": Rule("wrr", dispatch.WRR, "configured"),
    "ecmp": Rule("ecmp", dispatch.ECMP),
    "wcmp": Rule("wcmp", dispatch.WCMP, "configured"),
    "lsq": Rule("lsq", dispatch.LSQ),
    "sed": Rule("sed", dispatch.SED, "configured"),
    "p2c": Rule("p2c", dispatch.P2C, "configured"),
    "ewma": Rule("ewma", dispatch.EWMA),
    "least_time": Rule("least_time", dispatch.LEAST_TIME, memory_flows=20.0),
    "hcl": Rule("hcl", dispatch.HCL, memory_flows=20.0),
    "maglev": Rule("maglev", dispatch.MAGLEV, "configured"),
    "source_hash": Rule("source_hash", dispatch.SOURCE_HASH, "configured"),
    "wcmp-true": Rule("wcmp-true", dispatch.WCMP, "true"),
    "sed-true": Rule("sed-true", dispatch.SED, "true"),
    "sed-global": Rule("sed-global", dispatch.GLOBAL_SED),
    "oracle": Rule("oracle", dispatch.ORACLE),
    "jiq": Rule("jiq", dispatch.JIQ),
    "awcmp": Rule(
        "awcmp", dispatch.WCMP, controller=lambda world, balancer, seed: ActiveProbing(world)
    ),
    "hlb": Rule("hlb", dispatch.SED, controller=lambda world, balancer, seed: KalmanWeights(world)),
}

REFERENCE = "sed-global"
"""True capacities and a view of all queues: what others are compared with."""


class RuleError(ValueError):
    """No such rule, or a parameter that it does not have; the message names it."""


def _parameters(path: Path) -> Parameters:
    try:
        return checkpoint.actor_of(checkpoint.load(path), str(path))
    except checkpoint.CheckpointError as error:
        raise RuleError(str(error)) from error


def names() -> list[str]:
    return sorted([*_PLAIN, "agent"])


def rule(spec: str) -> Rule:
    """A rule by its name; `ewma:50` and `ewma:2s` have a memory of flows or of seconds.

    `agent` is the frozen agent with the policy that comes with it, `agent:FILE` with another one.

    Raises RuleError.
    """
    name, _, parameter = spec.partition(":")
    if name == "agent":
        return agent_rule(spec, _parameters(Path(parameter) if parameter else SHIPPED))
    if name not in _PLAIN:
        raise RuleError(f"no rule {name!r}; known: {', '.join(names())}")
    plain = _PLAIN[name]
    if not parameter:
        return plain
    if name not in ("ewma", "least_time", "hcl"):
        raise RuleError(f"{name} has no parameter, got {parameter!r}")
    try:
        if parameter.endswith("s"):
            seconds = float(parameter[:-1])
            memory = {"memory_flows": 0.0, "memory_s": seconds}
        else:
            memory = {"memory_flows": (seconds := float(parameter))}
    except ValueError as error:
        raise RuleError(f"{spec}: a memory is a number of flows, or of seconds: 50, 2s") from error
    if not 0 < seconds < np.inf:
        raise RuleError(f"{spec}: a memory must be positive")
    return Rule(**{**plain.__dict__, "name": spec, **memory})
