"""What a privileged search finds: the cost of a scenario, part by part, by three constants.

Lives here: the grid, the search, and the table it leaves. The search may try a scenario again and
again with the same flows, which no policy can; the network then has to guess the best place of the
table from what it sees. Parts are stretches of time: what is best may change with what happens.
Never here: networks.

The constants are those that an agent decides for all backends alike: b, added to q; the memory of
L and n, in flows; and kappa, what the queues of the past count. Places are those of
`agent.act.weights`, u in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.act.weights import kappa, memory_place, offset
from agent.settings import PolicySettings
from testbed.sim.compiled import constant as compiled
from testbed.sim.compiled import dispatch
from testbed.sim.policies import Controller, Rule
from testbed.sim.run import Result, simulate
from testbed.sim.scenario import Scenario
from testbed.sim.workload import draw_workload
from testbed.sim.world import World

Floats = NDArray[np.float64]
Place = tuple[float, float, float]

OFFSETS_U: Final = (-0.5, 0.0, 0.45)
MEMORIES_U: Final = (-1.0, 0.0, 1.0)
BUSY_U: Final = (-1.0, -0.25, 0.3, 0.9)
NEUTRAL: Final[Place] = (0.0, 0.0, -1.0)
"""Near to `ewma`: what the others are measured from."""

SEARCH_PERIOD_S: Final = 0.5
"""Half as often as an agent steps, which a constant does not mind and a search does."""

PARTS: Final = 5

TAIL_SHARE: Final = 0.4
"""Of the cost, what the 99th percentile counts; the rest is the mean."""


@dataclass(frozen=True)
class Table:
    """costs (PARTS, OFFSETS, MEMORIES, BUSY): logarithms over the cost at NEUTRAL of the flows that
    arrived from edges_s[part] to edges_s[part + 1]."""

    costs: Floats
    edges_s: Floats

    def at(self, time_s: float) -> Floats:
        """Costs (OFFSETS, MEMORIES, BUSY) of the part that holds that time, or is next to it."""
        part = int(np.searchsorted(self.edges_s, time_s, side="right")) - 1
        found: Floats = self.costs[min(max(part, 0), PARTS - 1)]
        return found


def cost(fct_s: Floats) -> float:
    """Completion times as one number, in logarithms: their mean and their 99th percentile."""
    tail = np.log(np.quantile(fct_s, 0.99))
    return float((1.0 - TAIL_SHARE) * np.log(fct_s.mean()) + TAIL_SHARE * tail)


def costs_by_part(result: Result, edges_s: Floats) -> Floats:
    """(PARTS,) of the flows by their arrival."""
    cuts = np.searchsorted(result.at_s, edges_s[1:-1])
    return np.array([cost(part) for part in np.split(result.fct_s, cuts)])


class Held:
    """An agent's weights with constant actions; what only a network would look at is left out."""

    settings = PolicySettings()

    def __init__(self, world: World, place: Place, period_s: float) -> None:
        self.period_s = period_s
        offset_u, memory_u, busy_u = (np.full(1, u, np.float32) for u in place)
        self._offset = offset(offset_u, self.settings)
        self._place = memory_place(memory_u)
        self._kappa = kappa(busy_u, self.settings)
        self._averages = compiled.averages(world.scenario.balancers, world.count)

    def step(self, world: World, balancer: int) -> None:
        slots = np.flatnonzero(world.present)
        if not slots.size:
            return
        state, own = world.state, self._averages
        compiled.follow(state, own, balancer, slots, world.identity[slots], self.period_s)
        width = float(np.log(self.settings.max_ratio))
        compiled.decide(state, own, balancer, slots, self._place, self._kappa, self._offset, width)


def constant(place: Place, period_s: float = SEARCH_PERIOD_S) -> Rule:
    """The three held constant at a place."""

    def make(world: World, balancer: int, seed: int) -> Controller:
        return Held(world, place, period_s)

    return Rule("constant", dispatch.SED, controller=make)


def search(scenario: Scenario, seeds: int) -> Table:
    """The table of a scenario, a mean over `seeds` paired workloads."""
    shape = len(OFFSETS_U), len(MEMORIES_U), len(BUSY_U)
    edges_s = np.linspace(scenario.warmup_s, scenario.duration_s, PARTS + 1)
    costs = np.zeros((PARTS, *shape))
    for seed in range(seeds):
        flows = draw_workload(scenario, seed)
        for at in np.ndindex(shape):
            place = OFFSETS_U[at[0]], MEMORIES_U[at[1]], BUSY_U[at[2]]
            result = simulate(scenario, constant(place), seed, flows)
            costs[:, *at] += costs_by_part(result, edges_s)
    offset, memory, busy = NEUTRAL
    at = OFFSETS_U.index(offset), MEMORIES_U.index(memory), BUSY_U.index(busy)
    neutral = costs[:, *at].copy()
    return Table((costs - neutral[:, None, None, None]) / seeds, edges_s)
