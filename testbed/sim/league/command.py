"""`python -m testbed league`: play a suite, show who stands where, write the report.

Lives here: flags, bars, tables on the screen. Never here: matches, statistics, files.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from testbed.sim.league.farm import Farm
    from testbed.sim.league.season import Progress
    from testbed.sim.league.summary import Table
    from testbed.sim.scenario import Scenario

DEFAULT_POLICIES = (
    "sed-global,rr,wrr,ecmp,wcmp,lsq,sed,p2c,ewma:20,ewma,ewma:1000,ewma:5000,least_time,hcl,jiq,"
    "maglev,source_hash,awcmp,hlb,wcmp-true,sed-true,oracle,agent,agent-watched"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's flags."""
    parser.add_argument("--suite", default="held-out", help="a name or a YAML file")
    parser.add_argument("--scenarios", help="only these of the suite, with commas between")
    parser.add_argument("--policies", default=DEFAULT_POLICIES, help="with commas between")
    parser.add_argument("--seeds", type=_positive, default=10, help="how many, from 0")
    parser.add_argument("--jobs", type=_positive, default=os.cpu_count(), help="processes")
    parser.add_argument("--ray", metavar="ADDRESS", help="play on this Ray cluster, not here")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: report/league/SUITE")
    parser.add_argument("--cache", type=Path, default=Path("report/league/runs.sqlite"))


def run(args: argparse.Namespace) -> int:
    """Exit status 2 if a policy, scenario, suite, file or cluster is none; 1 if a run failed."""
    from rich.console import Console

    from testbed.load.trace import TraceError
    from testbed.processes import unwind_on_signals
    from testbed.sim.league.farm import FarmError, cluster, here
    from testbed.sim.league.match import MatchError
    from testbed.sim.league.season import SeasonError
    from testbed.sim.policies import RuleError
    from testbed.sim.suites import SuiteError

    unwind_on_signals()
    # A log has room for the widest table.
    console = Console(width=None if sys.stdout.isatty() else 180)
    try:
        _play(args, console, cluster(args.ray) if args.ray else here(args.jobs))
    except (FarmError, MatchError, OSError, RuleError, SuiteError, TraceError) as error:
        print(f"league: {error}", file=sys.stderr)
        return 2
    except sqlite3.Error as error:
        print(f"league: {args.cache}: {error}", file=sys.stderr)
        return 2
    except SeasonError as error:
        print(f"league: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        return 130
    return 0


def _play(args: argparse.Namespace, console: Console, farm: Farm) -> None:
    from testbed.sim import suites
    from testbed.sim.league import report, summary
    from testbed.sim.league.cache import Cache
    from testbed.sim.league.season import play_season
    from testbed.sim.league.standings import stand
    from testbed.sim.policies import REFERENCE, split

    path = suites.find(args.suite)
    suite = suites.load(path)
    scenarios = suites.chosen(suite, args.scenarios)
    policies = tuple(dict.fromkeys((REFERENCE, *split(args.policies))))
    folder = args.out or Path("report/league") / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    start_s = time.perf_counter()
    with _bars(console, scenarios, len(policies) * args.seeds) as progress:
        runs = play_season(
            scenarios, policies, range(args.seeds), farm, Cache(args.cache), progress
        )
    took_s = time.perf_counter() - start_s
    standings = stand(runs)
    tables = summary.tables(runs, standings, suite.goals)
    for table in tables[:2]:
        _show(console, table)
    title = (
        f"League of {path.stem}: {len(policies)} policies, {len(scenarios)} scenarios, "
        f"{args.seeds} seeds"
    )
    page = report.write(folder, title, runs, standings, tables)
    console.print(f"{len(runs)} runs, {runs['flows'].sum():,} judged flows, {took_s:.0f} s")
    console.print(f"report: {page}")


class _bars:
    """A bar of all runs, and one of each scenario in play."""

    def __init__(self, console: Console, suite: Sequence[Scenario], runs: int) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._total = self._progress.add_task("all", total=runs * len(suite))
        self._of = {
            scenario.name: self._progress.add_task(scenario.name, total=runs, visible=False)
            for scenario in suite
        }

    def __enter__(self) -> Progress:
        self._progress.start()
        return self._advance

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _advance(self, scenario: Scenario, runs: int) -> None:
        task = self._of[scenario.name]
        self._progress.advance(self._total, runs)
        self._progress.advance(task, runs)
        finished = self._progress.tasks[task].finished
        self._progress.update(task, visible=runs > 0 and not finished)


def _show(console: Console, table: Table) -> None:
    from rich.table import Table as Shown

    shown = Shown(title=table.title, caption=table.note)
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return value
