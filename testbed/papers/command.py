"""`python -m testbed papers`: repeat figures of the papers in the simulator.

Lives here: flags, tables on the screen, files. Never here: runs, drawing.
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from testbed.stats import Interval

FIGURES = ("fig2a", "fig2b", "table3")
LEARNED = "learned"
"""Only on demand: it trains for hours, and needs torch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's flags."""
    parser.add_argument("only", nargs="*", choices=[[], *FIGURES, LEARNED], help="default: figures")
    parser.add_argument("--seeds", type=int, default=200, help="episodes a case, from seed 0")
    parser.add_argument("--report", type=Path, default=Path("report/papers"), metavar="FOLDER")
    learned = parser.add_argument_group(LEARNED, "Table 3's learned rows, trained anew")
    learned.add_argument("--trainings", type=int, default=3, help="of each agent, by seed")
    learned.add_argument("--episodes", type=int, default=500, help="of a training")
    learned.add_argument("--jobs", type=int, default=os.cpu_count())
    learned.add_argument("--application", help="only one, by its name in the table")


def run(args: argparse.Namespace) -> int:
    """One after another; pictures and `results.json` go into the report's folder."""
    from rich.console import Console

    if args.seeds < 2:
        raise SystemExit("--seeds: an interval needs 2 at least")
    console = Console()
    args.report.mkdir(parents=True, exist_ok=True)
    show = {
        "fig2a": _fig2a,
        "fig2b": _fig2b,
        "table3": _table3,
        LEARNED: partial(_learned, args),
    }
    path = args.report / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in args.only or FIGURES:
        results[name] = {"seeds": args.seeds, "rows": show[name](args.seeds, args.report, console)}
        path.write_text(json.dumps(results, indent=1))
    console.print(f"report: {args.report}")
    return 0


def _fig2a(seeds: int, report: Path, console: Console) -> list[dict[str, Any]]:
    import numpy as np

    from testbed.papers import fig2a, plots

    found = fig2a.run(seeds)
    plots.ratios(found, report / "sim-fig2a.png")
    rows = []
    for one in found:
        low, median, high = np.quantile(one.ratio, (0.05, 0.5, 0.95))
        rows.append(
            {
                "application": one.application,
                "median": float(median),
                "5%": float(low),
                "95%": float(high),
                "by capacity": one.by_capacity,
            }
        )
    _print(console, "Fig 2a: ratio of weights, 2 CPUs to 1", rows)
    return rows


def _fig2b(seeds: int, report: Path, console: Console) -> list[dict[str, Any]]:
    from testbed.papers import fig2b, plots

    # A run is as long as hundreds of episodes: a few of them say as much.
    found = fig2b.run(max(2, seeds // 20))
    plots.costs(found, report / "sim-fig2b.png")
    rows = [
        {
            "case": cost.case,
            "policy": cost.policy,
            "chain": cost.chain,
            "own view": cost.local.estimate,
            "95%": _half(cost.local),
        }
        for cost in found
    ]
    _print(console, "Fig 2b: weighted duration", rows)
    return rows


def _table3(seeds: int, report: Path, console: Console) -> list[dict[str, Any]]:
    from testbed.papers import table3

    cells = table3.run(seeds)
    rows = [
        {
            "application": cell.application,
            "policy": cell.policy,
            "mean s": cell.mean_s.estimate,
            "95%": _half(cell.mean_s),
            "deviation": cell.deviation_s,
            "ended in time": cell.ended_s.estimate,
            "to the oracle": cell.ratio.estimate,
            "ratio's 95%": f"{cell.ratio.low:.2f} to {cell.ratio.high:.2f}",
        }
        for cell in cells
    ]
    _print(console, "Table 3, simulated", rows)
    printed = [
        {
            "policy": policy,
            **{
                name: f"{m} ± {d}" for name, (m, d) in zip(table3.APPLICATIONS, values, strict=True)
            },
        }
        for policy, values in table3.PAPER.items()
    ]
    _print(console, "Table 3, as the paper prints it", printed)
    return rows


def _learned(
    args: argparse.Namespace, seeds: int, report: Path, console: Console
) -> list[dict[str, Any]]:
    from testbed.papers import learned, plots
    from testbed.papers.table3 import APPLICATIONS

    if args.application not in (None, *APPLICATIONS):
        raise SystemExit(
            f"--application: none is {args.application!r}; known: {', '.join(APPLICATIONS)}"
        )
    for flag in ("trainings", "episodes", "jobs"):
        if getattr(args, flag) < 1:
            raise SystemExit(f"--{flag}: must be at least 1")
    found: list[learned.Row] = []
    rows: list[dict[str, Any]] = []
    for row in learned.run(
        report,
        seeds,
        args.trainings,
        args.episodes,
        [args.application] if args.application else list(APPLICATIONS),
        args.jobs,
    ):
        found.append(row)
        rows.append(
            {
                "application": row.application,
                "policy": row.policy,
                "mean s": row.mean_s,
                "to the oracle": row.ratio.estimate,
                "ratio's 95%": f"{row.ratio.low:.2f} to {row.ratio.high:.2f}",
                "by training": ", ".join(f"{ratio:.2f}" for ratio in row.seeds_ratio),
                "episodes": str(row.episodes),
            }
        )
        # Training takes minutes a row: what there is is shown as it comes.
        console.print(*_cells(rows[-1]), sep="; ")
    plots.learning(found, report / "papers-learned.png")
    _print(console, f"Table 3, learned; the paper has {learned.EPISODES} episodes", rows)
    return rows


def _half(interval: Interval) -> float:
    return (interval.high - interval.low) / 2


def _print(console: Console, title: str, rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    shown = Table(title=title)
    for column, value in rows[0].items():
        shown.add_column(column, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        shown.add_row(*_cells(row))
    console.print(shown)


def _cells(row: dict[str, Any]) -> list[str]:
    return [v if isinstance(v, str) else f"{v:.3f}" for v in row.values()]
