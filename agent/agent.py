"""The agent: a snapshot in, a decision out, every step.

Lives here: the order of one step, the modes, and what happens when there is nothing to decide.
Never here: I/O, clocks, sleeping, torch. The runner owns those, live or in a simulator.
Upstream: `shm.snapshot`. Downstream: the runner, which publishes `Decision.weights`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agent.act.network import ParameterError, Parameters
from agent.act.policy import Action, Policy
from agent.balance import Balance
from agent.observe import Observation, observe
from agent.rewards import REWARDS, shares
from agent.settings import AgentSettings, SettingsError
from agent.steps import Step
from agent.trust import GAP_MOST_S, Monitor, Stand
from shm.snapshot import Ints, Snapshot, Words

Float64 = NDArray[np.float64]
Reason = str
"""The value of a `Stand`, or why there was nothing to decide: 'empty', 'single', 'idle'."""

_SILENT = frozenset({"empty", *(stand.value for stand in Stand if not stand.trusted)})


class LearnerPort(Protocol):
    """Where steps go and new parameters come from; neither call may block."""

    def push(self, step: Step) -> bool:
        """Hand over a step; False if it was dropped."""

    def poll(self) -> Parameters | None:
        """The newest parameters since the last call, if any."""


@dataclass(frozen=True)
class Decision:
    """One step's outcome. Rows are the snapshot's backends, in its order.

    weights (N,): a_j, finite and positive, bounded ratio. offset: b, added to q.
    log_factor (N,): log g_j, mean 0.
    reward: fairness of what was measured in this snapshot, None if nothing could be compared.
    duration_s (N,): the l_j behind it. publish: False in shadow mode and if there is no backend.
    entropy_nats: of the policy at this step, None where it did not choose.
    misplaced: share of the flows in progress that are not where the weights until now should have
    put them (`agent.balance`); None where there were none or it cannot be told.
    reason: who decided, or why nobody did; 'idle' means that no flow came and none is open. Of a
    policy that is not trusted nothing is published, so that the service falls back.
    """

    now_ns: int
    generation: int
    slots: Ints
    identity: Words
    weights: Float64
    offset: float
    log_factor: Float64
    duration_s: Float64
    reward: float | None
    entropy_nats: float | None
    misplaced: float | None
    observation: Observation
    reason: Reason
    publish: bool


@dataclass
class Counters:
    """What happened since the agent was made; the runner exports them."""

    steps: int = 0
    parameters_loaded: int = 0
    parameters_refused: int = 0
    steps_dropped: int = 0


class Agent:
    """One service's agent. `step` is to be called once a snapshot, in order of time."""

    def __init__(
        self,
        settings: AgentSettings,
        policy: Policy,
        learner: LearnerPort | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        """`monitor` watches over a policy that does not learn; None trusts it."""
        if settings.reward not in REWARDS:
            raise SettingsError(f"unknown reward {settings.reward!r}; known: {sorted(REWARDS)}")
        self._settings = settings
        self._policy = policy
        self._learner = learner if settings.mode == "learn" else None
        self._monitor = monitor
        self._reward = REWARDS[settings.reward]
        self._previous: Observation | None = None
        self._generation: int | None = None
        self._balance = Balance()
        self.counters = Counters()

    def step(self, snapshot: Snapshot, applied: bool = True) -> Decision:
        """Observe, reward the last action, decide, hand the step to the learner.

        applied: whether the weights will be; if not, there is nothing to learn from them.
        """
        decision = self._decide(snapshot, applied)
        if decision.publish and applied:
            self._balance.expect(decision.identity, decision.weights, decision.offset)
        else:
            self._balance = Balance()
        return decision

    def _decide(self, snapshot: Snapshot, applied: bool) -> Decision:
        self._load_parameters()
        if snapshot.generation != self._generation:
            # Another region: its counters began again, its identities mean other backends.
            self._previous, self._generation = None, snapshot.generation
            self._balance = Balance()
            self._policy.forget()
            if self._monitor is not None:
                self._monitor.forget()
        before = self._previous
        observation = observe(snapshot, before, self._policy.last_action(snapshot.identity))
        self._previous = observation
        if before is not None:
            step_s = (observation.now_ns - before.now_ns) * 1e-9
            if step_s > GAP_MOST_S:
                # Weights may have expired meanwhile: flows went by nobody knows what.
                self._balance = Balance()
            self._balance.see(observation.identity, observation.flows, step_s)
        number = self.counters.steps
        self.counters.steps += 1

        count = observation.identity.size
        if count < 2:
            return self._decision(
                snapshot,
                observation,
                self._policy.hold(observation),
                "single" if count else "empty",
            )
        if observation.idle:
            # Nothing is judged, but who is suspended stays so.
            stand = self._monitor.stand if self._monitor is not None else Stand.POLICY
            reason = "idle" if stand.trusted else stand.value
            return self._decision(snapshot, observation, self._policy.hold(observation), reason)
        action = self._policy.act(observation, stochastic=self._settings.mode == "learn")
        # What is not in force has no outcome to be judged by, and a trial would try nothing.
        judged = applied and self._settings.mode != "shadow"
        stand = self._monitor.judge(observation) if self._monitor and judged else Stand.POLICY
        if stand is Stand.TRIAL:
            action = self._policy.rest(observation)
        decision = self._decision(snapshot, observation, action, stand.value)
        if applied:
            self._push(number, observation, action, decision.reward)
        return decision

    def rest(self) -> None:
        """A step is left out: what was last seen is no measure for the next one, and the gap in
        numbers ends the sequence."""
        if self._previous is not None:
            self._previous = None
            self._balance = Balance()
            self.counters.steps += 1

    def _load_parameters(self) -> None:
        parameters = self._learner.poll() if self._learner is not None else None
        if parameters is None:
            return
        try:
            self._policy.load(parameters)
        except ParameterError:
            # A learner that diverged must not take the service with it: keep what worked.
            self.counters.parameters_refused += 1
        else:
            self.counters.parameters_loaded += 1

    def _push(
        self, number: int, observation: Observation, action: Action, reward: float | None
    ) -> None:
        # Without samples there is nothing to learn from; the gap in numbers ends the sequence.
        if self._learner is None or reward is None:
            return
        best = self._reward(np.ones_like(observation.duration_s))
        credit = shares(reward, best, observation.duration_s)
        step = Step(
            number=number,
            identity=observation.identity,
            features=observation.features,
            service=observation.service,
            hidden=action.hidden,
            u=action.u,
            reward=credit.astype(np.float32),
        ).sorted()
        if not self._learner.push(step):
            self.counters.steps_dropped += 1

    def _decision(
        self, snapshot: Snapshot, observation: Observation, action: Action, reason: Reason
    ) -> Decision:
        measured = observation.service_duration_s > 0.0 and observation.identity.size > 1
        return Decision(
            now_ns=snapshot.now_ns,
            generation=snapshot.generation,
            slots=snapshot.slots,
            identity=snapshot.identity,
            weights=action.weights,
            offset=action.offset,
            log_factor=action.log_g,
            duration_s=observation.duration_s,
            reward=self._reward(observation.duration_s) if measured else None,
            entropy_nats=action.entropy_nats,
            misplaced=self._balance.misplaced,
            observation=observation,
            reason=reason,
            publish=self._settings.mode != "shadow" and reason not in _SILENT,
        )
