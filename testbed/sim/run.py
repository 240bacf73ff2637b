"""One run from start to end, and what came of its flows.

Lives here: the order of steps by the clock, and the figures of a run. Never here: comparisons of
runs (`testbed.sim.league`).
"""

from __future__ import annotations

import heapq
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.sim.compiled.dispatch import BY_TABLE, JIQ
from testbed.sim.policies import Controller, Rule, RuleError, TrueWeights
from testbed.sim.records import FAILED, FINISHED, REJECTED, UNROUTED
from testbed.sim.scenario import Scenario
from testbed.sim.workload import Workload
from testbed.sim.world import World

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """Of the F flows that arrived after the warm-up, in order of arrival.

    fct_s (F,): what the client saw, from leaving it to the answer; a flow that was not served
    counts as the scenario's timeout_s. at_s, server (-1 for none), outcome (F,).
    """

    at_s: Floats
    fct_s: Floats
    server: NDArray[np.int32]
    outcome: NDArray[np.int32]

    @property
    def mean_s(self) -> float:
        return float(self.fct_s.mean())

    def quantile_s(self, share: float) -> float:
        return float(np.quantile(self.fct_s, share))

    def counts(self) -> dict[str, int]:
        """Flows by how they ended."""
        kinds = {"finished": FINISHED, "rejected": REJECTED, "failed": FAILED, "unrouted": UNROUTED}
        return {name: int((self.outcome == kind).sum()) for name, kind in kinds.items()}


class Run:
    """A world under a rule. Step it with `advance`; `finish` gives the result.

    led: balancers that do not follow the rule; their weights come from outside (`World.lead`).
    Raises RuleError for a rule that needs every balancer.
    """

    def __init__(
        self,
        scenario: Scenario,
        rule: Rule,
        seed: int,
        workload: Workload | None = None,
        *,
        led: Collection[int] = (),
    ) -> None:
        if rule.code in (JIQ, *BY_TABLE) and 0 < len(led) < scenario.balancers:
            raise RuleError(
                f"{rule.name} has one table or list for all balancers: all must follow it"
            )
        self.world = World(scenario, seed, workload)
        world = self.world
        if rule.weights == "configured":
            world.state.weight[:] = scenario.configured_weights()
        elif rule.weights == "true":
            world.state.weight[:] = world.capacity_per_s()
        world.use(rule.code, rule.memory_flows, rule.memory_s)
        for balancer in led:
            world.lead(balancer)
        self.controllers: dict[int, Controller] = {}
        # Balancers are not in step with each other: each begins at a moment of its own.
        self._due: list[tuple[float, int]] = []
        phases = np.random.default_rng([seed, 99]).random(scenario.balancers)
        for balancer in set(range(scenario.balancers)).difference(led):
            controller: Controller | None = None
            if rule.weights == "true":
                controller = TrueWeights()
            elif rule.controller is not None:
                world.led[balancer] = True
                controller = rule.controller(world, balancer, seed)
            if controller is not None:
                self.controllers[balancer] = controller
                heapq.heappush(self._due, (phases[balancer] * controller.period_s, balancer))

    def advance(self, until_s: float) -> None:
        """Simulate up to `until_s`, stepping the controllers on the way."""
        while self._due and self._due[0][0] <= until_s:
            at_s, balancer = heapq.heappop(self._due)
            self.world.advance(at_s)
            controller = self.controllers[balancer]
            controller.step(self.world, balancer)
            heapq.heappush(self._due, (at_s + controller.period_s, balancer))
        self.world.advance(until_s)

    def finish(self) -> Result:
        """Simulate to the end of the arrivals, let what is there finish, and take stock."""
        scenario = self.world.scenario
        self.advance(scenario.duration_s)
        self.world.advance(np.inf)
        flows, edge_s = self.world.state.flows, self.world.workload.edge_s
        judged = flows["at_s"] >= scenario.warmup_s
        flows, edge_s = flows[judged], edge_s[judged]
        served = flows["outcome"] == FINISHED
        fct_s = np.where(served, flows["done_s"] - flows["at_s"] + edge_s, scenario.timeout_s)
        return Result(flows["at_s"].copy(), fct_s, flows["server"].copy(), flows["outcome"].copy())


def simulate(scenario: Scenario, rule: Rule, seed: int, workload: Workload | None = None) -> Result:
    """One run from start to end."""
    return Run(scenario, rule, seed, workload).finish()
