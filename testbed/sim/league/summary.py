"""The standings as tables of text, the same for the screen and for the report.

Lives here: which rows and columns. Never here: numbers (`standings`), how tables look.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from testbed.sim.league.standings import (
    FIGURES,
    Ratio,
    Standings,
    Verdict,
    learned,
    privileged,
)
from testbed.sim.policies import REFERENCE
from testbed.sim.suites import Goals
from testbed.stats import Interval

MEAN, P99 = FIGURES
NOTHING = "-"


@dataclass(frozen=True)
class Table:
    """The first column names the row."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(runs: pl.DataFrame, standings: Standings, goals: Goals) -> tuple[Table, ...]:
    """Everything, the most telling first."""
    return (
        overall(runs, standings, goals),
        worst(standings, goals),
        best(standings),
        *(beaten(standings, policy) for policy in standings.policies if learned(policy)),
        by_scenario(standings, MEAN, "Mean"),
        by_scenario(standings, P99, "99th percentile"),
        scenarios(runs),
    )


def overall(runs: pl.DataFrame, standings: Standings, goals: Goals) -> Table:
    """One row a policy, the best geometric mean first."""
    lost = {
        policy: 1.0 - finished / flows
        for policy, finished, flows in runs.group_by("policy")
        .agg(pl.col("finished").sum(), pl.col("flows").sum())
        .iter_rows()
    }
    geometric = {(entry.policy, entry.figure): entry.interval for entry in standings.overall}
    rows = []
    for policy in standings.policies:
        verdicts = [
            [r.verdict for r in standings.to_rival if r.policy == policy and r.figure == figure]
            for figure in FIGURES
        ]
        rows.append(
            (
                policy + (" *" if privileged(policy) else ""),
                bounded(geometric[policy, MEAN]),
                bounded(geometric[policy, P99]),
                *(_highest(standings, policy, figure) for figure in FIGURES),
                *("/".join(str(v.count(kind)) for kind in Verdict) for v in verdicts),
                _reached(standings, policy, goals),
                f"{lost[policy]:.2%}",
            )
        )
    return Table(
        "Overall",
        f"Ratios to {REFERENCE}: geometric mean over the scenarios with its 95% interval, and the "
        "worst scenario. Beside the best other heuristic of each scenario: in how many better / "
        "tied / worse beyond the 95% interval. Goals: kinds whose worst scenario keeps to the "
        "suite's. Lost: flows not served. * knows what no balancer does, and is nobody's rival.",
        (
            "policy",
            "mean",
            "p99",
            "worst mean",
            "worst p99",
            "beside best: mean",
            "p99",
            "goals",
            "lost",
        ),
        tuple(rows),
    )


def worst(standings: Standings, goals: Goals) -> Table:
    """The worst scenario of each kind: one row a policy, mean and p99 in a cell."""
    found = {(r.kind, r.policy, r.figure): r for r in standings.worst}
    kinds = list(dict.fromkeys(r.kind for r in standings.worst))
    rows = []
    for policy in standings.policies:
        cells = []
        for kind in kinds:
            mean, p99 = (found[kind, policy, figure].interval.estimate for figure in FIGURES)
            kept = kind in goals and mean <= goals[kind][0] and p99 <= goals[kind][1]
            cells.append(f"{short(mean)} / {short(p99)}{' ✓' if kept else ''}")
        rows.append((policy, *cells))
    goal = ("goal", *(" / ".join(f"{g:.2f}" for g in goals.get(k, ())) or NOTHING for k in kinds))
    return Table(
        "Worst scenario of each kind",
        f"Ratio to {REFERENCE}, mean / p99, each of the scenario where it is highest. "
        "✓ keeps to both goals.",
        ("policy", *kinds),
        (*rows, goal),
    )


def best(standings: Standings) -> Table:
    """One row a scenario: the best heuristic, and who is no worse beyond the interval."""
    rows = []
    for scenario in _scenarios(standings):
        cells = []
        for figure in FIGURES:
            here = [r for r in standings.to_rival if r.scenario == scenario and r.figure == figure]
            # The reference is nobody's rival, so that its own rival is the best.
            first = next((r.against for r in here if r.policy == REFERENCE), NOTHING)
            equal = [
                r.policy
                for r in here
                if r.policy != first and not privileged(r.policy) and r.verdict != Verdict.WORSE
            ]
            cells += [first, ", ".join(equal) or NOTHING]
        rows.append((scenario, *cells))
    return Table(
        "Best heuristic of each scenario",
        "All that stand in neither cell are worse than the best heuristic beyond the 95% interval.",
        ("scenario", "best mean", "not worse", "best p99", "not worse"),
        tuple(rows),
    )


def beaten(standings: Standings, policy: str) -> Table:
    """Where the policy is worse than the best heuristic beyond the interval."""
    rows = tuple(
        (r.scenario, "mean" if r.figure == MEAN else "p99", r.against, bounded(r.interval))
        for r in standings.to_rival
        if r.policy == policy and r.verdict == Verdict.WORSE
    )
    return Table(
        f"Where {policy} is worse than the best heuristic",
        "Beyond the 95% interval." if rows else "Nowhere beyond the 95% interval.",
        ("scenario", "figure", "best", "ratio to it"),
        rows,
    )


def by_scenario(standings: Standings, figure: str, title: str) -> Table:
    """One row a policy, one column a scenario."""
    names = _scenarios(standings)
    found = {(r.scenario, r.policy): r for r in standings.to_reference if r.figure == figure}
    return Table(
        f"{title} by scenario",
        f"Ratio to {REFERENCE} with its 95% interval.",
        ("policy", *names),
        tuple(
            (policy, *(bounded(found[name, policy].interval) for name in names))
            for policy in standings.policies
        ),
    )


def scenarios(runs: pl.DataFrame) -> Table:
    """One row a scenario: how the reference does in it, in absolute figures."""
    reference = runs.filter(pl.col("policy") == REFERENCE)
    rows = []
    for (scenario, kind), group in reference.group_by("scenario", "kind", maintain_order=True):
        flows = group["flows"].sum()
        rows.append(
            (
                str(scenario),
                str(kind),
                f"{flows / len(group):,.0f}",
                *(f"{group[figure].mean() * 1e3:.4g}" for figure in FIGURES),
                f"{1 - group['finished'].sum() / flows:.2%}",
            )
        )
    return Table(
        "Scenarios",
        f"{REFERENCE} itself.",
        ("scenario", "kind", "flows a run", "mean, ms", "p99, ms", "lost"),
        tuple(rows),
    )


def bounded(interval: Interval) -> str:
    """`1.18 (1.17-1.20)`, without bounds where one run alone gives none."""
    if interval.low == interval.estimate == interval.high or interval.high == float("inf"):
        return short(interval.estimate)
    return f"{short(interval.estimate)} ({short(interval.low)}-{short(interval.high)})"


def short(ratio: float) -> str:
    """Two decimals below ten, none from there on."""
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.0f}"


def _scenarios(standings: Standings) -> list[str]:
    return list(dict.fromkeys(r.scenario for r in standings.to_reference))


def _highest(standings: Standings, policy: str, figure: str) -> str:
    of = [r for r in standings.worst if r.policy == policy and r.figure == figure]
    highest: Ratio = max(of, key=lambda r: r.interval.estimate)
    return f"{short(highest.interval.estimate)} {highest.scenario}"


def _reached(standings: Standings, policy: str, goals: Goals) -> str:
    worst_of = {
        (r.kind, r.figure): r.interval.estimate for r in standings.worst if r.policy == policy
    }
    kinds = [kind for kind in goals if (kind, MEAN) in worst_of]
    kept = [
        kind
        for kind in kinds
        if all(worst_of[kind, f] <= goal for f, goal in zip(FIGURES, goals[kind], strict=True))
    ]
    return f"{len(kept)} of {len(kinds)}"
