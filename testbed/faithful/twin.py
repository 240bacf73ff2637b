"""The same plan in the simulator.

Lives here: plan and overhead into a scenario and a workload. Never here: live runs, figures.
"""

from __future__ import annotations

import numpy as np

from testbed.faithful.live import Floats, Overhead
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


def workload(plan: Plan, sent_s: Floats, overhead: Overhead) -> Workload:
    """The plan's requests, leaving at sent_s (F,), with the overhead of a live run."""
    assert plan.work_s is not None
    count = len(plan)
    work_s = np.zeros((count, STAGES))
    work_s[:, 0] = plan.work_s
    link_s = np.full(count, overhead.inside_s / 2)
    return Workload(
        at_s=sent_s,
        balancer=np.zeros(count, np.int64),
        client=np.zeros(count, np.int64),
        work_s=work_s,
        there_s=link_s,
        back_s=link_s,
        edge_s=np.full(count, overhead.outside_s),
    )


def rule_name(method: ServiceSpec) -> str:
    """What `testbed.sim.policies.rule` calls it."""
    if method.agent:
        return "agent"
    memory = method.memory_flows
    return method.policy if memory is None else f"{method.policy}:{memory}"


def run(setting: Setting, method: ServiceSpec, requests: Workload, seed: int) -> Result:
    """One simulated run; the seed breaks ties, and is what random choices come from."""
    rule = policies.rule(rule_name(method))
    return simulate(scenario(setting, method), rule, seed, requests)
