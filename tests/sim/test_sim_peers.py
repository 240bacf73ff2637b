"""Balancers that tell each other their queues: what each sees, when, and what it is good for."""

from __future__ import annotations

import numpy as np
import pytest
from sim_worlds import scenario

from testbed.sim.policies import rule
from testbed.sim.run import Run, simulate
from testbed.sim.scenario import Application, Arrivals, Event, Resource, Scenario, Servers, Size

pytestmark = pytest.mark.timeout(600)

SHORT = (Application(stages=((Resource.CPU, Size(mean_s=0.02)),)),)


def place(tell_s: float | None, **changes: object) -> Scenario:
    values: dict[str, object] = {
        "balancers": 4,
        "applications": SHORT,
        "arrivals": Arrivals(load=0.9),
        "duration_s": 40.0,
        "tell_s": tell_s,
    }
    return scenario(Servers(count=6), Servers(count=2, speed=2.0), **{**values, **changes})


def test_each_sees_its_own_flows_and_what_the_others_told_last() -> None:
    run = Run(place(0.25), rule("lsq"), 1)
    state = run.world.state
    told = {}
    for balancer, phase_s in enumerate(state.balancers["phase_s"].tolist()):
        run.advance(10.0 + phase_s)
        told[balancer] = state.q[balancer].copy(), state.views[balancer].copy()
        run.advance(10.0 + phase_s + 1e-6)
    run.advance(10.25 + state.balancers["phase_s"][0] - 1e-6)
    assert state.q.sum() > 0
    for balancer in range(4):
        others = [told[other] for other in range(4) if other != balancer]
        snapshot = run.world.snapshot(balancer)
        seen = state.q[balancer] + sum(q for q, _ in others)
        assert np.array_equal(snapshot.flows, seen)
        for name, total in (("answered", "first_byte_total"), ("duration_ns", "duration_ns_total")):
            all_of_it = state.views[balancer][name] + sum(views[name] for _, views in others)
            assert np.array_equal(snapshot.totals[total], all_of_it)


def test_who_is_told_nothing_sees_its_own() -> None:
    run = Run(place(None), rule("lsq"), 1)
    run.advance(10.0)
    assert np.array_equal(run.world.state.seen, run.world.state.q)
    assert not run.world.state.told["accepted"].any()
    assert run.world.state.q.any()


def test_of_a_backend_that_is_new_nothing_was_told() -> None:
    again = (
        Event(at_s=5.0, server=3, kind="remove"),
        Event(at_s=12.0, server=3, kind="add"),
    )
    run = Run(place(5.0, events=again), rule("lsq"), 1)
    run.advance(11.0)
    assert run.world.state.told["answered"][:, 3].all()
    run.advance(12.0)
    assert not run.world.state.told["answered"][:, 3].any()
    run.finish()


@pytest.mark.parametrize("name", ["lsq", "ewma", "least_time", "hcl", "agent"])
def test_every_rule_that_looks_at_queues_is_better_for_it(name: str) -> None:
    told, own = (simulate(place(tell_s), rule(name), 3).mean_s for tell_s in (0.005, None))
    assert told < 0.95 * own
