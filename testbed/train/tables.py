"""What a privileged search finds: the cost of a scenario as a function of three constants.

Lives here: the grid, the search, and the table it leaves. The search may try a scenario again and
again with the same flows, which no policy can; the network then has to guess the best place of the
table from what it sees. Never here: networks.

The constants are those that an agent decides for all backends alike: b, added to q; the memory of
L and n, in flows; and kappa, what the queues of the past count. Places are those of
`agent.act.weights`, u in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.act.weights import score
from agent.averages import Averages, follow
from agent.settings import ACTIONS, PolicySettings
from testbed.sim.compiled import dispatch
from testbed.sim.policies import REFERENCE, Controller, Rule, rule
from testbed.sim.run import Result, simulate
from testbed.sim.scenario import Scenario
from testbed.sim.workload import draw_workload
from testbed.sim.world import World

Floats = NDArray[np.float64]
Place = tuple[float, float, float]

OFFSETS_U: Final = (-0.5, -0.15, 0.3)
MEMORIES_U: Final = (-1.0, 0.0, 1.0)
BUSY_U: Final = (-1.0, -0.25, 0.3, 0.9)
NEUTRAL: Final[Place] = (-0.15, 0.0, -1.0)
"""Near to `ewma`: what the others are measured from."""

TAIL_SHARE: Final = 0.4
"""Of the cost, what the 99th percentile counts; the rest is the mean."""


@dataclass(frozen=True)
class Table:
    """costs (OFFSETS, MEMORIES, BUSY): logarithms over the cost at NEUTRAL; reference: the same of
    SED that knows everything."""

    costs: Floats
    reference: float


def cost(result: Result) -> float:
    """A run as one number, in logarithms: the mean and the 99th percentile of completion times."""
    tail = np.log(result.quantile_s(0.99))
    return float((1.0 - TAIL_SHARE) * np.log(result.mean_s) + TAIL_SHARE * tail)


class Held:
    """An agent's weights with constant actions; what only a network would look at is left out.

    It steps half as often as an agent, which a constant does not mind and a search does.
    """

    period_s = 0.5

    def __init__(self, place: Place) -> None:
        offset, memory, busy = place
        self._u = {"factor": 0.0, "offset": offset, "memory": memory, "busy": busy}
        self._averages: Averages | None = None

    def step(self, world: World, balancer: int) -> None:
        snapshot = world.snapshot(balancer)
        if not snapshot.identity.size:
            return
        self._averages = found = follow(snapshot, self._averages, self.period_s)
        u = np.array([[self._u[name] for name in ACTIONS]] * snapshot.identity.size, np.float32)
        now = score(u, found.mean_s(), found.busy(), PolicySettings())
        world.set_weights(balancer, snapshot.identity, now.weights, now.offset)


def constant(place: Place) -> Rule:
    """The three held constant at a place."""

    def make(world: World, balancer: int, seed: int) -> Controller:
        return Held(place)

    return Rule("constant", dispatch.SED, controller=make)


def search(scenario: Scenario, seeds: int) -> Table:
    """The table of a scenario, a mean over `seeds` paired workloads."""
    shape = len(OFFSETS_U), len(MEMORIES_U), len(BUSY_U)
    costs, reference = np.zeros(shape), 0.0
    for seed in range(seeds):
        flows = draw_workload(scenario, seed)
        reference += cost(simulate(scenario, rule(REFERENCE), seed, flows))
        for at in np.ndindex(shape):
            place = OFFSETS_U[at[0]], MEMORIES_U[at[1]], BUSY_U[at[2]]
            costs[at] += cost(simulate(scenario, constant(place), seed, flows))
    offset, memory, busy = NEUTRAL
    neutral = costs[OFFSETS_U.index(offset), MEMORIES_U.index(memory), BUSY_U.index(busy)]
    return Table((costs - neutral) / seeds, float(reference - neutral) / seeds)
