"""A league from start to end: what is known is not played again, what is played is kept at once.

Lives here: the order of matches, and the table of runs. Never here: statistics (`standings`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import polars as pl

from testbed.sim.league.cache import Cache
from testbed.sim.league.content import key, rule_digest, scenario_digest
from testbed.sim.league.farm import Farm
from testbed.sim.league.match import Failure, Figures, Match
from testbed.sim.scenario import Scenario

Progress = Callable[[Scenario, int], None]
"""Called with a scenario and how many of its runs are known more than before."""


class SeasonError(RuntimeError):
    """Runs failed; the message counts them and has the first one's traceback."""


def play_season(
    suite: Sequence[Scenario],
    policies: Sequence[str],
    seeds: Sequence[int],
    farm: Farm,
    cache: Cache,
    progress: Progress = lambda scenario, runs: None,
) -> pl.DataFrame:
    """One row a run: scenario, kind, policy, seed and the fields of Figures, in that order.

    What was played stays in the cache also when an exception ends the season. Runs that fail do
    not: the others are played, then SeasonError is raised.
    """
    runs = [(s, policy, seed) for s in suite for policy in policies for seed in seeds]
    rules = {policy: rule_digest(policy) for policy in policies}
    scenarios = {scenario.name: scenario_digest(scenario) for scenario in suite}
    keys = {
        (s.name, policy, seed): key(scenarios[s.name], rules[policy], seed)
        for s, policy, seed in runs
    }
    known = cache.get(keys.values())
    for scenario in suite:
        names = [keys[scenario.name, policy, seed] for policy in policies for seed in seeds]
        progress(scenario, sum(name in known for name in names))
    failures: list[str] = []
    for match, played in farm(_matches(suite, policies, seeds, keys, known)):
        fresh: dict[str, Figures] = {}
        for policy, one in zip(match.policies, played, strict=True):
            if isinstance(one, Failure):
                run = f"{match.scenario.name}, {policy}, seed {match.seed}"
                failures.append(f"{run}:\n{one.traceback}")
            else:
                fresh[keys[match.scenario.name, policy, match.seed]] = one
        cache.put(fresh)
        known |= fresh
        progress(match.scenario, len(fresh))
    if failures:
        raise SeasonError(f"{len(failures)} of {len(runs)} runs failed, first {failures[0]}")
    return pl.DataFrame(
        [
            {"scenario": s.name, "kind": s.kind, "policy": policy, "seed": seed}
            | asdict(known[keys[s.name, policy, seed]])
            for s, policy, seed in runs
        ]
    )


def _matches(
    suite: Sequence[Scenario],
    policies: Sequence[str],
    seeds: Sequence[int],
    keys: dict[tuple[str, str, int], str],
    known: dict[str, Figures],
) -> list[Match]:
    """What is left to play, the longest first so that no core waits for another at the end."""
    matches = []
    for scenario in sorted(suite, key=lambda s: s.balancers * s.duration_s, reverse=True):
        for seed in seeds:
            left = tuple(p for p in policies if keys[scenario.name, p, seed] not in known)
            if left:
                matches.append(Match(scenario, seed, left))
    return matches
