"""The simulator's event loop: against the real servers' discipline, and what it must conserve."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_worlds import (
    THREE_STAGES,
    assert_as_reference,
    assert_nothing_left,
    finished,
    given_flows,
    ran,
    reference,
    scenario,
    work_left_s,
)

from testbed.sim.compiled import dispatch, jit
from testbed.sim.policies import names, rule
from testbed.sim.records import FAILED, FINISHED, REJECTED, UNROUTED
from testbed.sim.run import Run, simulate
from testbed.sim.scenario import Arrivals, Event, Servers
from testbed.sim.workload import draw_workload
from testbed.sim.world import World

pytestmark = pytest.mark.timeout(600)

MIXED = (Servers(count=2, in_service=4, backlog=6), Servers(count=3, cpus=2, fifo=True))
RULES = [name for name in names() if name != "agent"]
"""The agent has tests of its own; it needs a checkpoint."""
BUSY = scenario(*MIXED, balancers=2, applications=THREE_STAGES, arrivals=Arrivals(load=0.9))


# -- seeds


@pytest.mark.parametrize("name", RULES)
def test_a_seed_decides_everything(name: str) -> None:
    first, again = (simulate(BUSY, rule(name), 5) for _ in range(2))
    np.testing.assert_array_equal(first.fct_s, again.fct_s)
    np.testing.assert_array_equal(first.server, again.server)
    other = simulate(BUSY, rule(name), 6)
    assert len(other.at_s) != len(first.at_s) or not np.array_equal(other.at_s, first.at_s)


def test_rules_meet_the_same_flows() -> None:
    sed, ewma = (Run(BUSY, rule(name), 5) for name in ("sed", "ewma"))
    results = [run.finish() for run in (sed, ewma)]
    for one, two in zip(*(vars(run.world.workload).values() for run in (sed, ewma)), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(results[0].server, results[1].server)


def test_what_a_scenario_changes_leaves_the_other_draws_as_they_are() -> None:
    """Links are drawn apart from sizes, sizes apart from times, so that variants stay paired."""
    plain = draw_workload(BUSY, 3)
    far = draw_workload(BUSY.model_copy(update={"link_s": (0.01, 0.1)}), 3)
    np.testing.assert_array_equal(plain.at_s, far.at_s)
    np.testing.assert_array_equal(plain.work_s, far.work_s)
    assert far.there_s.min() > plain.there_s.max()


# -- queues


number = st.floats(0.0, 8.0, width=16)
work = st.floats(0.0, 8.0, width=16, exclude_min=True)
server = st.builds(
    Servers,
    cpus=st.integers(1, 3),
    speed=st.sampled_from([0.5, 1.0, 1.75]),
    io_speed=st.sampled_from([0.75, 1.0]),
    in_service=st.integers(1, 6),
    backlog=st.integers(0, 4),
    fifo=st.booleans(),
)


@settings(deadline=None)
@given(
    server,
    st.lists(st.tuples(number, work), min_size=1, max_size=40),
    st.lists(st.tuples(number, st.sampled_from([0.5, 1.0, 2.0])), max_size=4),
)
def test_cpus_are_the_real_servers_discipline(
    one: Servers, jobs: list[tuple[float, float]], speeds: list[tuple[float, float]]
) -> None:
    jobs.sort()
    flows = given_flows([at for at, _ in jobs], [[work_s] for _, work_s in jobs])
    events = tuple(
        Event(at_s=at, server=0, kind="speed", factor=factor) for at, factor in sorted(speeds)
    )
    assert_as_reference(one, flows, events)


@settings(deadline=None)
@given(server, st.lists(st.tuples(number, st.lists(number, max_size=5)), min_size=1, max_size=25))
def test_stages_alternate_between_cpu_and_io(
    one: Servers, jobs: list[tuple[float, list[float]]]
) -> None:
    jobs.sort()
    flows = given_flows([at for at, _ in jobs], [works_s for _, works_s in jobs])
    assert_as_reference(one.model_copy(update={"backlog": 1000}), flows)


def test_arrays_grow() -> None:
    """Thousands of jobs where there was room for a hundred, at the CPU, the I/O and on links."""
    rng = np.random.default_rng(1)
    at_s = np.sort(rng.uniform(0.0, 1.0, 3000)).tolist()
    quick = [[1e-7, work_s] for work_s in rng.exponential(0.01, 3000).tolist()]
    flows = given_flows(at_s, quick)
    one = Servers(in_service=32, backlog=64)
    grown = ran(scenario(one), flows)
    assert grown.state.ring.shape[1] > 2000
    np.testing.assert_array_equal(grown.state.flows["done_s"], reference(one, flows))
    far = ran(scenario(one, link_s=(5.0, 5.0)), given_flows(at_s, quick, there=5.0, back=5.0))
    assert len(far.state.deferred) > 2500
    np.testing.assert_allclose(
        far.state.flows["done_s"], grown.state.flows["done_s"] + 10.0, rtol=1e-9
    )
    assert_nothing_left(grown)
    assert_nothing_left(far)


def test_a_link_takes_its_time() -> None:
    of = scenario(Servers(), link_s=(1.0, 2.0))
    flows = given_flows([0.0, 1.0], [[0.5], [0.25]], there=1.0, back=2.0, edge=3.0)
    run = Run(of, rule("rr"), 0, flows)
    np.testing.assert_allclose(run.finish().fct_s, [6.5, 6.25])


def test_a_full_server_rejects() -> None:
    one = Servers(in_service=2, backlog=3)
    run = Run(scenario(one, timeout_s=40.0), rule("rr"), 0, given_flows([0.0] * 8, [[1.0]] * 8))
    result = run.finish()
    assert result.outcome.tolist() == [FINISHED] * 5 + [REJECTED] * 3
    assert result.fct_s.tolist() == [2.0, 2.0, 4.0, 4.0, 5.0, 40.0, 40.0, 40.0]
    assert result.counts() == {"finished": 5, "rejected": 3, "failed": 0, "unrouted": 0}


# -- what is conserved


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_nothing_is_lost_and_every_count_returns_to_zero(data: st.DataObject) -> None:
    """Whatever fails, comes, goes and changes on the way, under every rule."""
    count = data.draw(st.integers(1, 6))
    at = st.floats(0.0, 25.0)
    kind = st.sampled_from(["speed", "fail", "recover", "add", "remove"])
    event = st.builds(
        Event, at_s=at, server=st.integers(0, count - 1), kind=kind, factor=st.floats(0.1, 4.0)
    )
    of = scenario(
        *(
            Servers(
                cpus=data.draw(st.integers(1, 2)),
                in_service=data.draw(st.sampled_from([1, 4, 32])),
                backlog=data.draw(st.sampled_from([0, 3, 64])),
                spare=data.draw(st.sampled_from([False, False, True])),
            )
            for _ in range(count)
        ),
        balancers=data.draw(st.integers(1, 3)),
        applications=THREE_STAGES,
        arrivals=Arrivals(rate_per_s=2.0 * count),
        events=tuple(data.draw(st.lists(event, max_size=10))),
        duration_s=20.0,
        link_s=data.draw(st.sampled_from([(0.0, 0.0), (0.0, 0.5)])),
    )
    run = Run(of, rule(data.draw(st.sampled_from(RULES))), data.draw(st.integers(0, 99)))
    result = run.finish()
    assert_nothing_left(run.world)
    assert sum(result.counts().values()) == len(run.world.workload)
    views = run.world.state.views
    flows = run.world.state.flows
    routed = flows["outcome"] != UNROUTED
    if not any(event.kind == "add" for event in of.events):
        attempts = int((1 + flows["retries"][routed]).sum())
        assert views["accepted"].sum() == attempts
        assert views["failed"].sum() == attempts - (flows["outcome"] == FINISHED).sum()
    assert (result.fct_s >= 0.0).all()


@pytest.mark.parametrize("failing", [False, True])
def test_the_work_left_is_that_of_the_jobs_there(failing: bool) -> None:
    """What the oracle goes by, also after a failure with jobs in every stage."""
    events = tuple(
        Event(at_s=at, server=0, kind=kind)
        for at, kind in ((4.0, "fail"), (6.0, "recover"), (9.5, "fail"), (9.6, "recover"))
    )
    of = BUSY.model_copy(update={"events": events if failing else (), "detect_s": 0.5})
    run = Run(of, rule("sed"), 3)
    for now_s in np.arange(0.5, 12.0, 0.5):
        run.advance(float(now_s))
        expected = work_left_s(run.world)
        np.testing.assert_allclose(run.world.state.stations["left_s"], expected, atol=1e-9)
    assert expected.max() > 0.0


def test_littles_law() -> None:
    """The flows in progress, sampled by the clock, are the rate times the mean time."""
    of = scenario(
        Servers(count=4), arrivals=Arrivals(load=0.7), duration_s=4000.0, link_s=(1e-4, 1e-3)
    )
    run = Run(of, rule("sed"), 1)
    seen = []
    for now_s in np.arange(100.0, 4000.0, 0.5):
        run.advance(float(now_s))
        seen.append(run.world.state.servers["flows"].sum())
    result = run.finish()
    inside_s = result.fct_s - run.world.workload.edge_s
    mean = float(inside_s[result.at_s >= 100.0].mean())
    assert np.mean(seen) == pytest.approx(len(result.at_s) / 4000.0 * mean, rel=0.03)


# -- failures and changes of the service


def test_a_failure_resets_what_is_there_and_refuses_what_comes() -> None:
    of = scenario(
        Servers(),
        events=(
            Event(at_s=1.0, server=0, kind="fail"),
            Event(at_s=5.0, server=0, kind="recover"),
        ),
        detect_s=2.0,
    )
    flows = given_flows([0.0, 0.5, 2.0, 3.5, 6.0, 7.5], [[0.75], [9.0], [1.0], [1.0], [1.0], [1.0]])
    found = ran(of, flows, dispatch.EWMA).state.flows
    assert found["outcome"].tolist() == [FINISHED, FAILED, FAILED, UNROUTED, UNROUTED, FINISHED]
    # Served beside the second for a moment; reset at 1; refused at once; noticed from 3 to 7.
    assert found["done_s"].tolist() == [1.0, 1.0, 2.0, 3.5, 6.0, 8.5]


def test_a_failure_resets_jobs_in_the_line_and_at_the_io() -> None:
    of = scenario(
        Servers(in_service=1, backlog=5),
        events=(Event(at_s=1.0, server=0, kind="fail"),),
        link_s=(0.5, 0.5),
    )
    flows = given_flows([0.0] * 4, [[0.125, 9.0], [9.0], [9.0, 1.0], [9.0]], there=0.5, back=0.5)
    world = ran(of, flows)
    assert world.state.flows["outcome"].tolist() == [FAILED] * 4
    assert world.state.flows["done_s"].tolist() == [1.5] * 4
    assert_nothing_left(world)


def test_a_refused_flow_is_tried_elsewhere_and_a_reset_one_is_not() -> None:
    """Round robin walks into the dead server; each flow it refuses ends at the other."""
    of = scenario(
        Servers(count=2),
        events=(Event(at_s=1.0, server=0, kind="fail"),),
        detect_s=9.0,
        link_s=(0.25, 0.25),
    )
    at = [0.0, 0.1, 2.0, 2.1]
    flows = given_flows(at, [[3.0], [3.0], [0.125], [0.125]], there=0.25, back=0.25)
    found = ran(of, flows, dispatch.RR).state.flows
    assert sorted(found["outcome"].tolist()) == [FINISHED] * 3 + [FAILED]
    late = found[2:]
    assert late["server"].tolist() == [1, 1]
    assert sorted(late["retries"].tolist()) == [0, 1]
    took_s = (late["done_s"] - late["at_s"]).tolist()
    assert max(took_s) == pytest.approx(min(took_s) + 0.5, abs=0.2), "there and back for nothing"


@pytest.mark.parametrize("name", RULES)
def test_a_refused_flow_ends_at_the_server_that_is_up_under_every_rule(name: str) -> None:
    of = scenario(
        Servers(count=2),
        arrivals=Arrivals(rate_per_s=0.5),
        events=(Event(at_s=0.0, server=0, kind="fail"),),
        detect_s=999.0,
    )
    run = Run(of, rule(name), 1)
    result = run.finish()
    assert set(result.outcome.tolist()) == {FINISHED}
    assert set(result.server.tolist()) == {1}
    assert run.world.state.flows["retries"].max() == 1


@pytest.mark.parametrize("name", RULES)
def test_no_server_that_refused_a_flow_is_asked_again(name: str) -> None:
    """Two of three are dead: whichever a flow meets first, it ends at the third."""
    of = scenario(
        Servers(count=3),
        arrivals=Arrivals(rate_per_s=0.5),
        events=tuple(Event(at_s=0.0, server=at, kind="fail") for at in (0, 2)),
        detect_s=999.0,
    )
    run = Run(of, rule(name), 1)
    result = run.finish()
    assert set(result.outcome.tolist()) == {FINISHED}
    assert set(result.server.tolist()) == {1}
    assert run.world.state.flows["retries"].max() in (1, 2)


def test_a_change_of_the_servers_leaves_what_was_learnt_of_the_others() -> None:
    """As live: who is removed counts until the next change, and until its flows are over."""
    of = scenario(
        Servers(count=3),
        Servers(spare=True),
        events=(
            Event(at_s=10.0, server=1, kind="remove"),
            Event(at_s=30.0, server=3, kind="add"),
            Event(at_s=50.0, server=1, kind="add"),
        ),
    )
    run = Run(of, rule("ewma"), 1)
    world = run.world
    for at_s, known, gone in ((10.0, [0, 1, 2], []), (30.0, [0, 1, 2], [1]), (50.0, [0, 2, 3], [])):
        run.advance(np.nextafter(at_s, 0.0))
        means, counts = world.state.mean_ns[0].copy(), world.state.views["count"][0].copy()
        assert np.flatnonzero(counts).tolist() == known
        run.advance(at_s)
        means[gone] = counts[gone] = 0.0
        np.testing.assert_array_equal(world.state.mean_ns[0], means)
        np.testing.assert_array_equal(world.state.views["count"][0], counts)
    run.finish()
    assert world.state.views["count"].all(), "all four have answered since"


def test_a_server_that_comes_says_that_it_is_idle_and_a_dead_one_does_not() -> None:
    """Join idle queue: added, recovered and noticed, or recovered before anybody noticed."""
    of = scenario(
        Servers(count=2),
        Servers(spare=True),
        events=(
            Event(at_s=2.0, server=0, kind="fail"),
            Event(at_s=2.0, server=1, kind="fail"),
            Event(at_s=4.0, server=0, kind="recover"),
            Event(at_s=9.0, server=1, kind="recover"),
            Event(at_s=20.0, server=2, kind="add"),
        ),
        detect_s=5.0,
    )
    # The one at 3 finds both in the list, and dead; the one at 21 takes who is first in it.
    flows = given_flows([3.0, 21.0, 21.0, 21.0], [[1.0]] * 4)
    run = Run(of, rule("jiq"), 0, flows)
    listed = []
    for now_s in (1.0, 3.5, 4.5, 10.0, 14.5, 20.5, 21.5):
        run.advance(now_s)
        listed.append(run.world.state.servers["listed"].tolist())
    assert listed == [
        [1, 1, 0],
        [0, 0, 0],
        [1, 0, 0],
        [1, 0, 0],
        [1, 1, 0],
        [1, 1, 1],
        [0, 0, 0],
    ]
    assert sorted(run.finish().server[1:].tolist()) == [0, 1, 2]


def test_a_backend_that_is_added_again_is_another() -> None:
    of = scenario(
        Servers(count=2),
        Servers(spare=True),
        events=(
            Event(at_s=10.0, server=2, kind="add"),
            Event(at_s=20.0, server=2, kind="remove"),
            Event(at_s=30.0, server=2, kind="add"),
        ),
    )
    run = Run(of, rule("ewma"), 1)
    seen = []
    for now_s in (5.0, 15.0, 25.0, 35.0):
        run.advance(now_s)
        seen.append(run.world.snapshot(0))
    assert [one.identity.tolist() for one in seen] == [[1, 2], [1, 2, 4], [1, 2], [1, 2, 5]]
    assert (seen[1].duration.t_ns[2] > 0).any()
    added_ns = seen[0].now_ns + 25 * 10**9
    since = seen[3].duration.t_ns[2]
    assert (since[since > 0] >= added_ns).all()
    served = run.finish()
    gone = (served.at_s > 20.0) & (served.at_s < 30.0)
    assert not (served.server[gone] == 2).any()
    assert (served.server[served.at_s > 30.0] == 2).any()


def test_weights_for_a_backend_that_is_gone_are_left_out() -> None:
    world = World(scenario(Servers(count=3)), 0)
    world.use(dispatch.SED)
    world.set_weights(0, np.array([3, 1, 77], np.uint64), np.array([5.0, 4.0, 3.0]))
    assert world.state.weight[0].tolist() == [4.0, 1.0, 5.0]
    assert world.state.cost[0].tolist() == [0.25, 1.0, 0.2]
    finished(world)


def test_an_empty_service_routes_nothing() -> None:
    removed = tuple(Event(at_s=0.0, server=at, kind="remove") for at in range(2))
    for name in RULES:
        of = scenario(Servers(count=2), events=removed, duration_s=5.0)
        result = simulate(of, rule(name), 1)
        assert set(result.outcome.tolist()) == {UNROUTED}, name
        assert (result.fct_s == of.timeout_s).all()


# -- compiled code


def test_a_change_of_any_source_recompiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions are compiled from callees in other files: all of them name the cache's folder."""
    before = jit.digest()
    (tmp_path / "queues.py").write_text("changed")
    monkeypatch.setattr(jit, "_FOLDERS", (*jit._FOLDERS, tmp_path))
    assert jit.digest() != before


def test_another_process_takes_the_compiled_code_from_the_cache() -> None:
    """No signature is compiled anew."""
    code = """
from numba.core import event
from testbed.sim.compiled import dispatch, kernel
from testbed.sim.policies import rule
from testbed.sim.run import simulate
from testbed.sim.scenario import Scenario
import sys
with event.install_recorder("numba:compile") as recorder:
    simulate(Scenario.model_validate_json(sys.stdin.read()), rule("sed"), 1)
print(len(recorder.buffer), sum(kernel.advance.stats.cache_hits.values()))
"""
    simulate(BUSY, rule("sed"), 1)
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=BUSY.model_dump_json(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["0", "1"]
