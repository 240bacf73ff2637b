"""`python -m testbed load`: flags into a plan, a run into a table.

Lives here: the flags and what is printed. Never here: sending or measuring.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.server.command import address

if TYPE_CHECKING:
    from testbed.load.arrivals import Plan
    from testbed.load.result import Summary

# The run is complete, but what it measured is partly the generator itself.
EXIT_NOT_BELIEVABLE = 3
STARTED = "started at"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's flags."""
    parser.add_argument(
        "--target",
        type=address,
        required=True,
        action="append",
        metavar="HOST:PORT",
        help="given several times: the addresses of one service, each request to one of them",
    )
    plan = parser.add_argument_group("what is asked for, and when")
    plan.add_argument("--rate", type=float, help="requests a second (default: 100; or the trace's)")
    plan.add_argument("--duration", type=float, help="seconds (default: 10; or the trace's)")
    plan.add_argument("--seed", type=int, default=0)
    plan.add_argument("--mean-ms", type=float, default=10.0, help="mean work of a request")
    plan.add_argument(
        "--law",
        default="exponential",
        choices=["fixed", "exponential", "lognormal", "hyperexponential", "pareto"],
    )
    plan.add_argument("--cv", type=float, default=2.0, help="of the last three laws")
    plan.add_argument("--trace", type=Path, help="take times and queries from this file instead")
    parser.add_argument(
        "--keep-alive", type=int, default=0, metavar="N", help="N connections kept (0: one each)"
    )
    parser.add_argument("--timeout", type=float, default=40.0, help="seconds from planned")
    parser.add_argument("--max-in-flight", type=int, default=8192)
    parser.add_argument(
        "--max-lag-ms", type=float, default=5.0, help="own lag (p99) that is still believable"
    )
    parser.add_argument(
        "--announce",
        action="store_true",
        help="say on standard error when it starts: started at NS, of CLOCK_MONOTONIC",
    )
    parser.add_argument("--save", type=Path, metavar="FILE.npz", help="write each request's record")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the plan; 0, or `EXIT_NOT_BELIEVABLE`, or 2 for flags that make no plan."""
    import json

    import uvloop

    from testbed.load.generator import LoadGenerator, Target
    from testbed.load.trace import TraceError

    (host, port), *others = args.target
    try:
        plan = _plan(args)
        target = Target(
            host=host,
            port=port,
            keep_alive=args.keep_alive,
            timeout_s=args.timeout,
            in_flight_max=args.max_in_flight,
            lag_max_s=args.max_lag_ms / 1e3,
            others=tuple(others),
        )
    except (ValueError, TraceError, OSError) as error:
        print(f"load: {error}", file=sys.stderr)
        return 2
    about = {name: str(value) for name, value in vars(args).items() if name != "run"}
    result = uvloop.run(
        LoadGenerator(plan, target, about, _announce if args.announce else None).run()
    )
    summary = result.summary()
    if args.save is not None:
        result.save(args.save)
    if args.json:
        print(json.dumps(asdict(summary)))
    else:
        _print(summary)
    return 0 if summary.believable else EXIT_NOT_BELIEVABLE


def _announce(start_ns: int) -> None:
    print(f"{STARTED} {start_ns}", file=sys.stderr, flush=True)


def _plan(args: argparse.Namespace) -> Plan:
    from testbed.load.arrivals import poisson
    from testbed.load.sizes import Law
    from testbed.load.trace import read_trace

    if args.trace is None:
        return poisson(
            rate_per_s=100.0 if args.rate is None else args.rate,
            duration_s=10.0 if args.duration is None else args.duration,
            seed=args.seed,
            mean_s=args.mean_ms / 1e3,
            law=Law(args.law),
            cv=args.cv,
        )
    plan = read_trace(args.trace)
    if args.rate is not None:
        plan = plan.at_rate(args.rate)
    return plan if args.duration is None else plan.lasting(args.duration)


def _print(summary: Summary) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{summary.requests} requests in {summary.duration_s:.1f} s")
    table.add_column("ms")
    for name in ("mean", "p50", "p90", "p99", "max"):
        table.add_column(name, justify="right")
    rows = {
        "latency, planned to done": summary.latency,
        "planned to first byte": summary.first_byte,
        "wait for a pooled connection": summary.pool_wait,
        "own lag": summary.lag,
    }
    for name, spread in rows.items():
        table.add_row(name, *(f"{value * 1e3:.2f}" for value in asdict(spread).values()))
    console = Console()
    console.print(table)
    failures = ", ".join(f"{count} {kind}" for kind, count in summary.failures.items())
    console.print(f"succeeded {summary.succeeded}, failed: {failures or 'none'}")
    console.print(f"client CPU {summary.cpu_us_per_request:.0f} us a request")
    for reason in summary.why_not:
        console.print(f"[bold red]not believable:[/] {reason}")
