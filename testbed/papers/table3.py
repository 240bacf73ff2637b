"""Table 3: the mean completion time of an episode, three applications, by policy.

Lives here: the runs and their figures, and what the paper prints. Never here: how they are shown.
The paper's rates are those at which an application takes 84.5% of the CPUs: 20.28/s (Table 9) where
half of its second is CPU time. There the I/O queues get 127% of what they can do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from testbed.papers.setups import simulator
from testbed.sim.policies import rule
from testbed.sim.run import simulate
from testbed.sim.scenario import Scenario
from testbed.sim.workload import draw_workload
from testbed.stats import Interval, mean_interval, ratio_interval

APPLICATIONS = {"50% CPU, 50% I/O": "cpu-50", "75% CPU, 25% I/O": "cpu-75", "100% CPU": "cpu"}
"""By the parts of the second that a flow takes: their names in the suite."""

PAPER: dict[str, tuple[tuple[float, float], ...]] = {
    "Oracle": ((6.437, 1.006), (1.469, 0.102), (1.291, 0.075)),
    "QMix-LB, PBF": ((10.230, 0.108), (1.828, 0.054), (2.200, 0.288)),
    "QMix-LB, VBF": ((10.936, 0.470), (2.023, 0.255), (2.125, 0.074)),
    "Distr-LB, VBF": ((10.335, 0.362), (1.695, 0.104), (1.643, 0.016)),
    "Distr-LB, VBF+logVBF": ((8.797, 0.459), (1.873, 0.328), (2.004, 0.042)),
}
"""Mean and deviation in s, by application in the order of APPLICATIONS."""

POLICIES = (
    "oracle",
    "sed-global",
    "sed-true",
    "sed",
    "lsq",
    "ewma",
    "least_time",
    "hcl",
    "hlb",
    "jiq",
    "p2c",
    "awcmp",
    "wcmp",
    "ecmp",
)


@dataclass(frozen=True)
class Cell:
    """A policy under an application, over paired episodes.

    mean_s: of all flows of an episode. deviation_s: of the episodes' means. ended_s: of the flows
    that ended within the episode alone. ratio: to the oracle's mean.
    """

    policy: str
    application: str
    mean_s: Interval
    deviation_s: float
    ended_s: Interval
    ratio: Interval


def scenario(application: str) -> Scenario:
    return simulator(APPLICATIONS[application])


def run(seeds: int) -> list[Cell]:
    """Every policy on the same episodes, `seeds` of them an application; two at least."""
    cells = []
    for application in APPLICATIONS:
        of = scenario(application)
        means = np.zeros((len(POLICIES), seeds))
        ended = np.zeros((len(POLICIES), seeds))
        for seed in range(seeds):
            flows = draw_workload(of, seed)
            for row, policy in enumerate(POLICIES):
                result = simulate(of, rule(policy), seed, flows)
                means[row, seed] = result.mean_s
                ended[row, seed] = result.fct_s[result.at_s + result.fct_s < of.duration_s].mean()
        for row, policy in enumerate(POLICIES):
            cells.append(
                Cell(
                    policy,
                    application,
                    mean_interval(means[row]),
                    float(means[row].std(ddof=1)),
                    mean_interval(ended[row]),
                    ratio_interval(means[row], means[0], seed=0),
                )
            )
    return cells
