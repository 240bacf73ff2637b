"""`python -m testbed learn`: several seeds of the learning experiment, a table and a plot.

Lives here: flags, table, files. Never here: the run (`experiment`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testbed.learn.experiment import Curve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's flags."""
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--duration", type=float, default=150.0, help="seconds a seed")
    parser.add_argument("--report", type=Path, default=Path("report/learn"), metavar="FOLDER")


def run(args: argparse.Namespace) -> int:
    """Run the seeds one after another."""
    from rich.console import Console

    from testbed.learn.experiment import run as run_seed
    from testbed.processes import unwind_on_signals

    unwind_on_signals()
    console = Console()
    curves = []
    for seed in range(args.seeds):
        curve = run_seed(seed, args.duration)
        curves.append(curve)
        console.print(
            f"seed {seed}: rank correlation {curve.agreement()[-1]:.2f}, "
            f"pairs ranked rightly {curve.pairs_right():.0%}"
        )
    args.report.mkdir(parents=True, exist_ok=True)
    _plot(curves, args.report / "learn.png")
    figures = [
        {
            "seed": curve.seed,
            "speeds": curve.speeds.tolist(),
            "weights": curve.smoothed()[-1].tolist(),
            "spearman": curve.agreement()[-1],
            "pairs_right": curve.pairs_right(),
        }
        for curve in curves
    ]
    (args.report / "results.json").write_text(json.dumps(figures, indent=1))
    console.print(f"report: {args.report}")
    return 0


def _plot(curves: list[Curve], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for curve in curves:
        axes.plot(curve.at_s, curve.agreement(), label=f"seed {curve.seed}", linewidth=1)
    axes.set(xlabel="seconds of learning", ylabel="rank correlation of weights and speeds")
    axes.set_ylim(-1, 1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
