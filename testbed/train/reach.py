"""`python -m testbed reach`: what constant actions could reach in a scenario, by evolution.

Lives here: a search by CMA-ES over b, memory and kappa, one scenario at a time, and the table that
puts what it finds beside a policy that has to guess. Never here: training; what is found is
privileged, for the search may play a scenario as often as it likes.
Source: Hansen, "The CMA Evolution Strategy: A Tutorial" (2016).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from cmaes import CMA

from testbed.sim import suites
from testbed.sim.policies import REFERENCE, Rule, RuleError, rule
from testbed.sim.run import simulate
from testbed.sim.scenario import Scenario
from testbed.sim.workload import draw_workload
from testbed.stats import Interval, ratio_interval
from testbed.train.tables import NEUTRAL, Place, constant, cost

EXIT_USAGE = 2
SEARCHED_FROM = 10_000
"""Seeds that are searched on; those of the table begin at 0, as the league's do."""
SEARCHED_SEEDS = 2
PERIOD_S = 0.25
BOUNDS = np.array([(-1.0, 1.0)] * len(NEUTRAL))
SIGMA = 0.4


@dataclass(frozen=True)
class Reached:
    """Of one scenario. place: what the search found; ratios to the reference, of the mean and of
    the 99th percentile, of what was found and of the policy beside it."""

    scenario: str
    place: Place
    found: tuple[Interval, Interval]
    beside: tuple[Interval, Interval]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", default="held-out", help="a name or a YAML file")
    parser.add_argument("--scenarios", help="only these of the suite, with commas between")
    parser.add_argument("--beside", default="agent", help="a policy to show beside it")
    parser.add_argument("--generations", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=10, help="that the table is of, 2 at least")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())


def run(args: argparse.Namespace) -> int:
    """A row a scenario, in Markdown, as they come."""
    if args.seeds < 2 or args.generations < 1:
        print("reach: --seeds must be 2 at least, --generations 1", file=sys.stderr)
        return EXIT_USAGE
    try:
        rule(args.beside)
        chosen = suites.chosen(suites.load(suites.find(args.suite)), args.scenarios)
    except (RuleError, suites.SuiteError) as error:
        print(f"reach: {error}", file=sys.stderr)
        return EXIT_USAGE
    work = partial(reach, args.beside, args.generations, args.seeds)
    print(f"| scenario | b, memory, kappa (u) | found: mean, p99 | {args.beside}: mean, p99 |")
    print("| --- | --- | --- | --- |", flush=True)
    with ProcessPoolExecutor(args.jobs) as pool:
        for one in pool.map(work, chosen):
            print(line(one), flush=True)
    return 0


def reach(beside: str, generations: int, seeds: int, scenario: Scenario) -> Reached:
    """Search on some seeds, then judge on others."""
    place = search(scenario, generations)
    judged = [figures(scenario, each, seeds) for each in (_held(place), rule(beside))]
    reference = figures(scenario, rule(REFERENCE), seeds)
    found, other = (
        (
            ratio_interval(one[:, 0], reference[:, 0], seed=0),
            ratio_interval(one[:, 1], reference[:, 1], seed=0),
        )
        for one in judged
    )
    return Reached(scenario.name, place, found, other)


def search(scenario: Scenario, generations: int) -> Place:
    """The mean of the last generation: less a matter of luck than the best of all tried."""
    workloads = {
        seed: draw_workload(scenario, seed)
        for seed in range(SEARCHED_FROM, SEARCHED_FROM + SEARCHED_SEEDS)
    }
    strategy = CMA(mean=np.array(NEUTRAL) * 0.5, sigma=SIGMA, bounds=BOUNDS, seed=0)
    for _ in range(generations):
        told = []
        for _ in range(strategy.population_size):
            place = strategy.ask()
            results = [
                simulate(scenario, _held(_place(place)), seed, flows)
                for seed, flows in workloads.items()
            ]
            told.append((place, float(np.mean([cost(result.fct_s) for result in results]))))
        strategy.tell(told)
    return _place(strategy.mean)


def figures(scenario: Scenario, by: Rule, seeds: int) -> np.ndarray:
    """(seeds, 2) mean and 99th percentile of completion times, in seconds."""
    found = []
    for seed in range(seeds):
        result = simulate(scenario, by, seed, draw_workload(scenario, seed))
        found.append((result.mean_s, result.quantile_s(0.99)))
    return np.array(found)


def line(of: Reached) -> str:
    """One row of the table."""
    place = ", ".join(f"{u:+.2f}" for u in of.place)
    return f"| {of.scenario} | {place} | {_ratios(of.found)} | {_ratios(of.beside)} |"


def _held(place: Place) -> Rule:
    return constant(place, PERIOD_S)


def _place(values: Sequence[float] | np.ndarray) -> Place:
    offset, memory, busy = (float(value) for value in values)
    return offset, memory, busy


def _ratios(of: tuple[Interval, Interval]) -> str:
    return ", ".join(f"{one.estimate:.2f} ({one.low:.2f} to {one.high:.2f})" for one in of)
