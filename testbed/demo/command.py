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
    parser.add_argument("--learn-s", type=float, default=default["learn_s"], metavar="SECONDS")
    parser.add_argument("--run-s", type=float, default=default["run_s"], metavar="SECONDS")
    parser.add_argument("--repetitions", type=int, default=default["repetitions"])
    parser.add_argument("--seed", type=int, default=default["seed"])
    parser.add_argument("--report", type=Path, default=Path("report/demo"), metavar="FOLDER")


def run(args: argparse.Namespace) -> int:
    """0, or 1 where a process failed."""
    from testbed.demo.compare import Comparer
    from testbed.demo.figures import table
    from testbed.demo.report import write
    from testbed.demo.scenario import Scenario
    from testbed.demo.screen import Screen, results
    from testbed.processes import ChildError, unwind_on_signals
    from testbed.stack import Stack

    unwind_on_signals()
    scenario = Scenario(
        utilisation=args.utilisation,
        learn_s=args.learn_s,
        run_s=args.run_s,
        repetitions=args.repetitions,
        seed=args.seed,
    )
    screen = Screen(scenario)
    screen.console.print(
        f"{len(scenario.speeds)} backends, lbd with 2 workers, the agent, "
        f"{scenario.rate_per_s:.0f} requests a second; the agent learns for "
        f"{scenario.learn_s:g} s, then {scenario.repetitions} comparisons"
    )
    try:
        with Stack(scenario.stack()) as stack, screen:
            comparison = Comparer(stack, scenario, screen.look, screen.run).run()
    except ChildError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    screen.console.print(results(table(comparison)))
    screen.console.print(f"report: {write(comparison, args.report)}")
    return 0
