"""One scenario on one seed under some policies, and the figures of each.

Lives here: what is played and what is kept of it, both small enough to travel between processes.
Never here: where it is played (`farm`), what was played before (`cache`), comparisons.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass

import numpy as np

from testbed.sim.policies import rule
from testbed.sim.run import simulate
from testbed.sim.scenario import Scenario
from testbed.sim.workload import draw_workload


@dataclass(frozen=True)
class Match:
    """`policies` are names that `testbed.sim.policies.rule` knows; all meet the same flows."""

    scenario: Scenario
    seed: int
    policies: tuple[str, ...]


@dataclass(frozen=True)
class Figures:
    """Of the flows judged in one run: completion times in seconds, counts by outcome.

    A flow that was not served counts as the scenario's timeout. cpu_s: what the run took of this
    process, the only figure that another run of the same would not repeat.
    """

    mean_s: float
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    flows: int
    finished: int
    rejected: int
    failed: int
    unrouted: int
    cpu_s: float


@dataclass(frozen=True)
class Failure:
    """A run that raised. traceback: as text, which travels between processes."""

    traceback: str


class MatchError(ValueError):
    """The match has no figures; the message names it and says why."""


def play(match: Match) -> tuple[Figures | Failure, ...]:
    """One entry a policy, in order; one that fails does not take the others with it.

    Raises RuleError for a policy that is none, MatchError if there is nothing to judge.
    """
    workload = draw_workload(match.scenario, match.seed)
    if not (workload.at_s >= match.scenario.warmup_s).any():
        raise MatchError(
            f"{match.scenario.name}, seed {match.seed}: no flow arrives after the warm-up; "
            "raise the rate or the duration"
        )
    played: list[Figures | Failure] = []
    for spec in match.policies:
        chosen = rule(spec)
        start_s = time.process_time()
        try:
            result = simulate(match.scenario, chosen, match.seed, workload)
        except Exception:
            played.append(Failure(traceback.format_exc()))
            continue
        cpu_s = time.process_time() - start_s
        quantiles = np.quantile(result.fct_s, (0.5, 0.9, 0.95, 0.99))
        played.append(
            Figures(
                result.mean_s,
                *(float(value) for value in quantiles),
                flows=len(result.fct_s),
                **result.counts(),
                cpu_s=cpu_s,
            )
        )
    return tuple(played)
