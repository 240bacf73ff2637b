"""The paper's simulated service: four servers of one CPU and four of two, two balancers.

Lives here: what App. C.1, Table 9 and App. E.1 say of it, as scenarios. Never here: runs.
Where they are silent: the CPU queue is FIFO with no bound to speak of, the I/O queue processor
sharing; an episode begins empty, and every flow of it counts.
"""

from __future__ import annotations

from testbed.sim.scenario import Application, Arrivals, Resource, Scenario, Servers, Size

EPISODE_S = 60.0
CPU_LOAD = 0.845
"""Of all CPUs ("normalised to consume on average 84.5% resources")."""
CPUS = 12
SERVERS = tuple(
    # Weights by CPUs, as somebody would configure them.
    Servers(count=4, cpus=cpus, fifo=True, backlog=100_000, weight=float(cpus))
    for cpus in (1, 2)
)


def episode(name: str, stages: tuple[tuple[Resource, float], ...], rate_per_s: float) -> Scenario:
    """60 s of Poisson arrivals of an application whose stages have these mean times in s."""
    sizes = tuple((resource, Size(mean_s=mean_s)) for resource, mean_s in stages)
    return Scenario(
        name=name,
        balancers=2,
        servers=SERVERS,
        applications=(Application(stages=sizes),),
        arrivals=Arrivals(rate_per_s=rate_per_s),
        duration_s=EPISODE_S,
        warmup_s=0.0,
    )
