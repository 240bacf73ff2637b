"""What the simulator's own heuristics do, and the weights of servers that come later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sim_worlds import given_flows, scenario

from testbed.sim.compiled import dispatch
from testbed.sim.policies import ActiveProbing, Controller, KalmanWeights, RuleError, rule, split
from testbed.sim.run import Run, simulate
from testbed.sim.scenario import Application, Arrivals, Event, Resource, Scenario, Servers, Size
from testbed.sim.world import World

pytestmark = pytest.mark.timeout(600)


def begun(of: Scenario, flows: int = 0, policy: int = dispatch.RR) -> World:
    """A world with that many flows of 99 s each from the start."""
    world = World(of, 1, given_flows([0.0] * flows, [[99.0]] * flows))
    world.use(policy)
    return world


def changes(controller: Controller, world: World, first_s: float, until_s: float) -> list[float]:
    """Step it from `first_s` on; the times at which balancer 0's weights changed."""
    found, at_s = [], first_s
    while at_s < until_s:
        world.advance(at_s)
        before = world.state.weight[0].copy()
        controller.step(world, 0)
        if not np.array_equal(before, world.state.weight[0]):
            found.append(at_s)
        at_s += controller.period_s
    return found


# -- servers that come later


@pytest.mark.parametrize("name", ["wrr", "wcmp", "sed", "p2c", "maglev", "source_hash"])
def test_a_server_that_comes_later_has_its_configured_weight(name: str) -> None:
    of = scenario(
        Servers(count=2, weight=1.0),
        Servers(weight=9.0),
        Servers(spare=True, weight=50.0),
        balancers=2,
        events=(
            Event(at_s=4.0, server=2, kind="remove"),
            Event(at_s=5.0, server=2, kind="add"),
            Event(at_s=5.0, server=3, kind="add"),
        ),
    )
    run = Run(of, rule(name), 1)
    run.advance(6.0)
    assert run.world.state.weight.tolist() == [[1.0, 1.0, 9.0, 50.0]] * 2


def test_the_configured_weight_of_a_newcomer_counts() -> None:
    """Weighted round robin: 3 flows in 5 after it came."""
    of = scenario(
        Servers(count=2, cpus=4, weight=1.0),
        Servers(cpus=4, spare=True, weight=3.0),
        arrivals=Arrivals(rate_per_s=2.0),
        events=(Event(at_s=20.0, server=2, kind="add"),),
        duration_s=120.0,
    )
    found = simulate(of, rule("wrr"), 1)
    after = found.server[found.at_s > 20.0]
    assert abs(int((after == 2).sum()) - 0.6 * len(after)) <= 5


def test_a_newcomer_has_the_median_of_weights_from_outside() -> None:
    of = scenario(
        Servers(count=3, weight=7.0),
        Servers(spare=True, weight=50.0),
        balancers=2,
        events=(Event(at_s=5.0, server=3, kind="add"),),
    )
    run = Run(of, rule("sed"), 1, led=[1])
    run.world.set_weights(1, np.array([1, 2, 3], np.uint64), np.array([2.0, 5.0, 3.0]))
    run.advance(6.0)
    assert run.world.state.weight.tolist() == [[7.0, 7.0, 7.0, 50.0], [2.0, 5.0, 3.0, 3.0]]


# -- AWCMP


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.2, 0.25, 0.6])
def test_the_answer_of_a_probe_counts_after_exactly_its_delay(delay_s: float) -> None:
    world = begun(scenario(Servers(count=2)), 3)
    found = changes(ActiveProbing(world, 0.25, delay_s), world, 0.1, 2.0)
    expected = np.arange(0.1 + delay_s, 2.0, 0.25)
    np.testing.assert_allclose(found, expected[: len(found)], atol=1e-9)
    assert len(found) >= 5


def test_a_probe_sees_the_moment_it_was_sent() -> None:
    """One job at one of two servers then; two more come before the answer."""
    world = World(scenario(Servers(count=2)), 1, given_flows([0.0, 1.05, 1.06], [[99.0]] * 3))
    world.use(dispatch.RR)
    probing = ActiveProbing(world, 1.0, 0.1)
    world.advance(1.0)
    busy = world.jobs() + 1.0
    assert sorted(busy) == [1.0, 2.0]
    assert changes(probing, world, 1.0, 1.5) == [pytest.approx(1.1)]
    log_w = probing.gain * -np.log(busy)
    np.testing.assert_allclose(world.state.weight[0], np.exp(log_w - log_w.mean()))


@pytest.mark.parametrize("event", [(), (Event(at_s=0.5, server=4, kind="fail"),)])
def test_a_probe_asks_the_servers_that_are_there(event: tuple[Event, ...]) -> None:
    """All that answer are equally busy: spare and failed servers say nothing."""
    failing = Servers(count=len(event)) if event else None
    groups = (Servers(count=2), Servers(count=2, spare=True), *([failing] if failing else []))
    world = begun(scenario(*groups, events=event), 2 * len(groups))
    assert changes(ActiveProbing(world), world, 1.0, 5.0) == []


def test_the_successor_of_a_server_starts_in_the_middle() -> None:
    """No weight of the former one, nor an answer of its that is still on the way."""
    events = (Event(at_s=2.2, server=1, kind="remove"), Event(at_s=2.3, server=1, kind="add"))
    world = World(
        scenario(Servers(count=3), events=events), 1, given_flows([0.0] * 4, [[99.0]] * 4)
    )
    world.state.weight[:] = [1.0, 100.0, 1.0]
    world.use(dispatch.SED)
    probing = ActiveProbing(world, 1.0, 0.4)
    # Of the probes at 0, 1 and 2 s, the last is answered at 2.4, after the replacement.
    assert changes(probing, world, 0.0, 2.1) == [pytest.approx(0.4), pytest.approx(1.4)]
    assert world.jobs().tolist() == [0.0, 4.0, 0.0]
    busy, idle = world.state.weight[0, 1], world.state.weight[0, 0]
    assert busy < 0.8 * idle
    assert changes(probing, world, 2.4, 2.5) == [pytest.approx(2.4)]
    np.testing.assert_allclose(world.state.weight[0], 1.0)


def test_probing_has_a_period_and_a_delay_by_name() -> None:
    of = scenario(Servers(count=3))
    run = Run(of, rule("awcmp:0.5,0.2"), 1)
    controller = run.controllers[0]
    assert controller.period_s == 0.5
    run.advance(1.0)
    assert controller.period_s in (pytest.approx(0.2), pytest.approx(0.3))
    plain, same = (simulate(of, rule(name), 1) for name in ("awcmp", "awcmp:0.25,0.05"))
    np.testing.assert_array_equal(plain.fct_s, same.fct_s)
    assert not np.array_equal(plain.fct_s, simulate(of, rule("awcmp:2,1"), 1).fct_s)


@pytest.mark.parametrize("spec", ["awcmp:1", "awcmp:x,1", "awcmp:0,1", "awcmp:1,-1", "awcmp:1,inf"])
def test_a_period_or_delay_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(RuleError, match=spec):
        rule(spec)


def test_a_list_of_rules_keeps_the_commas_of_each() -> None:
    assert split("sed, awcmp:0.5,0.1,ewma:2s,rr") == ["sed", "awcmp:0.5,0.1", "ewma:2s", "rr"]


# -- HLB


def test_kalman_weights_find_the_speeds() -> None:
    of = scenario(
        Servers(count=4, weight=1.0),
        Servers(count=3, speed=4.0, weight=1.0),
        balancers=2,
        applications=(Application(stages=((Resource.CPU, Size(mean_s=0.05)),)),),
        arrivals=Arrivals(load=0.9),
        warmup_s=10.0,
    )
    run = Run(of, rule("hlb"), 1)
    found = run.finish()
    log_w = np.log(run.world.state.weight)
    ratio = np.exp(log_w[:, 4:].mean() - log_w[:, :4].mean())
    assert 2.0 < ratio < 8.0, "4 is right"
    assert found.mean_s < 0.9 * simulate(of, rule("sed"), 1).mean_s


def test_kalman_weights_know_nothing_of_a_successor() -> None:
    of = scenario(
        Servers(count=2),
        Servers(speed=0.25),
        arrivals=Arrivals(rate_per_s=1.0),
        events=(Event(at_s=30.0, server=2, kind="remove"), Event(at_s=31.0, server=2, kind="add")),
    )
    world = World(of, 1)
    world.use(dispatch.LSQ)
    kalman = KalmanWeights(world)
    changes(kalman, world, 0.25, 29.9)
    assert world.state.weight[0, 2] < 0.8 * world.state.weight[0, :2].min()
    world.advance(31.0)
    kalman.step(world, 0)
    assert world.state.weight[0, 2] == 1.0


# -- join idle queue


def test_jiq_takes_a_server_that_is_idle_when_there_is_one() -> None:
    """Two at a time on three servers, one balancer: nobody ever waits, nor shares."""
    at = [0.75 * number for number in range(60)]
    flows = given_flows(at, [[1.0]] * 60)
    of = scenario(Servers(count=3), duration_s=60.0)
    for seed in range(5):
        found = simulate(of, rule("jiq"), seed, flows).fct_s
        np.testing.assert_allclose(found, 1.0)
    assert max(simulate(of, rule("ecmp"), 1, flows).fct_s) > 1.5


def test_jiq_chooses_at_random_when_nobody_is_idle() -> None:
    """Of two equal servers the one with the long line is as good as the other."""
    count = 400
    flows = given_flows([0.01 * number for number in range(count)], [[99.0]] * count)
    of = scenario(Servers(count=2, backlog=1000), duration_s=60.0)
    found = simulate(of, rule("jiq"), 1, flows).server
    assert set(found[:2].tolist()) == {0, 1}
    share = float((found[2:] == 0).mean())
    assert share == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / count))


# -- the reference


def test_the_reference_sees_the_queues_of_all_balancers() -> None:
    """A flow on one balancer, the next on the other: it never joins the first, SED may."""
    flows = replace(given_flows([0.0, 1.0], [[9.0], [9.0]]), balancer=np.array([0, 1]))
    of = scenario(Servers(count=2), balancers=2)

    def apart(name: str) -> list[bool]:
        servers = (simulate(of, rule(name), seed, flows).server for seed in range(30))
        return [first != second for first, second in (found.tolist() for found in servers)]

    assert all(apart("sed-global"))
    assert not all(apart("sed"))


def test_the_reference_knows_the_capacity_of_the_moment() -> None:
    """Twice as fast at first, half as fast later; configured weights that say otherwise."""
    of = scenario(
        Servers(weight=5.0),
        Servers(speed=2.0, weight=1.0),
        events=(Event(at_s=10.0, server=1, kind="speed", factor=0.25),),
    )
    flows = given_flows([1.0, 20.0], [[0.5], [0.5]])
    for seed in range(10):
        assert simulate(of, rule("sed-global"), seed, flows).server.tolist() == [1, 0]
        assert simulate(of, rule("sed"), seed, flows).server.tolist() == [0, 0]
