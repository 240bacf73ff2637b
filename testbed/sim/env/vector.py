"""Many episodes side by side: scenarios times seeds.

Lives here: which environments make the rows of a vector. Never here: an environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from testbed.sim.env.single import BalancerEnv
from testbed.sim.scenario import Scenario


def vector(
    scenarios: Sequence[Scenario], copies: int = 1, *, processes: bool = False, **settings: Any
) -> VectorEnv[Any, Any, Any]:
    """Row i * copies + k is the k-th copy of scenario i; reset's `seed` may be a list, one a row.

    processes: each row in a process of its own, ended by `close`. settings: `BalancerEnv`'s; all
    rows have as many backends as the largest scenario.
    """
    most = max(len(scenario.backends) for scenario in scenarios)
    settings = {"max_backends": most, **settings}
    rows = [
        partial(BalancerEnv, (scenario,), **settings)
        for scenario in scenarios
        for _ in range(copies)
    ]
    return AsyncVectorEnv(rows) if processes else SyncVectorEnv(rows)
