"""The paper's simulated service: four servers of one CPU and four of two, two balancers.

Lives here: the scenarios of `simulator-*` in the suite `papers`, and others on the same service.
Never here: what App. C.1, Table 9 and App. E.1 say of it (the suite), runs.
"""

from __future__ import annotations

from functools import cache

from testbed.sim import suites
from testbed.sim.scenario import Application, Arrivals, Resource, Scenario, Size

CPU_LOAD = 0.845
"""Of all CPUs ("normalised to consume on average 84.5% resources")."""


@cache
def _suite() -> dict[str, Scenario]:
    return {scenario.name: scenario for scenario in suites.load(suites.find("papers")).scenarios}


def simulator(application: str) -> Scenario:
    """One of the suite's: an episode that begins empty, and of which every flow counts."""
    return _suite()[f"simulator-{application}"]


def episode(name: str, stages: tuple[tuple[Resource, float], ...], rate_per_s: float) -> Scenario:
    """The same with Poisson arrivals of an application whose stages have these mean times in s."""
    sizes = tuple((resource, Size(mean_s=mean_s)) for resource, mean_s in stages)
    return Scenario(
        **{
            **dict(simulator("cpu")),
            "name": name,
            "applications": (Application(stages=sizes),),
            "arrivals": Arrivals(rate_per_s=rate_per_s),
        }
    )
