"""The same plan in the simulator.

Lives here: plan and overhead into a scenario and a workload. Never here: live runs, figures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from testbed.faithful.setting import TIMEOUT_S, Setting
from testbed.load.arrivals import Plan
from testbed.sim import policies
from testbed.sim.run import Result, simulate
from testbed.sim.scenario import Application, Arrivals, Resource, Scenario, Servers, Size
from testbed.sim.workload import STAGES, Workload
from testbed.stack import ServiceSpec

Floats = NDArray[np.float64]


def scenario(setting: Setting, method: ServiceSpec) -> Scenario:
    """The setting's backends with the method's weights behind one balancer, judged from 0 s on."""
    weights = method.weights or {}
    return Scenario(
        name=method.name,
        balancers=1,
        servers=tuple(
            Servers(
                speed=speed,
                in_service=setting.in_service,
                backlog=setting.backlog,
                weight=weights.get(name, 1.0),
            )
            for name, speed in setting.speeds.items()
        ),
        applications=(Application(stages=((Resource.CPU, Size(mean_s=setting.mean_work_s)),)),),
        arrivals=Arrivals(rate_per_s=setting.rate_per_s),
        duration_s=setting.run_s,
        warmup_s=0.0,
        timeout_s=TIMEOUT_S,
    )


def workload(plan: Plan, overhead_s: Floats, seed: int) -> Workload:
    """The plan's requests; each has an overhead drawn from those measured, any number of them.

    A quarter of it passes before the balancer, one on the way to the server, one on the way back,
    and one after the balancer.
    """
    assert plan.work_s is not None
    count = len(plan)
    quarter_s = np.random.default_rng(seed).choice(overhead_s, count) / 4
    work_s = np.zeros((count, STAGES))
    work_s[:, 0] = plan.work_s
    return Workload(
        at_s=plan.planned_s,
        balancer=np.zeros(count, np.int64),
        client=np.zeros(count, np.int64),
        work_s=work_s,
        there_s=quarter_s,
        back_s=quarter_s,
        edge_s=2 * quarter_s,
    )


def run(setting: Setting, method: ServiceSpec, plan: Plan, overhead_s: Floats, seed: int) -> Result:
    """One simulated run; the seed breaks ties and draws overheads."""
    return simulate(
        scenario(setting, method),
        policies.rule(method.policy),
        seed,
        workload(plan, overhead_s, seed),
    )
