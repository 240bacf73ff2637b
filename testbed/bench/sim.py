"""Flows a CPU second that the simulator does on one core, under shortest expected delay.

Lives here: the measurement. A figure is the median of ROUNDS runs of one World, links included, its
workload drawn before; all runs are in this process, so CPU time is one core's.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from testbed.sim.policies import rule
from testbed.sim.run import Run
from testbed.sim.scenario import Application, Arrivals, Resource, Scenario, Servers, Size
from testbed.sim.workload import Workload, draw_workload

SERVERS = (7, 64)
FLOWS = 400_000
ROUNDS = 9


def run() -> list[dict[str, Any]]:
    """One row a number of servers; with_draws counts the drawing of the workload in."""
    rows = []
    for count in SERVERS:
        of = scenario(count)
        start_s = time.process_time()
        flows = draw_workload(of, 1)
        drawing_s = time.process_time() - start_s
        _cpu_s(of, 0)  # compiles, or loads what is compiled
        rates = [len(flows) / _cpu_s(of, seed, flows) for seed in range(ROUNDS)]
        median = float(np.median(rates))
        rows.append(
            {
                "servers": count,
                "flows": len(flows),
                "flows_per_cpu_s": median,
                "least": min(rates),
                "most": max(rates),
                "with_draws": len(flows) / (len(flows) / median + drawing_s),
            }
        )
    return rows


def scenario(count: int) -> Scenario:
    """Half of the servers at twice the speed, 80% load, two balancers, exponential work."""
    halves = (Servers(count=count - count // 2), Servers(count=count // 2, speed=2.0))
    rate = 0.8 * (count + count // 2)
    return Scenario(
        name=f"{count} servers",
        balancers=2,
        servers=halves,
        applications=(Application(stages=((Resource.CPU, Size(mean_s=1.0)),)),),
        arrivals=Arrivals(rate_per_s=rate),
        duration_s=FLOWS / rate,
    )


def _cpu_s(of: Scenario, seed: int, flows: Workload | None = None) -> float:
    """CPU time from the first flow to the last, the allocation of arrays left out."""
    one = Run(of, rule("sed"), seed, flows)
    start_s = time.process_time()
    one.finish()
    return time.process_time() - start_s
