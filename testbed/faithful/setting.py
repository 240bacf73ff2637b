"""What both worlds are given: backends, policies, arrivals and sizes.

Lives here: names and numbers, and the plan of a round. Never here: how either world runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from testbed.demo.scenario import SPEEDS, WRONG
from testbed.load.arrivals import Plan, poisson
from testbed.stack import ServiceSpec, StackSpec

OVERHEAD = ServiceSpec(
    "overhead", "sed", {name: 1000.0 if name == "g" else 0.001 for name in SPEEDS}
)
"""A trickle of requests without work goes here during each run: what they take is what relay,
loopback and machine add. All go to the backend that has room under every method."""
OVERHEAD_PER_S = 20.0

TIMEOUT_S = 120.0
"""After which a client gives up; what a failed request counts as."""

METHODS: tuple[ServiceSpec, ...] = (
    ServiceSpec("rr", "rr"),
    ServiceSpec("ecmp", "ecmp"),
    ServiceSpec("wrr-true", "wrr", SPEEDS),
    ServiceSpec("wcmp-true", "wcmp", SPEEDS),
    ServiceSpec("p2c-true", "p2c", SPEEDS),
    ServiceSpec("lsq", "lsq"),
    ServiceSpec("sed-true", "sed", SPEEDS),
    ServiceSpec("sed-wrong", "sed", WRONG),
    ServiceSpec("ewma-20", "ewma", memory_flows=20),
    ServiceSpec("ewma", "ewma"),
    ServiceSpec("ewma-1000", "ewma", memory_flows=1000),
    ServiceSpec("least_time", "least_time"),
    ServiceSpec("hcl", "hcl"),
    ServiceSpec("agent", "sed", agent=True),
)
"""All of lbd's rules but `maglev` and `source_hash`: one client address is one backend to them.
The agent is frozen and has the policy that comes with it."""


@dataclass(frozen=True)
class Setting:
    """Poisson arrivals of exponential work, the same for every method in a round.

    mean_work_s is on a CPU of speed 1. Service times of tens of milliseconds and a few hundred
    requests a second leave the machine idle most of the time: what is compared is queueing, not
    the machine.
    """

    utilisation: float = 0.75
    mean_work_s: float = 0.06
    run_s: float = 20.0
    rounds: int = 6
    seed: int = 1
    in_service: int = 32
    backlog: int = 1024
    speeds: Mapping[str, float] = field(default_factory=lambda: dict(SPEEDS))
    methods: tuple[ServiceSpec, ...] = METHODS

    @property
    def rate_per_s(self) -> float:
        return self.utilisation * sum(self.speeds.values()) / self.mean_work_s

    def plan(self, round_number: int) -> Plan:
        """What `python -m testbed load` makes of the flags that `live` gives it."""
        return poisson(
            rate_per_s=self.rate_per_s,
            duration_s=self.run_s,
            seed=self.seed + round_number,
            mean_s=self.mean_work_s,
        )

    def stack(self) -> StackSpec:
        """One worker: the simulated balancer is one, too."""
        return StackSpec(
            self.speeds,
            (OVERHEAD, *self.methods),
            workers=1,
            in_service=self.in_service,
            backlog=self.backlog,
            agent={"mode": "frozen"},
        )
