"""The command line of the testbed: one table of subcommands.

Lives here: the names of the subcommands and which module runs each.
Never here: a subcommand's own flags or work. A new subcommand is one module with
`add_arguments(parser)` and `run(args) -> exit status`, and one line in `COMMANDS`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Command(NamedTuple):
    """A subcommand: what it does in one line, and the module that has its flags and work."""

    help: str
    module: str


COMMANDS: dict[str, Command] = {
    "demo": Command("the whole system, watched live and compared", "testbed.demo.command"),
    "bench": Command("the figures that docs/benchmarks.md quotes", "testbed.bench.command"),
    "learn": Command("an agent that knows nothing learns the capacities", "testbed.learn.command"),
    "train": Command("the recipe of the shipped policy", "testbed.train.command"),
    "fresh": Command("policies on scenarios that no choice was made by", "testbed.train.fresh"),
    "reach": Command("what constants could reach in each scenario", "testbed.train.reach"),
    "ablate": Command("what each part of the policy is worth", "testbed.train.ablate"),
    "league": Command(
        "every policy on a suite of simulated scenarios", "testbed.sim.league.command"
    ),
    "papers": Command("figures of the papers, simulated", "testbed.papers.command"),
    "server": Command("a backend with a known discipline", "testbed.server.command"),
    "run": Command("the papers' experiments, with a report", "testbed.experiments.command"),
    "faithful": Command("the simulator against live TCP", "testbed.faithful.command"),
    "load": Command("an open-loop load generator", "testbed.load.command"),
    "lab": Command("real servers, balancers and a router on this host", "testbed.lab.command"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that `argv` (default: the process's own) names; its exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(prog="python -m testbed", description=__doc__.split("\n")[0])
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = subparsers.add_parser(name, help=command.help, description=command.help)
        # Only the chosen module is imported: `server` must start fast and without rich.
        if name in arguments[:1]:
            module = importlib.import_module(command.module)
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    status: int = args.run(args)
    return status
