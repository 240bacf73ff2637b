"""The same plan in the simulator.

Lives here: plan and overhead into a scenario and a workload. Never here: live runs, figures.
"""

from __future__ import annotations

import numpy as np

from testbed.faithful.live import LiveRun
from testbed.faithful.setting import TIMEOUT_S, Setting
from testbed.load.arrivals import Plan
from testbed.sim import policies
from testbed.sim.run import Result, simulate
from testbed.sim.scenario import Application, Arrivals, Resource, Scenario, Servers, Size
from testbed.sim.workload import STAGES, Workload
from testbed.stack import ServiceSpec


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


def workload(plan: Plan, lived: LiveRun) -> Workload:
    """The plan's requests at the times at which they left, with the overhead of the live run."""
    assert plan.work_s is not None
    count, overhead = len(plan), lived.overhead
    work_s = np.zeros((count, STAGES))
    work_s[:, 0] = plan.work_s
    link_s = np.full(count, overhead.inside_s / 2)
    return Workload(
        at_s=lived.sent_s(),
        balancer=np.zeros(count, np.int64),
        client=np.zeros(count, np.int64),
        work_s=work_s,
        there_s=link_s,
        back_s=link_s,
        edge_s=np.full(count, overhead.outside_s),
    )


def run(setting: Setting, method: ServiceSpec, plan: Plan, lived: LiveRun, seed: int) -> Result:
    """One simulated run; the seed breaks ties."""
    rule = policies.rule(method.policy)
    return simulate(scenario(setting, method), rule, seed, workload(plan, lived))
