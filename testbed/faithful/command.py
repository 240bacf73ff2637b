"""`python -m testbed faithful`: flags, rounds, tables.

Lives here: the flags and the order. Never here: measuring, statistics, files.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from testbed.faithful.compare import Pair
    from testbed.faithful.kept import Kept
    from testbed.faithful.setting import Setting
    from testbed.stack import ServiceSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's flags; the defaults are `setting.Setting`'s."""
    from testbed.faithful.setting import METHODS, Setting

    default = {field.name: field.default for field in fields(Setting)}
    names = ",".join(method.name for method in METHODS)
    parser.add_argument("--methods", type=_methods, default=METHODS, help=f"default: {names}")
    parser.add_argument("--utilisation", type=float, default=default["utilisation"])
    parser.add_argument(
        "--mean-ms", type=float, default=default["mean_work_s"] * 1e3, help="mean work of a request"
    )
    parser.add_argument("--run-s", type=float, default=default["run_s"], metavar="SECONDS")
    parser.add_argument("--rounds", type=int, default=default["rounds"])
    parser.add_argument("--seed", type=int, default=default["seed"])
    parser.add_argument("--report", type=Path, default=Path("report/faithful"), metavar="FOLDER")
    parser.add_argument(
        "--into", type=Path, metavar="PAGE", help="put the tables between this page's marks, too"
    )


def _methods(names: str) -> tuple[ServiceSpec, ...]:
    from testbed.faithful.setting import METHODS

    known = {method.name: method for method in METHODS}
    for name in names.split(","):
        if name not in known:
            raise argparse.ArgumentTypeError(f"no method {name!r}; known: {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names.split(",")))


def run(args: argparse.Namespace) -> int:
    """0; 1 where a process failed or a mean misses the bar; 2 for a page without the marks."""
    from rich.console import Console

    from testbed.faithful import report
    from testbed.faithful.kept import Kept
    from testbed.faithful.setting import METHODS, Setting
    from testbed.processes import ChildError, unwind_on_signals

    unwind_on_signals()
    console = Console()
    setting = Setting(
        utilisation=args.utilisation,
        mean_work_s=args.mean_ms / 1e3,
        run_s=args.run_s,
        rounds=args.rounds,
        seed=args.seed,
        methods=args.methods,
    )
    if args.into is not None:
        try:
            report.check(args.into)
        except (OSError, report.PageError) as error:
            print(f"faithful: {error}", file=sys.stderr)
            return 2
    kept = Kept(args.report / "runs", setting)
    status = 0
    try:
        _play(setting, kept, console)
    except ChildError as error:
        print(f"faithful: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        status = 130
    # Whatever there is, also from commands with other methods.
    close = _report(replace(setting, methods=METHODS), kept, args.report, console)
    if args.into is not None and not status:
        report.put(args.report, args.into)
    return status or int(not close)


def _play(setting: Setting, kept: Kept, console: Console) -> None:
    from testbed.faithful.compare import expected_s, pair, play, turns
    from testbed.stack import Stack

    console.print(
        f"{len(setting.speeds)} backends, {setting.rate_per_s:.0f} requests a second, "
        f"{setting.rounds} rounds of {len(setting.methods)} methods"
    )
    left = [turn for turn in turns(setting) if kept.get(*turn) is None]
    if not left:
        console.print("all of them are there")
        return
    takes_s = {method.name: expected_s(setting, method) for method in setting.methods}
    total_s = sum(takes_s[method.name] for method, _ in left)
    console.print(f"runs to go: {len(left)}, about {total_s / 60:.1f} minutes")
    with Stack(setting.stack()) as stack:
        for method, number in left:
            lived = play(stack, setting, method, number)
            kept.put(method, number, lived)
            _say(pair(setting, method, number, lived), console)


def _say(pair: Pair, console: Console) -> None:
    live_ms, simulated_ms = pair.live_s.mean() * 1e3, pair.simulated_s.mean() * 1e3
    console.print(
        f"round {pair.round_number + 1}, {pair.method}: live {live_ms:.1f} ms, "
        f"simulated {simulated_ms:.1f}, ratio {live_ms / simulated_ms:.3f}; "
        f"overhead {pair.overhead.inside_s * 1e3:.2f} ms inside, "
        f"{pair.overhead.outside_s * 1e3:.2f} outside; cores busy {pair.busy:.0%}, "
        f"lag p99 {pair.lag_p99_s * 1e3:.1f} ms"
    )


def _report(setting: Setting, kept: Kept, folder: Path, console: Console) -> bool:
    """Show and write what is kept; whether every mean meets the bar."""
    from testbed.faithful.compare import pair
    from testbed.faithful.figures import rows
    from testbed.faithful.report import tables, write

    pairs = [
        pair(setting, method, number, lived)
        for method in setting.methods
        for number in range(setting.rounds)
        if (lived := kept.get(method, number)) is not None
    ]
    if not pairs:
        return True
    found = rows(pairs)
    for table in tables(found):
        console.print(table)
    write(setting, pairs, folder)
    console.print(f"report: {folder}")
    return all(row.close for row in found)
