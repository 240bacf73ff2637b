"""How good a policy is: paired with the reference, over scenarios and seeds.

Lives here: the comparison that training chooses its checkpoint by. Never here: the held-out suite;
`python -m testbed league` judges on that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from testbed.sim.policies import REFERENCE, Rule, agent_rule, rule
from testbed.sim.run import simulate
from testbed.sim.workload import draw_workload
from testbed.train.distribution import scenario
from testbed.train.tables import cost

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """Means over scenarios of the logarithm of cost over the reference's, and a standard error."""

    log_cost: float
    error: float


def costs(spec: str | Rule | Mapping[str, Float32], number: int) -> float:
    """Log cost over the reference's in one validation scenario; a rule, its name, or parameters."""
    if isinstance(spec, Mapping):
        chosen = agent_rule("candidate", spec)
    else:
        chosen = rule(spec) if isinstance(spec, str) else spec
    where = scenario(number)
    flows = draw_workload(where, number)
    reference = cost(simulate(where, rule(REFERENCE), number, flows).fct_s)
    return cost(simulate(where, chosen, number, flows).fct_s) - reference


def score(spec: str | Mapping[str, Float32], numbers: Sequence[int], executor: Executor) -> Score:
    """The mean over the scenarios `numbers`."""
    judge: Callable[[int], float] = partial(costs, spec)
    found = np.array(list(executor.map(judge, numbers)))
    return Score(float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found))))
