"""`python -m testbed bench`: run the benchmarks, print them, store them as JSON.

Lives here: flags, printing, the file. Never here: a measurement.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
from pathlib import Path
from typing import Any

BENCHES = {
    "dispatch": "testbed.bench.dispatch",
    "step": "testbed.bench.step",
    "relay": "testbed.bench.relay",
    "restart": "testbed.bench.restart",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's flags."""
    parser.add_argument("only", nargs="*", choices=[[], *BENCHES], help="default: all")
    parser.add_argument("--report", type=Path, default=Path("report/bench"), metavar="FOLDER")


def run(args: argparse.Namespace) -> int:
    """Run them one after another."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    figures: dict[str, Any] = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
    }
    for name in args.only or BENCHES:
        found = importlib.import_module(BENCHES[name]).run()
        figures[name] = found
        rows = found if isinstance(found, list) else [found]
        shown = Table(title=name)
        for column in rows[0]:
            shown.add_column(column, justify="left" if column in ("policy", "case") else "right")
        for row in rows:
            shown.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
        console.print(shown)
    args.report.mkdir(parents=True, exist_ok=True)
    path = args.report / "results.json"
    path.write_text(json.dumps(figures, indent=1))
    console.print(f"report: {path}")
    return 0
