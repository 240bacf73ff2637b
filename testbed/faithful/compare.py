"""The rounds: every method over TCP in turn, and the same requests simulated.

Lives here: the order of runs and what is kept. Never here: statistics, files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.faithful import live, twin
from testbed.faithful.live import LiveRun, Overhead
from testbed.faithful.setting import Setting
from testbed.stack import Stack

Floats = NDArray[np.float64]

TIE_SEEDS = 16
"""Simulated runs of the same requests: the rules break ties at random, and queues remember it."""

ATTEMPTS = 3
"""Of a run in which the machine was not there: the load generator's lag p99 above LAG_MAX of the
mean work. The last one counts if all were."""

LAG_MAX = 1 / 6


@dataclass(frozen=True)
class Pair:
    """A method in a round. live_s (F,), simulated_s (TIE_SEEDS, F): latencies of the F requests
    in both worlds; one that failed counts as the client's timeout. overhead, failed, busy,
    lag_p99_s (of the load generator): of the live run.
    """

    method: str
    round_number: int
    live_s: Floats
    simulated_s: Floats
    overhead: Overhead
    failed: int
    busy: float
    lag_p99_s: float


def compare(stack: Stack, setting: Setting) -> Iterator[Pair]:
    """All rounds, as they are run. Raises ChildError where a process fails."""
    methods = setting.methods
    for number in range(setting.rounds):
        plan = setting.plan(number)
        # Another order each time: what the machine does meanwhile hits another method.
        turn = number % len(methods)
        for method in methods[turn:] + methods[:turn]:
            lived = _attempt(stack, setting, method.name, setting.seed + number)
            simulated = [
                twin.run(setting, method, plan, lived, seed).fct_s for seed in range(TIE_SEEDS)
            ]
            yield Pair(
                method=method.name,
                round_number=number,
                live_s=lived.latency_s(),
                simulated_s=np.array(simulated),
                overhead=lived.overhead,
                failed=int((~lived.result.ok).sum()),
                busy=lived.busy,
                lag_p99_s=lived.lag_p99_s,
            )


def _attempt(stack: Stack, setting: Setting, service: str, seed: int) -> LiveRun:
    for _ in range(ATTEMPTS):
        # Anew, so that no run profits from what another one has taught the service.
        stack.daemon.stop()
        stack.start_daemon()
        run = live.run(stack, setting, service, seed)
        if run.lag_p99_s <= LAG_MAX * setting.mean_work_s:
            break
    return run
