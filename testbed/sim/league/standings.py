"""Who is how much worse than the reference, and who is worse than the best heuristic.

Lives here: statistics over the table of runs. Never here: playing them, files.
Ratios are of sums over paired seeds, with 95% bootstrap intervals over the seeds. Every heuristic
that was played and needs nothing that a balancer cannot know is a rival; those that do need it
(`privileged`) and what has learned (`learned`) are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import polars as pl
from numpy.typing import NDArray

from testbed.sim.compiled.dispatch import GLOBAL_SED, ORACLE
from testbed.sim.policies import REFERENCE, WATCHED, rule
from testbed.stats import Interval, geometric_interval, ratio_interval

FIGURES = ("mean_s", "p99_s")
"""What is compared."""

Floats = NDArray[np.float64]


class Verdict(StrEnum):
    """Where 1 lies beside the interval of a ratio to the best rival: above, inside or below it."""

    BETTER = "better"
    TIED = "tied"
    WORSE = "worse"


@dataclass(frozen=True)
class Ratio:
    """One policy's figure over another's in a scenario."""

    scenario: str
    kind: str
    policy: str
    figure: str
    against: str
    interval: Interval

    @property
    def verdict(self) -> Verdict:
        if self.interval.low > 1.0:
            return Verdict.WORSE
        return Verdict.BETTER if self.interval.high < 1.0 else Verdict.TIED


@dataclass(frozen=True)
class Overall:
    """The geometric mean over all scenarios of a policy's ratios to the reference."""

    policy: str
    figure: str
    interval: Interval


@dataclass(frozen=True)
class Standings:
    """to_reference, to_rival: one entry a scenario, policy and figure (no rival without another
    heuristic). worst: of to_reference, the highest of each kind, policy and figure. overall: one
    entry a policy and figure, the best mean first."""

    to_reference: tuple[Ratio, ...]
    to_rival: tuple[Ratio, ...]
    worst: tuple[Ratio, ...]
    overall: tuple[Overall, ...]

    @property
    def policies(self) -> tuple[str, ...]:
        """The best mean first."""
        return tuple(entry.policy for entry in self.overall if entry.figure == FIGURES[0])


def privileged(spec: str) -> bool:
    """Whether the policy knows capacities, sizes or others' queues, which no balancer does."""
    if learned(spec):
        return False
    chosen = rule(spec)
    return chosen.weights == "true" or chosen.code in (GLOBAL_SED, ORACLE)


def learned(spec: str) -> bool:
    """Whether the policy is an agent's."""
    return spec == WATCHED or spec.partition(":")[0] == "agent"


def stand(runs: pl.DataFrame) -> Standings:
    """`runs` as `season.play_season` returns it, the reference among its policies."""
    values = _by_figure(runs)
    kinds = dict(runs.select("scenario", "kind").unique(maintain_order=True).iter_rows())
    policies = runs["policy"].unique(maintain_order=True).to_list()
    rivals = [p for p in policies if not privileged(p) and not learned(p)]

    def ratio(scenario: str, policy: str, figure: str, against: str) -> Ratio:
        of = values[figure]
        interval = ratio_interval(of[scenario, policy], of[scenario, against], seed=0)
        return Ratio(scenario, kinds[scenario], policy, figure, against, interval)

    to_reference, to_rival = [], []
    for scenario in kinds:
        for figure in FIGURES:
            best_first = sorted(rivals, key=lambda p: values[figure][scenario, p].sum())
            for policy in policies:
                to_reference.append(ratio(scenario, policy, figure, REFERENCE))
                others = [rival for rival in best_first if rival != policy]
                if others:
                    to_rival.append(ratio(scenario, policy, figure, others[0]))
    overall = [
        Overall(policy, figure, _geometric(values[figure], list(kinds), policy))
        for figure in FIGURES
        for policy in policies
    ]
    return Standings(
        tuple(to_reference),
        tuple(to_rival),
        _worst(to_reference),
        tuple(sorted(overall, key=lambda entry: (entry.figure, entry.interval.estimate))),
    )


def _by_figure(runs: pl.DataFrame) -> dict[str, dict[tuple[str, str], Floats]]:
    """Figure, then scenario and policy, to one value a seed in the order of the seeds."""
    values: dict[str, dict[tuple[str, str], Floats]] = {figure: {} for figure in FIGURES}
    for (scenario, policy), group in runs.sort("seed").group_by("scenario", "policy"):
        for figure in FIGURES:
            values[figure][scenario, policy] = group[figure].to_numpy()
    return values


def _geometric(
    values: Mapping[tuple[str, str], Floats], scenarios: Sequence[str], policy: str
) -> Interval:
    pairs = [(values[scenario, policy], values[scenario, REFERENCE]) for scenario in scenarios]
    return geometric_interval(pairs, seed=0)


def _worst(ratios: Sequence[Ratio]) -> tuple[Ratio, ...]:
    worst: dict[tuple[str, str, str], Ratio] = {}
    for ratio in ratios:
        at = (ratio.kind, ratio.policy, ratio.figure)
        if at not in worst or ratio.interval.estimate > worst[at].interval.estimate:
            worst[at] = ratio
    return tuple(worst.values())
