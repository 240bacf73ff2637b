"""Fig 2b: what unseen flows and wrong weights cost WCMP, LSQ and SED on two servers.

Lives here: the cases, solved (`testbed.sim.theory`) and simulated. Never here: how they are shown.
In the paper's chain a balancer knows both queues, and only places fewer of the flows. In the
simulation it sees its own flows alone, as a balancer does; the other balancers choose at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from testbed.sim.compiled.dispatch import ECMP
from testbed.sim.policies import rule
from testbed.sim.records import FINISHED, State
from testbed.sim.run import Run
from testbed.sim.scenario import Application, Arrivals, Resource, Scenario, Servers, Size
from testbed.sim.theory import SPLITS, two_servers
from testbed.stats import Interval, mean_interval

PLACES = 20
"""Q, which the paper does not give."""
SPEED = (2.0, 1.0)


@dataclass(frozen=True)
class Case:
    """balancers: the share of the flows that is seen is one of that many."""

    name: str
    balancers: int = 1
    weight: tuple[float, float] = SPEED


CASES = (
    Case("ideal"),
    Case("50% seen", balancers=2),
    Case("33% seen", balancers=3),
    Case("wrong weights", weight=(1.0, 2.0)),
)


@dataclass(frozen=True)
class Cost:
    """The paper's weighted duration in units of the slow server's service time.

    chain: solved. local: simulated, every balancer with its own view.
    """

    policy: str
    case: str
    chain: float
    local: Interval


def run(seeds: int, duration_s: float = 20_000.0) -> list[Cost]:
    """All cases; at nominal load queues wander for minutes, hence the long runs."""
    return [
        Cost(
            policy,
            case.name,
            two_servers(
                SPLITS[policy], observed=1 / case.balancers, weight=case.weight, places=PLACES
            ).weighted_duration_s,
            mean_interval([_local(policy, case, seed, duration_s) for seed in range(seeds)]),
        )
        for case in CASES
        for policy in SPLITS
    ]


def scenario(case: Case, duration_s: float) -> Scenario:
    servers = tuple(
        Servers(speed=speed, in_service=1, backlog=PLACES - 1, weight=weight)
        for speed, weight in zip(SPEED, case.weight, strict=True)
    )
    return Scenario(
        name=case.name,
        balancers=case.balancers,
        servers=servers,
        applications=(Application(stages=((Resource.CPU, Size(mean_s=1.0)),)),),
        arrivals=Arrivals(load=1.0),
        duration_s=duration_s,
        warmup_s=0.0,
        link_s=(0.0, 0.0),
    )


def _local(policy: str, case: Case, seed: int, duration_s: float) -> float:
    run = Run(scenario(case, duration_s), rule(policy), seed)
    run.world.state.balancers["policy"][1:] = ECMP
    run.finish()
    return weighted_duration_s(run.world.state)


def weighted_duration_s(state: State) -> float:
    """E[sum of l_i / (l_1 + l_2) * l_i / v_i] over the time in which anything is there."""
    flows = state.flows[state.flows["outcome"] == FINISHED]
    at_s = np.concatenate([flows["at_s"], flows["done_s"]])
    step = np.repeat([1, -1], len(flows))
    second = np.tile(flows["server"], 2) == 1
    order = np.argsort(at_s, kind="stable")
    queues = [np.cumsum(np.where(mine, step, 0)[order]) for mine in (~second, second)]
    lasted_s = np.diff(at_s[order], append=at_s.max())
    total = np.maximum(queues[0] + queues[1], 1)
    value = (queues[0] ** 2 / SPEED[0] + queues[1] ** 2 / SPEED[1]) / total
    busy = queues[0] + queues[1] > 0
    return float((value * lasted_s)[busy].sum() / lasted_s[busy].sum())
