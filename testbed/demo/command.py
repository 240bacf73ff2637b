"""`python -m testbed demo`: flags, and the whole demo from start to report.

Lives here: the flags and the order. Never here: measuring, display, files.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's flags; the defaults are `scenario.Scenario`'s."""
    from testbed.demo.scenario import Scenario

    default = {field.name: field.default for field in fields(Scenario)}
    parser.add_argument("--utilisation", type=float, default=default["utilisation"])
    parser.add_argument("--learn", action="store_true", help="the agent goes on learning")
    parser.add_argument("--warm-s", type=float, metavar="SECONDS", help="before the comparison")
    parser.add_argument("--run-s", type=float, default=default["run_s"], metavar="SECONDS")
    parser.add_argument("--repetitions", type=int, default=default["repetitions"])
    parser.add_argument("--seed", type=int, default=default["seed"])
    parser.add_argument("--report", type=Path, default=Path("report/demo"), metavar="FOLDER")


def run(args: argparse.Namespace) -> int:
    """0, or 1 where a process failed."""
    from testbed.demo.compare import CHANGED, CONFIGURED, Comparer
    from testbed.demo.figures import table, weights
    from testbed.demo.report import write
    from testbed.demo.scenario import Scenario
    from testbed.demo.screen import Screen, results
    from testbed.processes import ChildError, unwind_on_signals
    from testbed.stack import Stack

    unwind_on_signals()
    scenario = Scenario(
        utilisation=args.utilisation,
        learn=args.learn,
        warm_s=args.warm_s if args.warm_s is not None else (50.0 if args.learn else 5.0),
        run_s=args.run_s,
        repetitions=args.repetitions,
        seed=args.seed,
    )
    screen = Screen(scenario)
    screen.console.print(
        f"{len(scenario.speeds)} backends, lbd with 2 workers, the agent, "
        f"{scenario.rate_per_s:.0f} requests a second; {scenario.repetitions} comparisons with "
        f"the speeds as they were configured, {scenario.repetitions} after they have changed"
    )
    try:
        with Stack(scenario.stack()) as stack, screen:
            comparison = Comparer(stack, scenario, screen.look, screen.run).run()
    except ChildError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    for part in (CONFIGURED, CHANGED):
        screen.console.print(results(table(comparison, part), part))
    for part, found in weights(comparison).items():
        when = "not told" if found.settled_s is None else f"after {found.settled_s:.1f} s of load"
        far = "" if found.off is None else f", there within {found.off:.1f} times of the speeds"
        screen.console.print(f"{part}: the agent's weights were where they stayed {when}{far}")
    screen.console.print(f"report: {write(comparison, args.report)}")
    return 0
