"""CPU of the data plane against that of another checkout of it: `bench --against TREE`.

Lives here: the comparison of two versions in one run. Never here: how a balancer is started or
loaded (`testbed.bench.relay`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.bench.relay import CASES, Balancer, start_lbd, start_server, wrk
from testbed.processes import Children, cpu_ns_in_session, free_ports

STARTS = 4
ROUNDS = 4
IDLE_S = 5.0
HERE = Path(__file__).parents[2]
_RESAMPLES = 10_000

Floats = NDArray[np.float64]


def run(tree: Path) -> list[dict[str, Any]]:
    """One row a case: microseconds of CPU a request here and in `tree`, and their ratio.

    What a balancer spends on nothing is measured first and taken off: on a machine that is short of
    CPU it would be most of what there is (`idle` rows, in milliseconds a second). `tree` runs
    twice: `same_low`, `same_high` are the interval of its ratio to itself, which the method cannot
    tell from 1. All are started STARTS times anew, for two processes of one program differ as well.
    Intervals are of the median, 95 %, by bootstrap over all rounds. Needs nginx and wrk.
    """
    idle_ms: list[Floats] = []
    us: defaultdict[str, list[Floats]] = defaultdict(list)
    errors: defaultdict[str, int] = defaultdict(int)
    for _ in range(STARTS):
        with TemporaryDirectory(prefix="lbd-bench-") as folder, Children() as children:
            (server,) = free_ports(1)
            start_server(Path(folder), children, server)
            trees = {"here": HERE, "there": tree.resolve(), "again": tree.resolve()}
            balancers = {
                name: start_lbd(Path(folder), children, server, of) for name, of in trees.items()
            }
            idle = _idle(balancers)
            idle_ms.append(np.array([idle[name] * 1e3 for name in trees]))
            for case in CASES:
                for one in balancers.values():
                    wrk(one.port, case)  # caches, connections
                for number in range(ROUNDS):
                    spent_us: dict[str, float] = {}
                    for name in list(balancers)[:: 1 if number % 2 else -1]:
                        one = balancers[name]
                        before_ns, started_s = cpu_ns_in_session(one.child), time.monotonic()
                        requests, failed = wrk(one.port, case)
                        idle_ns = idle[name] * (time.monotonic() - started_s) * 1e9
                        spent_ns = cpu_ns_in_session(one.child) - before_ns - idle_ns
                        spent_us[name] = spent_ns / max(requests, 1) * 1e-3
                        errors[case.name] += failed
                    us[case.name].append(np.array([spent_us[name] for name in trees]))
            for one in balancers.values():
                # In its own time: one that is killed leaves its shared memory behind.
                one.child.stop(30.0)
    rows = [_row("idle, ms a second", np.array(idle_ms), 0)]
    return rows + [_row(name, np.array(rounds), errors[name]) for name, rounds in us.items()]


def _idle(balancers: Mapping[str, Balancer]) -> dict[str, float]:
    """CPU seconds a second of each while nobody asks anything."""
    before = {name: cpu_ns_in_session(one.child) for name, one in balancers.items()}
    started_s = time.monotonic()
    time.sleep(IDLE_S)
    took_ns = (time.monotonic() - started_s) * 1e9
    return {
        name: (cpu_ns_in_session(one.child) - before[name]) / took_ns
        for name, one in balancers.items()
    }


def _row(name: str, spent: Floats, errors: int) -> dict[str, Any]:
    """spent: (rounds, 3), here, there and there again."""
    here, there, again = spent.T
    # Both of `there` make the measure that `here` is held to.
    ratios = here / np.sqrt(there * again)
    low, high = _interval(ratios)
    same_low, same_high = _interval(again / there)
    return {
        "case": name,
        "here": float(np.median(here)),
        "there": float(np.median(np.sqrt(there * again))),
        "ratio": float(np.median(ratios)),
        "ratio_low": low,
        "ratio_high": high,
        "same_low": same_low,
        "same_high": same_high,
        "errors": errors,
    }


def _interval(ratios: Floats) -> tuple[float, float]:
    draws = np.random.default_rng(0).choice(ratios, (_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(low), float(high)
