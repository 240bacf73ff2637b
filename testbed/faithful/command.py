"""`python -m testbed faithful`: flags, rounds, table.

Lives here: the flags and the order. Never here: measuring, statistics, files.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's flags; the defaults are `setting.Setting`'s."""
    from testbed.faithful.setting import Setting

    default = {field.name: field.default for field in fields(Setting)}
    parser.add_argument("--utilisation", type=float, default=default["utilisation"])
    parser.add_argument(
        "--mean-ms", type=float, default=default["mean_work_s"] * 1e3, help="mean work of a request"
    )
    parser.add_argument("--run-s", type=float, default=default["run_s"], metavar="SECONDS")
    parser.add_argument("--rounds", type=int, default=default["rounds"])
    parser.add_argument("--seed", type=int, default=default["seed"])
    parser.add_argument("--report", type=Path, default=Path("report/faithful"), metavar="FOLDER")


def run(args: argparse.Namespace) -> int:
    """0, or 1 where a process failed or a mean misses the bar."""
    from rich.console import Console

    from testbed.faithful.compare import Pair, compare
    from testbed.faithful.figures import rows
    from testbed.faithful.report import tables, write
    from testbed.faithful.setting import Setting
    from testbed.processes import ChildError, unwind_on_signals
    from testbed.stack import Stack

    unwind_on_signals()
    console = Console()
    setting = Setting(
        utilisation=args.utilisation,
        mean_work_s=args.mean_ms / 1e3,
        run_s=args.run_s,
        rounds=args.rounds,
        seed=args.seed,
    )

    def say(pair: Pair) -> None:
        live_ms, simulated_ms = pair.live_s.mean() * 1e3, pair.simulated_s.mean() * 1e3
        console.print(
            f"round {pair.round_number + 1}, {pair.method}: live {live_ms:.1f} ms, "
            f"simulated {simulated_ms:.1f}, ratio {live_ms / simulated_ms:.3f}; "
            f"overhead {pair.overhead.inside_s * 1e3:.2f} ms inside, "
            f"{pair.overhead.outside_s * 1e3:.2f} outside; cores busy {pair.busy:.0%}, "
            f"lag p99 {pair.lag_p99_s * 1e3:.1f} ms"
        )

    console.print(
        f"{len(setting.speeds)} backends, {setting.rate_per_s:.0f} requests a second, "
        f"{setting.rounds} rounds of {len(setting.methods)} methods"
    )
    pairs: list[Pair] = []
    try:
        with Stack(setting.stack()) as stack:
            for pair in compare(stack, setting):
                pairs.append(pair)
                say(pair)
                # Each time: whoever stops it early keeps what there is.
                write(setting, pairs, args.report)
    except ChildError as error:
        print(f"faithful: {error}", file=sys.stderr)
        return 1
    found = rows(pairs)
    for table in tables(found):
        console.print(table)
    console.print(f"report: {args.report}")
    return 0 if all(row.close for row in found) else 1
