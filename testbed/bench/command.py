"""`python -m testbed bench`: run the benchmarks, print them, store them as JSON.

Lives here: flags, printing, the file. Never here: a measurement.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

BENCHES = {
    "dispatch": "testbed.bench.dispatch",
    "step": "testbed.bench.step",
    "relay": "testbed.bench.relay",
    "restart": "testbed.bench.restart",
    "visible": "testbed.bench.visible",
    "reader": "testbed.bench.reader",
    "flows": "testbed.bench.flows",
    "scrape": "testbed.bench.scrape",
    "peers": "testbed.bench.peers",
    "torn": "testbed.bench.torn",
    "gradient": "testbed.bench.gradient",
    "learning": "testbed.bench.learning",
    "sim": "testbed.bench.sim",
}

WORDS = ("policy", "case", "kind", "killed", "note")
"""Columns that hold no figures."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's flags."""
    parser.add_argument("only", nargs="*", choices=[[], *BENCHES], help="default: all")
    parser.add_argument(
        "--against", type=Path, metavar="TREE", help="the data plane's CPU to another checkout's"
    )
    parser.add_argument("--report", type=Path, default=Path("report/bench"), metavar="FOLDER")


def run(args: argparse.Namespace) -> int:
    """Run them one after another."""
    from rich.console import Console
    from rich.table import Table

    from testbed.processes import unwind_on_signals

    unwind_on_signals()
    console = Console()
    path = args.report / "results.json"
    machine = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
    }
    chosen: dict[str, Callable[[], Any]] = {
        name: importlib.import_module(BENCHES[name]).run
        for name in args.only or (() if args.against else BENCHES)
    }
    if args.against:
        from testbed.bench import against

        chosen["against"] = partial(against.run, args.against)
    for name, measure in chosen.items():
        found = measure()
        # After each, so that an interrupted run keeps what it has measured.
        store(path, {**machine, name: found})
        rows = found if isinstance(found, list) else [found]
        shown = Table(title=name)
        for column in rows[0]:
            shown.add_column(column, justify="left" if column in WORDS else "right")
        for row in rows:
            shown.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
        console.print(shown)
    console.print(f"report: {path}")
    return 0


def store(path: Path, figures: dict[str, Any]) -> None:
    """Put `figures` into the file in place of their namesakes; what else it holds stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **figures}, indent=1))
