"""A series of episodes: which scenario, under which seed.

Lives here: what `single` and `parallel` have in common between episodes. Never here: steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from testbed.sim.scenario import Scenario

_SEEDS = 2**31


class EpisodeError(ValueError):
    """Scenarios or options that make no episode; the message says why."""


class Episodes:
    """`max_backends`: rows of observations; None takes the largest scenario's."""

    def __init__(self, scenarios: Sequence[Scenario], max_backends: int | None) -> None:
        if not scenarios:
            raise EpisodeError("need at least one scenario")
        self.scenarios = {scenario.name: scenario for scenario in scenarios}
        largest = max(scenarios, key=lambda scenario: len(scenario.backends))
        most = len(largest.backends)
        self.max_backends = most if max_backends is None else max_backends
        if self.max_backends < most:
            raise EpisodeError(
                f"{largest.name} has {most} servers, more than max_backends {self.max_backends}"
            )

    def next(
        self, rng: np.random.Generator, seed: int | None, options: dict[str, Any] | None
    ) -> tuple[Scenario, int]:
        """The scenario and the run's seed.

        seed: the run's own, which gives the flows of every other run of that seed; None draws
        one. options: `scenario` names one, otherwise it is drawn; others are ignored, which
        PettingZoo's checker asks for. Raises EpisodeError.
        """
        name = (options or {}).get("scenario")
        if name is None:
            name = list(self.scenarios)[rng.integers(len(self.scenarios))]
        elif name not in self.scenarios:
            raise EpisodeError(f"no scenario {name!r}; known: {sorted(self.scenarios)}")
        return self.scenarios[name], int(rng.integers(_SEEDS)) if seed is None else seed
