"""Who chooses in a run: every rule by name, and what sets its weights by the clock.

Lives here: the names, their parameters, controllers that step every so often.
Never here: a rule's choice for one flow (`testbed.sim.compiled.dispatch`), agents' insides.
"""

from __future__ import annotations

import re
from collections import deque
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
from agent.trust import Envelope, Monitor, TrustSettings
from testbed.sim.compiled import dispatch
from testbed.sim.world import World

Floats = NDArray[np.float64]

_SAME_S = 1e-9
"""Times of steps are sums: closer ones are the same."""


class Controller(Protocol):
    """What sets one balancer's weights. `step` is called after `period_s`, which it may change."""

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


class _Identities:
    """Which slots have another backend than when it was last asked."""

    def __init__(self, world: World) -> None:
        self._seen = world.identity.copy()

    def changed(self, world: World) -> NDArray[np.int64]:
        slots = np.flatnonzero(world.identity != self._seen)
        self._seen[slots] = world.identity[slots]
        return slots


@dataclass(frozen=True)
class _Answer:
    """Of a probe: jobs + 1 (n,) of the backends `identity` (n,) that answered, there at `due_s`."""

    due_s: float
    identity: NDArray[np.uint64]
    busy: Floats


class ActiveProbing:
    """AWCMP: probes every server's busy jobs each period and corrects its weights by them.

    Source: the RLB-QMIX paper's baseline ("periodically probes server resource utilisation, number
    of busy threads, and recomputes server weights"); the rule of correction is not given there.
    Here log w moves by `gain` times log of the mean of busy + 1 over the server's. The answer of
    a probe counts `delay_s` later; a server that is down gives none.
    gain: of 0.01 to 0.5 the best over 30 scenarios of the training distribution, which hardly tells
    0.1 to 0.5 apart.
    """

    gain = 0.2
    bound = 0.5 * np.log(16.0)

    def __init__(self, world: World, probe_s: float = 0.25, delay_s: float = 0.05) -> None:
        """probe_s: between two probes. Answers on their way: at most delay_s / probe_s + 1."""
        self.period_s = self._probe_s = probe_s
        self._delay_s = delay_s
        self._next_probe_s: float | None = None
        self._answers: deque[_Answer] = deque()
        self._log_w = np.zeros(world.count)
        self._identities = _Identities(world)

    def step(self, world: World, balancer: int) -> None:
        """Probe, or use the answers that are there; the next call is due in `period_s`."""
        now_s = world.now_s
        self._forget(world)
        if self._next_probe_s is None or now_s >= self._next_probe_s - _SAME_S:
            self._next_probe_s = now_s + self._probe_s
            there = np.flatnonzero(world.present & world.answering())
            busy = world.jobs()[there] + 1.0
            self._answers.append(_Answer(now_s + self._delay_s, world.identity[there], busy))
        while self._answers and self._answers[0].due_s <= now_s + _SAME_S:
            self._correct(world, balancer, self._answers.popleft())
        due_s = self._answers[0].due_s if self._answers else np.inf
        self.period_s = min(self._next_probe_s, due_s) - now_s

    def _forget(self, world: World) -> None:
        """What came since the last step begins in the middle."""
        fresh = np.zeros(world.count, dtype=bool)
        fresh[self._identities.changed(world)] = True
        known = world.present & ~fresh
        self._log_w[fresh] = self._log_w[known].mean() if known.any() else 0.0

    def _correct(self, world: World, balancer: int, answer: _Answer) -> None:
        slots = world.slots_of(answer.identity)
        known = slots >= 0
        if not known.any():
            return
        at, busy = slots[known], answer.busy[known]
        self._log_w[at] += self.gain * (np.log(busy.mean()) - np.log(busy))
        self._log_w -= self._log_w[world.present].mean()
        self._log_w[:] = np.clip(self._log_w, -self.bound, self.bound)
        world.state.weight[balancer] = np.exp(self._log_w)
        dispatch.refresh(world.state, balancer)


class KalmanWeights:
    """HLB: shortest expected delay with a Kalman-filtered time a flow of each server.

    Source: Yao et al., "HLB: Toward Load-Aware Load Balancing" (2022), whose load balancers filter
    the residence times that they observe. The state is log t_j, a random walk of `drift` a second;
    an observation is the mean log time per flow in progress of the samples since the last step,
    duration / (q + 1), with a variance of `noise` over their number. A backend without any has the
    mean of the others.
    """

    period_s = 0.25
    drift = 0.02
    noise = 1.0
    unknown = 100.0
    """Variance of a backend without a sample."""

    def __init__(self, world: World) -> None:
        self._log_t = np.zeros(world.count)
        self._variance = np.full(world.count, self.unknown)
        self._identities = _Identities(world)

    def step(self, world: World, balancer: int) -> None:
        snapshot = world.snapshot(balancer)
        self._variance[self._identities.changed(world)] = self.unknown
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
        known = world.present & (self._variance < self.unknown)
        neutral = self._log_t[known].mean() if known.any() else 0.0
        log_w = neutral - np.where(known, self._log_t, neutral)
        world.state.weight[balancer] = np.exp(np.clip(log_w, -np.log(4.0), np.log(4.0)))
        dispatch.refresh(world.state, balancer)


class AgentWeights:
    """The agent of the live system, on snapshots of the simulated balancer.

    What it does not publish leaves the last weights in force: there is no fallback here.
    """

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
    trained: Envelope | None = None,
) -> Rule:
    """Shortest expected delay with the weights of a frozen agent a balancer.

    trained: the inputs that it was trained on; with them a monitor watches it, as it does live.
    """

    def make(world: World, balancer: int, seed: int) -> Controller:
        settings = policy or PolicySettings()
        monitor = Monitor(TrustSettings(), trained) if trained is not None else None
        acting = Policy(settings, parameters)
        agent = Agent(AgentSettings(mode="frozen"), acting, monitor=monitor)
        return AgentWeights(agent, period_s)

    return Rule(name, dispatch.SED, controller=make)


def _probing(name: str, *times_s: float) -> Rule:
    def make(world: World, balancer: int, seed: int) -> Controller:
        return ActiveProbing(world, *times_s)

    return Rule(name, dispatch.WCMP, controller=make)


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
    "awcmp": _probing("awcmp"),
    "hlb": Rule("hlb", dispatch.SED, controller=lambda world, balancer, seed: KalmanWeights(world)),
}

_LEAST_PROBE_S = 1e-3

WATCHED = "agent-watched"
"""The shipped policy with its monitor, which tries the heuristic now and then."""

REFERENCE = "sed-global"
"""True capacities and a view of all queues: what others are compared with."""


class RuleError(ValueError):
    """No such rule, or a parameter that it does not have; the message names it."""


def _parameters(path: Path) -> Parameters:
    try:
        return checkpoint.actor_of(checkpoint.load(path), str(path))
    except checkpoint.CheckpointError as error:
        raise RuleError(str(error)) from error


def _watched() -> Rule:
    saved = checkpoint.load(SHIPPED)
    parameters = checkpoint.actor_of(saved, str(SHIPPED))
    return agent_rule(WATCHED, parameters, trained=Envelope.of(saved.meta["trained"]))


def names() -> list[str]:
    return sorted([*_PLAIN, "agent", WATCHED])


def _probe_times_s(spec: str, parameter: str) -> tuple[float, float]:
    try:
        period_s, delay_s = (float(part) for part in parameter.split(","))
    except ValueError as error:
        raise RuleError(
            f"{spec}: needs a period and a delay in seconds: awcmp:0.25,0.05"
        ) from error
    if not (_LEAST_PROBE_S <= period_s < np.inf and 0 <= delay_s < np.inf):
        raise RuleError(f"{spec}: a period must be at least 1 ms, a delay 0, and both finite")
    return period_s, delay_s


def split(specs: str) -> list[str]:
    """Rules with commas between. A comma before anything but a letter belongs to the rule."""
    return [spec.strip() for spec in re.split(r",(?=\s*[A-Za-z])", specs)]


def rule(spec: str) -> Rule:
    """A rule by its name; `ewma:50` and `ewma:2s` have a memory of flows or of seconds.

    `awcmp:0.5,0.1` probes every 0.5 s and has the answers 0.1 s later. `agent` is the frozen agent
    with the policy that comes with it, `agent:FILE` with another one; `agent-watched` is the
    shipped one with the monitor that watches over it live.

    Raises RuleError.
    """
    name, _, parameter = spec.partition(":")
    if name == "agent":
        return agent_rule(spec, _parameters(Path(parameter) if parameter else SHIPPED))
    if spec == WATCHED:
        return _watched()
    if name not in _PLAIN:
        raise RuleError(f"no rule {name!r}; known: {', '.join(names())}")
    plain = _PLAIN[name]
    if not parameter:
        return plain
    if name == "awcmp":
        return _probing(spec, *_probe_times_s(spec, parameter))
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
