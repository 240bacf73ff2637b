"""What the demo runs: the backends, the policies compared, the load.

Lives here: names and numbers. Never here: how they are run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from testbed.stack import ServiceSpec, StackSpec

SPEEDS: Mapping[str, float] = {
    "a": 1.0,
    "b": 1.0,
    "c": 2.0,
    "d": 2.0,
    "e": 4.0,
    "f": 4.0,
    "g": 4.0,
}
CHANGED: Mapping[str, float] = {
    "a": 4.0,
    "b": 4.0,
    "c": 2.0,
    "d": 2.0,
    "e": 4.0,
    "f": 1.0,
    "g": 1.0,
}
"""The same backends after their speeds have changed; nobody tells any method."""
WRONG: Mapping[str, float] = {name: 4.0 / speed for name, speed in SPEEDS.items()}
"""The weights that somebody set when the slow machines were the fast ones."""

AGENT = "agent"
METHODS: tuple[ServiceSpec, ...] = (
    ServiceSpec("rr", "rr"),
    ServiceSpec("lsq", "lsq"),
    ServiceSpec("sed-wrong", "sed", WRONG),
    ServiceSpec("sed-true", "sed", SPEEDS),
    ServiceSpec("ewma", "ewma"),
    ServiceSpec(AGENT, "sed", agent=True),
)
TITLES: Mapping[str, str] = {
    "rr": "round robin",
    "lsq": "shortest queue",
    "sed-wrong": "SED, wrong weights",
    "sed-true": "SED, true weights",
    "ewma": "EWMA x (q+1)",
    AGENT: "SED, agent's weights",
}


@dataclass(frozen=True)
class Scenario:
    """Open-loop Poisson arrivals of exponential work, the same for every method in a repetition.

    mean_work_s is on a CPU of speed 1. learn: the agent goes on learning; else it is frozen and
    has the policy that comes with it. warm_s: how long its service runs before the comparison.
    `changed` are the speeds of the comparison's second part, with repetitions of its own.
    """

    utilisation: float = 0.8
    mean_work_s: float = 0.06
    learn: bool = False
    warm_s: float = 5.0
    run_s: float = 5.0
    repetitions: int = 3
    seed: int = 1
    speeds: Mapping[str, float] = field(default_factory=lambda: dict(SPEEDS))
    changed: Mapping[str, float] = field(default_factory=lambda: dict(CHANGED))

    @property
    def rate_per_s(self) -> float:
        return self.utilisation * sum(self.speeds.values()) / self.mean_work_s

    def stack(self) -> StackSpec:
        return StackSpec(
            self.speeds,
            METHODS,
            workers=2,
            agent={"mode": "learn" if self.learn else "frozen", "seed": self.seed},
        )
