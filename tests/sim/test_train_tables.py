"""The search behind the training: the compiled constant agent decides as the live one would.

Lives here: `testbed.sim.compiled.constant` against `agent.averages` and `agent.act.weights`, the
shape of a table. Never here: training on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from sim_worlds import scenario

from agent.act.weights import score
from agent.averages import Averages, follow
from agent.settings import ACTIONS, PolicySettings
from testbed.sim.compiled import dispatch
from testbed.sim.policies import Rule
from testbed.sim.run import Result, Run
from testbed.sim.scenario import (
    Application,
    Arrivals,
    Event,
    Resource,
    Scenario,
    Servers,
    Size,
)
from testbed.sim.world import World
from testbed.train.tables import (
    BUSY_U,
    MEMORIES_U,
    NEUTRAL,
    OFFSETS_U,
    PARTS,
    SEARCH_PERIOD_S,
    Held,
    Place,
    Table,
    costs_by_part,
    search,
)


@dataclass
class Both:
    """The compiled agent, and beside it what the live code makes of the same snapshots."""

    held: Held
    u: dict[str, float]
    period_s: float = SEARCH_PERIOD_S
    averages: Averages | None = None
    compared: list[float] = field(default_factory=list)

    def step(self, world: World, balancer: int) -> None:
        snapshot = world.snapshot(balancer)
        self.averages = found = follow(snapshot, self.averages, self.period_s)
        u = np.array([[self.u[name] for name in ACTIONS]] * snapshot.identity.size, np.float32)
        live = score(u, found.mean_s(), found.busy(), PolicySettings())
        self.held.step(world, balancer)
        # The live code takes the mean of N single-precision actions, which rounds.
        seen = world.state.weight[balancer, snapshot.slots]
        np.testing.assert_allclose(seen, live.weights, rtol=1e-6)
        np.testing.assert_allclose(world.state.offset[balancer], live.offset, rtol=1e-6)
        self.compared.append(float(np.ptp(live.weights)))


def lively() -> Scenario:
    """Speeds that differ by more than weights may, servers that fail, come and go."""
    return scenario(
        Servers(count=4),
        Servers(count=2, speed=40.0),
        Servers(spare=True),
        balancers=3,
        applications=(Application(stages=((Resource.CPU, Size(mean_s=0.05)),)),),
        tell_s=0.02,
        arrivals=Arrivals(load=0.6),
        events=(
            Event(at_s=5.0, server=1, kind="fail"),
            Event(at_s=8.0, server=6, kind="add"),
            Event(at_s=10.0, server=1, kind="recover"),
            Event(at_s=12.0, server=6, kind="remove"),
            Event(at_s=14.0, server=6, kind="add"),
            Event(at_s=15.0, server=4, kind="speed", factor=0.02),
        ),
        duration_s=30.0,
    )


@pytest.mark.parametrize("place", [NEUTRAL, (0.3, 1.0, 0.9), (-0.5, -1.0, -0.25), (0.1, 0.37, 0.6)])
def test_the_compiled_constant_decides_as_the_live_code_does(place: Place) -> None:
    made: list[Both] = []
    u = dict(zip(("offset", "memory", "busy"), place, strict=True)) | {"factor": 0.0}

    def make(world: World, balancer: int, seed: int) -> Both:
        made.append(Both(Held(world, place, SEARCH_PERIOD_S), u))
        return made[-1]

    Run(lively(), Rule("both", dispatch.SED, controller=make), 1).finish()
    assert len(made) == 3
    assert all(len(both.compared) > 50 for both in made)
    assert all(max(both.compared) > 1.0 for both in made)


def test_a_table_holds_every_place_against_the_neutral_one() -> None:
    of = lively()
    table = search(of, 1)
    assert table.costs.shape == (PARTS, len(OFFSETS_U), len(MEMORIES_U), len(BUSY_U))
    at = OFFSETS_U.index(NEUTRAL[0]), MEMORIES_U.index(NEUTRAL[1]), BUSY_U.index(NEUTRAL[2])
    assert not table.costs[:, *at].any()
    assert np.unique(table.costs).size > 0.8 * table.costs.size
    assert table.edges_s[[0, -1]].tolist() == [of.warmup_s, of.duration_s]


def test_a_part_is_found_by_its_time() -> None:
    table = Table(np.arange(PARTS).reshape(PARTS, 1, 1, 1) * np.ones(1), np.arange(PARTS + 1.0))
    assert [float(table.at(time_s).item()) for time_s in (-1.0, 0.0, 1.5, 4.9, 5.0, 9.0)] == [
        0.0,
        0.0,
        1.0,
        4.0,
        4.0,
        4.0,
    ]


def test_flows_are_judged_with_those_that_arrived_with_them() -> None:
    at_s, edges_s = np.arange(500) / 100, np.arange(PARTS + 1.0)
    fct_s = np.repeat(np.exp(np.arange(PARTS)), 100)
    none = np.zeros(500, np.int32)
    found = costs_by_part(Result(at_s, fct_s, none, none), edges_s)
    assert found == pytest.approx(np.arange(PARTS))
