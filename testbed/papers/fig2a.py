"""Fig 2a: what weight a server with twice the CPUs deserves depends on the application.

Lives here: the runs and the ratios. Never here: how they are shown.
The paper's text gives no figures and no definition of the weight. Here it is what the oracle, which
knows every job's time, did: work given to the four servers of two CPUs, over that given to the
four of one, in windows of WINDOW_S seconds. (Flows are no measure: the oracle gives the small
servers the short ones, and so more of them.) The rate is 84.5% of what the scarcer resource of the
servers can do, since at 84.5% of the CPUs the I/O of two of the four applications is overloaded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.papers.setups import CPU_LOAD, episode
from testbed.sim.policies import rule
from testbed.sim.run import simulate
from testbed.sim.scenario import Resource, Scenario
from testbed.sim.workload import draw_workload

WINDOW_S = 10.0
TABLE_10 = {"pure CPU": 1.0, "CPU intensive": 0.75, "balanced": 0.5, "I/O intensive": 0.25}
"""CPU seconds of the second that a flow takes, half before and half after its I/O."""


@dataclass(frozen=True)
class Ratios:
    """ratio (windows,), and what the capacities alone would say."""

    application: str
    ratio: NDArray[np.float64]
    by_capacity: float


def scenario(application: str) -> Scenario:
    cpu_s = TABLE_10[application]
    stages = (
        ((Resource.CPU, cpu_s),)
        if cpu_s == 1.0
        else ((Resource.CPU, cpu_s / 2), (Resource.IO, 1.0 - cpu_s), (Resource.CPU, cpu_s / 2))
    )
    some = episode(application, stages, 1.0)
    return episode(application, stages, CPU_LOAD * float(some.capacity_per_s().sum()))


def run(seeds: int) -> list[Ratios]:
    """The oracle's ratios over `seeds` episodes, the first window of each left out."""
    found = []
    for application in TABLE_10:
        of = scenario(application)
        edges = np.arange(WINDOW_S, of.duration_s + WINDOW_S / 2, WINDOW_S)
        capacity = of.capacity_per_s()
        ratios = []
        for seed in range(seeds):
            flows = draw_workload(of, seed)
            result = simulate(of, rule("oracle"), seed, flows)
            work_s = flows.work_s.sum(axis=1)
            above, below = (
                np.histogram(result.at_s[group], edges, weights=work_s[group])[0]
                for group in (result.server >= 4, result.server < 4)
            )
            ratios.append(above / below)
        by_capacity = float(capacity[4:].sum() / capacity[:4].sum())
        found.append(Ratios(application, np.concatenate(ratios), by_capacity))
    return found
