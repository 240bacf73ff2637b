"""Two small scenarios that differ in kind, and a farm in this very process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from testbed.sim.league.farm import Played
from testbed.sim.league.match import Match, play
from testbed.sim.scenario import Scenario

SUITE_YAML = """
goals: {plain: [1.5, 1.5]}
defaults:
  balancers: 2
  duration_s: 4
  warmup_s: 1
  applications: [{stages: [[cpu, {mean_s: 0.02}]]}]
scenarios:
  - name: equal
    kind: plain
    servers: [{count: 3}]
    arrivals: {load: 0.8}
  - name: misconfigured
    kind: wrong
    servers: [{count: 2, speed: 1, weight: 3}, {count: 2, speed: 2, weight: 1}]
    arrivals: {load: 0.9}
"""


def scenario(**changes: object) -> Scenario:
    """A second of three servers at 80%."""
    plain = {
        "name": "small",
        "servers": [{"count": 3}],
        "applications": [{"stages": [["cpu", {"mean_s": 0.02}]]}],
        "arrivals": {"load": 0.8},
        "duration_s": 1.5,
        "warmup_s": 0.5,
    }
    return Scenario.model_validate({**plain, **changes})


class LocalFarm:
    """Plays here and remembers what it was given; stops with an error before match `fails_at`."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.given: list[Match] = []
        self._fails_at = fails_at

    def __call__(self, matches: Sequence[Match]) -> Iterator[Played]:
        self.given = list(matches)
        for number, match in enumerate(matches):
            if number == self._fails_at:
                raise KeyboardInterrupt
            yield match, play(match)

    def runs(self) -> set[tuple[str, str, int]]:
        return {(m.scenario.name, policy, m.seed) for m in self.given for policy in m.policies}
