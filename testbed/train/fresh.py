"""`python -m testbed fresh`: policies on scenarios that no choice was ever made by.

Lives here: the draw and the table. Never here: scores (`validate`), the held-out suite, which was
looked at while the shipped policy was made.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np

from testbed.sim.policies import RuleError, rule, split
from testbed.stats import Interval, mean_interval
from testbed.train.validate import costs

FRESH_FROM = 200_000
"""Scenarios from this number on are looked at here only."""

POLICIES = "agent,agent-watched,ewma,ewma:1000,ewma:5000,least_time,hcl,lsq,sed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policies", default=POLICIES, help="the first is compared with the others"
    )
    parser.add_argument("--scenarios", type=int, default=200, help="2 at least")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())


def run(args: argparse.Namespace) -> int:
    """A row a policy: cost over the reference's, and over the first policy's, paired."""
    if args.scenarios < 2:
        raise SystemExit("--scenarios: an interval needs 2 at least")
    specs = split(args.policies)
    try:
        for spec in specs:
            rule(spec)
    except RuleError as error:
        raise SystemExit(f"--policies: {error}") from error
    numbers = range(FRESH_FROM, FRESH_FROM + args.scenarios)
    with ProcessPoolExecutor(args.jobs) as pool:
        found = {spec: np.array(list(pool.map(partial(costs, spec), numbers))) for spec in specs}
    for line in table(specs, found):
        print(line)
    return 0


def table(specs: Sequence[str], found: dict[str, np.ndarray]) -> list[str]:
    """In Markdown; geometric means of ratios over the scenarios, with 95 % intervals."""
    first = specs[0]
    lines = [f"| policy | over the reference | over {first} |", "| --- | --- | --- |"]
    for spec in specs:
        own = _ratio(mean_interval(found[spec]))
        beside = "" if spec == first else _ratio(mean_interval(found[spec] - found[first]))
        lines.append(f"| {spec} | {own} | {beside} |")
    return lines


def _ratio(logarithms: Interval) -> str:
    low, high = np.exp(logarithms.low), np.exp(logarithms.high)
    return f"{np.exp(logarithms.estimate):.3f} ({low:.3f} to {high:.3f})"
