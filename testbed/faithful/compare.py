"""The rounds: every method over TCP in turn, and the same requests simulated.

Lives here: the order of runs, what a run is worth, both worlds beside each other.
Never here: statistics, files (`kept`, `report`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.faithful import live, twin
from testbed.faithful.live import LiveRun, Overhead
from testbed.faithful.setting import Setting
from testbed.sim.records import FINISHED
from testbed.stack import ServiceSpec, Stack

Floats = NDArray[np.float64]

TIE_SEEDS = 16
"""Simulated runs of the same requests: the rules break ties at random, or choose so altogether, and
queues remember it."""

ATTEMPTS = 3
"""Of a run in which the machine was not there: the load generator's lag p99 above LAG_MAX of the
mean work. The last one counts if all were."""

LAG_MAX = 1 / 6

STARTS_S = 2.0
"""What ending and starting the processes of a run takes."""


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


def turns(setting: Setting) -> Iterator[tuple[ServiceSpec, int]]:
    """Method and round, in the order in which they are run."""
    methods = setting.methods
    for number in range(setting.rounds):
        # Another order each time: what the machine does meanwhile hits another method.
        turn = number % len(methods)
        for method in methods[turn:] + methods[:turn]:
            yield method, number


def expected_s(setting: Setting, method: ServiceSpec) -> float:
    """How long a live run will take: until the last request is answered, and the starts."""
    plan = setting.plan(0)
    requests = twin.workload(plan, plan.planned_s, Overhead(0.0, 0.0))
    result = twin.run(setting, method, requests, seed=0)
    served = result.outcome == FINISHED
    ends_s = (result.at_s + result.fct_s)[served]
    return STARTS_S + max(setting.run_s, float(ends_s.max(initial=0.0)))


def play(stack: Stack, setting: Setting, method: ServiceSpec, number: int) -> LiveRun:
    """One live run. Raises ChildError where a process fails."""
    for _ in range(ATTEMPTS):
        # Anew, so that no run profits from what another one has taught the service; and without
        # an agent where nobody asks it.
        if stack.agent is not None:
            stack.agent.stop()
        stack.daemon.stop()
        stack.start_daemon()
        if method.agent:
            stack.start_agent()
        run = live.run(stack, setting, method.name, setting.seed + number)
        if run.lag_p99_s <= LAG_MAX * setting.mean_work_s:
            break
    return run


def pair(setting: Setting, method: ServiceSpec, number: int, lived: LiveRun) -> Pair:
    """The live run beside simulations of the same requests."""
    requests = twin.workload(setting.plan(number), lived.sent_s(), lived.overhead)
    simulated = [twin.run(setting, method, requests, seed).fct_s for seed in range(TIE_SEEDS)]
    return Pair(
        method=method.name,
        round_number=number,
        live_s=lived.latency_s(),
        simulated_s=np.array(simulated),
        overhead=lived.overhead,
        failed=int((~lived.result.ok).sum()),
        busy=lived.busy,
        lag_p99_s=lived.lag_p99_s,
    )
