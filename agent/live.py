"""The agent over shared memory: attach, step every interval, publish, survive what comes and goes.

Lives here: regions, clocks, pacing, the learner's process. Never here: what a step decides
(`agent.agent`), torch.
Upstream: `shm.reader`. Downstream: `shm.weights`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic_ns
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.act.network import fresh_parameters
from agent.act.policy import Policy
from agent.agent import Agent, Decision
from agent.balance import MISPLACED_MOST
from agent.learn import checkpoint
from agent.learn.process import LearnerProcess
from agent.policies import SHIPPED
from agent.settings import (
    AgentSettings,
    LearnSettings,
    PolicySettings,
    ProcessSettings,
    gentle,
)
from agent.trust import Envelope, Monitor, TrustSettings
from config.load import ConfigError
from config.relations import DEFAULT_SLOTS
from config.schema import Agent as AgentConfig
from config.schema import Config
from sd.notify import Notifier
from shm import layout as lo
from shm.errors import RegionAbsent, RegionBusy, RegionError
from shm.reader import Reader
from shm.region import Region
from shm.weights import AgentBlock

log = logging.getLogger(__name__)

RETRY_NS: Final = 100_000_000
"""How often a region that is not there is looked for."""
MODES: Final = {name: word for word, name in lo.AGENT_MODES.items()}
ORDERED: Final = {lo.AGENT_SHADOW: MODES["shadow"], lo.AGENT_PAUSE: MODES["paused"]}
"""Of what an operator asked for."""
REWARD_FRESH: Final = "VBF+logVBF"
REWARD_TRAINED: Final = "Jain"
"""VBF+logVBF undoes what a trained policy knows (docs/policy.md)."""
SHADOW_EVERY_NS: Final = 60 * 10**9
LEAST_REPLAY_STEPS: Final = 512
"""Of the learner, however many backends there may be: less is too little to draw from."""


def learn_settings(seed: int, slots: int, trained: bool) -> LearnSettings:
    """As many backends as the region has slots; fewer steps then, so that memory stays bounded.

    trained: whether it begins with a policy that is worth keeping.
    """
    usual = LearnSettings()
    steps = max(LEAST_REPLAY_STEPS, usual.replay_steps * usual.max_backends // slots)
    found = LearnSettings(
        seed=seed, max_backends=slots, replay_steps=min(steps, usual.replay_steps)
    )
    return gentle(found) if trained else found


def _begins_fresh(config: AgentConfig) -> bool:
    """Whether nobody has trained what it begins with."""
    return config.checkpoint is None and config.base == "none"


def _policy_of(config: AgentConfig) -> tuple[dict[str, NDArray[np.float32]], Envelope | None]:
    """What the policy begins with, and the inputs it was trained on. Raises CheckpointError."""
    if _begins_fresh(config):
        return fresh_parameters(config.seed), None
    path = config.checkpoint or SHIPPED
    saved = checkpoint.load(path)
    trained = saved.meta.get("trained")
    try:
        envelope = None if trained is None else Envelope.of(trained)
    except (ValueError, KeyError, TypeError) as error:
        raise checkpoint.CheckpointError(f"{path}: trained ranges: {error}") from error
    return checkpoint.actor_of(saved, str(path)), envelope


@dataclass
class Attachment:
    """One region while it lasts."""

    region: Region
    reader: Reader
    block: AgentBlock


class ServiceAgent:
    """The agent of one service: waits for its region, steps, starts over when it is replaced."""

    def __init__(self, service: str, config: AgentConfig, slots: int = DEFAULT_SLOTS) -> None:
        """`slots` are the service's. Raises CheckpointError if the policy cannot be used."""
        self._service = service
        self._config = config
        self._expiry_ns = config.expiry_ms * 1_000_000
        self._attached: Attachment | None = None
        self._retry_ns = 0
        self._step_ns_total = 0
        self._complaint = ""
        self._problem = ""
        self._refusing = False
        self._trusted = True
        self._misplaced = False
        self._shadow_ns = 0
        parameters, envelope = _policy_of(config)
        self._monitor = Monitor(TrustSettings(), envelope) if config.mode != "learn" else None
        self._learner: LearnerProcess | None = None
        if config.mode == "learn":
            save = None if config.save is None else Path(config.save) / f"{service}.safetensors"
            self._learner = LearnerProcess(
                learn_settings(config.seed, slots, trained=not _begins_fresh(config)),
                ProcessSettings(checkpoint=save, checkpoint_every_s=config.save_every_s),
                parameters,
            )
        policy = PolicySettings(max_ratio=config.max_ratio, base=config.base)
        reward = config.reward or (REWARD_FRESH if _begins_fresh(config) else REWARD_TRAINED)
        self._agent = Agent(
            AgentSettings(config.mode, reward, config.seed, policy),
            Policy(policy, parameters, config.seed),
            self._learner,
            self._monitor,
        )

    def step(self, now_ns: int) -> Decision | None:
        """One step if the region is there. Never raises for what the other side does."""
        started_ns = monotonic_ns()
        attached = self._attachment(now_ns)
        if attached is None:
            return None
        order = attached.region.agent_order
        attached.block.set("mode", ORDERED.get(order, MODES[self._config.mode]))
        if order == lo.AGENT_PAUSE:
            self._agent.rest()
            attached.block.beat(now_ns)
            return None
        applied = order != lo.AGENT_SHADOW
        snapshot = attached.reader.snapshot(now_ns, usable_only=True, peers=True)
        decision = self._agent.step(snapshot, applied)
        if decision.publish and applied:
            attached.block.publish(
                decision.slots,
                decision.identity,
                decision.weights,
                now_ns,
                now_ns + self._expiry_ns,
                decision.offset,
            )
        if self._config.mode == "shadow" or not applied:
            self._report_shadow(attached.region, decision)
        self._report(attached.block, decision, monotonic_ns() - started_ns)
        return decision

    def status(self) -> str:
        """One line for the service manager."""
        if self._attached is None:
            return f"{self._service}: waiting for its region"
        return f"{self._service}: {self._config.mode}, step {self._agent.counters.steps}"

    def _report(self, block: AgentBlock, decision: Decision, step_ns: int) -> None:
        counters = self._agent.counters
        self._step_ns_total += step_ns
        block.beat(decision.now_ns)
        block.set("steps_total", counters.steps)
        block.set("step_ns", step_ns)
        block.set("step_ns_total", self._step_ns_total)
        block.set("parameters_loaded_total", counters.parameters_loaded)
        block.set("parameters_refused_total", counters.parameters_refused)
        block.set_real("reward", decision.reward)
        block.set_real("entropy_nats", decision.entropy_nats)
        self._report_balance(block, decision)
        self._report_trust(block, decision)
        if self._learner is not None:
            block.set("learner_updates_total", int(self._learner.report.get("updates", 0)))
            block.set("transitions_dropped_total", self._learner.counters.dropped)
            self._log_trouble(self._learner.report)

    def _report_balance(self, block: AgentBlock, decision: Decision) -> None:
        """Whether flows are where the weights should put them; said when it changes."""
        misplaced = decision.misplaced
        block.set_real("misplaced", misplaced)
        if misplaced is None or (misplaced > MISPLACED_MOST) == self._misplaced:
            return
        if self._misplaced and misplaced > 0.5 * MISPLACED_MOST:
            return
        self._misplaced = not self._misplaced
        if self._misplaced:
            log.warning(
                "service %s: %.0f%% of the flows are not where the weights should put them: "
                "something else decides (long flows, limits, stickiness)",
                self._service,
                100.0 * misplaced,
            )
        else:
            log.info("service %s: flows are where the weights put them", self._service)

    def _report_shadow(self, region: Region, decision: Decision) -> None:
        """What the policy would have done, now and then, for the log alone."""
        if decision.now_ns < self._shadow_ns:
            return
        self._shadow_ns = decision.now_ns + SHADOW_EVERY_NS
        share = decision.weights / decision.weights.mean() if decision.weights.size else ()
        log.info(
            "service %s: shadow: would weigh %s and add %.2f to the queues",
            self._service,
            ", ".join(
                f"{region.entry(int(slot)).name} {weight:.2f}"
                for slot, weight in zip(decision.slots, share, strict=True)
            )
            or "nobody",
            decision.offset,
        )

    def _report_trust(self, block: AgentBlock, decision: Decision) -> None:
        monitor = self._monitor
        if monitor is None:
            return
        block.set("trials_total", monitor.trials)
        block.set("suspensions_total", monitor.suspensions)
        block.set_real("trusted", float(monitor.stand.trusted))
        block.set_real("outside", monitor.outside)
        block.set_real("excess", monitor.excess)
        if monitor.stand.trusted != self._trusted:
            self._trusted = monitor.stand.trusted
            if self._trusted:
                log.info("service %s: the policy decides again", self._service)
            else:
                log.warning(
                    "service %s: the policy is suspended (%s; %.0f%% of its inputs outside of the "
                    "trained range, %s); the fallback chooses once its weights expire",
                    self._service,
                    monitor.stand.value,
                    100.0 * monitor.outside,
                    "no trial yet" if monitor.excess is None else f"excess {monitor.excess:+.2f}",
                )

    def _log_trouble(self, report: Mapping[str, Any]) -> None:
        """What the learner reports again and again is logged once."""
        problem = report.get("problem", "")
        if problem and problem != self._problem:
            log.error("service %s: learner: %s", self._service, problem)
            self._problem = problem
        refused = report.get("replay_refused", 0)
        if refused and not self._refusing:
            log.warning(
                "service %s: learner: refuses steps, too many backends (%d so far)",
                self._service,
                refused,
            )
            self._refusing = True

    def _attachment(self, now_ns: int) -> Attachment | None:
        attached = self._attached
        if attached is not None:
            if not attached.region.segment.replaced():
                return attached
            log.info("service %s: its region is gone", self._service)
            self.detach()
        if now_ns < self._retry_ns:
            return None
        self._retry_ns = now_ns + RETRY_NS
        try:
            region = Region.attach(self._service)
        except RegionAbsent as error:
            self._complain(str(error))
            return None
        except RegionError as error:
            self._complain(str(error))
            return None
        try:
            block = AgentBlock(region)
        except RegionBusy:
            region.close()
            self._complain(f"service {self._service}: another agent is at work")
            return None
        block.set("mode", MODES[self._config.mode])
        self._attached = Attachment(region, Reader(region), block)
        self._complaint = ""
        log.info("service %s: attached, %s", self._service, self._config.mode)
        return self._attached

    def _complain(self, text: str) -> None:
        """Say it once, not ten times a second."""
        if text != self._complaint:
            log.warning("waiting: %s", text)
            self._complaint = text

    def detach(self) -> None:
        if self._attached is not None:
            self._attached.region.close()
            self._attached = None

    def close(self) -> None:
        """Let go of the region, let the learner save."""
        self.detach()
        if self._learner is not None:
            self._learner.close()


def served(config: Config) -> dict[str, int]:
    """Slots, by the name of the service, of those that an agent steps: in shadow mode all."""
    return {
        service.name: service.slots
        for service in config.services
        if service.weights == "agent" or config.agent.mode == "shadow"
    }


def run(
    config: Config,
    observer: Callable[[str, Decision], None] | None = None,
    read: Callable[[], Config] | None = None,
) -> Config | None:
    """Step all services every interval until SIGTERM or SIGINT; then None.

    After SIGHUP, and if `read` finds other things for an agent to do, the configuration that says
    so: the caller goes on with it.
    `observer` is told of every decision. Raises CheckpointError before the first step.
    """
    stop, again = Event(), Event()
    manager = Notifier.of(os.environ)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if read is not None:
        signal.signal(signal.SIGHUP, lambda *_: again.set())
    with contextlib.ExitStack() as stack:
        services: dict[str, ServiceAgent] = {}
        for name, slots in served(config).items():
            services[name] = agent = ServiceAgent(name, config.agent, slots)
            stack.callback(agent.close)
        if not services:
            log.warning("no service takes its weights from the agent: nothing to do")
        manager.tell(READY=1)
        for _ in pace(services, config.agent.interval_ms * 1_000_000, stop, observer, manager):
            if read is None or not again.is_set():
                continue
            again.clear()
            try:
                found = read()
            except ConfigError as error:
                log.error("not reloaded: %s", error)
                continue
            if (found.agent, served(found)) != (config.agent, served(config)):
                log.info("reloaded")
                return found
            log.info("reloaded: nothing has changed for the agent")
        manager.tell(STOPPING=1)
    return None


def pace(
    services: dict[str, ServiceAgent],
    interval_ns: int,
    stop: Event,
    observer: Callable[[str, Decision], None] | None,
    manager: Notifier,
) -> Iterator[None]:
    """Steps at fixed times, not after fixed pauses; a step that is missed is not made up for.

    Yields after each round of steps, until `stop`.
    """
    due_ns = monotonic_ns()
    while not stop.is_set():
        for name, agent in services.items():
            decision = agent.step(monotonic_ns())
            if decision is not None and observer is not None:
                observer(name, decision)
        yield
        due_ns += interval_ns
        now_ns = monotonic_ns()
        manager.beat(now_ns, lambda: "; ".join(agent.status() for agent in services.values()))
        if due_ns < now_ns:
            due_ns = now_ns
        stop.wait((due_ns - now_ns) * 1e-9)
