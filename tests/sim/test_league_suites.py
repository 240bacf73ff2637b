"""The suites that come with the testbed say what they are meant to say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from league_suite import SUITE_YAML

from testbed.load.trace import read_trace
from testbed.sim import suites
from testbed.sim.scenario import Resource, Scenario, Size
from testbed.sim.suites import SuiteError
from testbed.sim.workload import draw_workload


def scenarios() -> list[Scenario]:
    return [s for name in suites.names() for s in suites.load(suites.find(name)).scenarios]


def least_capacity_per_s(scenario: Scenario) -> float:
    """The least that all usable servers together can do at any time of the run."""
    full = scenario.capacity_per_s()
    factor = [1.0] * len(full)
    there = [not server.spare for server in scenario.backends]
    least = float(sum(c for c, here in zip(full, there, strict=True) if here))
    for event in sorted(scenario.events, key=lambda event: event.at_s):
        match event.kind:
            case "speed":
                factor[event.server] = event.factor
            case "fail" | "remove":
                there[event.server] = False
            case "recover" | "add":
                there[event.server] = True
        now = sum(c * f for c, f, here in zip(full, factor, there, strict=True) if here)
        least = min(least, float(now))
    return least


def test_both_suites_are_found_by_name():
    assert {"held-out", "papers"} <= set(suites.names())


def test_a_suite_of_ones_own_is_found_by_its_path(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(SUITE_YAML)
    assert suites.find(str(path)) == path
    suite = suites.load(path)
    assert suite.goals == {"plain": (1.5, 1.5)}
    assert [(s.name, s.duration_s) for s in suite.scenarios] == [
        ("equal", 4.0),
        ("misconfigured", 4.0),
    ]


def test_an_unknown_suite_is_refused_with_the_names_of_the_known():
    with pytest.raises(SuiteError, match=r"'nowhere'.*held-out"):
        suites.find("nowhere")


def one(**changes: str) -> str:
    """A suite of one scenario, with other values under some of its keys."""
    keys = {
        "servers": "[{}]",
        "applications": "[{stages: [[cpu, {mean_s: 1}]]}]",
        "arrivals": "{load: 0.5}",
        **changes,
    }
    return "\n".join(["scenarios:", "  - name: a", *(f"    {k}: {v}" for k, v in keys.items())])


def sized(size: str) -> str:
    return one(applications=f"[{{stages: [[cpu, {size}]]}}]")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "mapping with a list of `scenarios`"),
        ("- 1", "mapping with a list of `scenarios`"),
        ("a: [", "own.yaml: while parsing"),
        ("scenarios: []", ":1: scenarios: .*at least 1"),
        ("defaults: {duration_s: 9}", ":1: scenarios: .*required"),
        ("scenarios: 3", ":1: scenarios: "),
        ("scenarios: [3]", r":1: scenarios\.0: "),
        ("default: {}\n" + one(), ":1: default: Extra"),
        ("golas: {}\n" + one(), ":1: golas: Extra"),
        ("defaults: 3\n" + one(), ":1: defaults: "),
        ("defaults: {balancer: 3}\n" + one(), r":3: a\.balancer: Extra"),
        ("goals: {other: 1.1}\n" + one(), r":1: goals\.other: "),
        ("goals: {other: [1.1, 0]}\n" + one(), r":1: goals\.other\.1: "),
        ("goals: {ohter: [1.1, 1.1]}\n" + one(), "no scenario is of the kind 'ohter'"),
        (one() + "\n  - {name: a}", r":6: a\.servers: .*required"),
        (one() + "\n" + one()[11:], "the same name: a"),
        (one(serverz="[]"), r":6: a\.serverz: Extra"),
        (one(servers="[{cpus: 0}]"), r":3: a\.servers\.0\.cpus: "),
        (one(servers="[{spare: true}]"), "a: .*all are spare"),
        (one(arrivals="{load: 0.5, rate_per_s: 1}"), r":5: a\.arrivals: .*either load or rate"),
        (one(arrivals="{load: 0.5, trace: nowhere.tsv}"), r":5: a: .*nowhere\.tsv"),
        (one(events="[{at_s: 1, server: 1, kind: fail}]"), "a: .*server 1 of 1"),
        (one(warmup_s="60"), "a: .*warmup_s must end before"),
        (sized("{mean_s: 0}"), "a: .*asks for any work"),
        (sized("{mean_s: 1, law: hyperexponential, cv: 0.5}"), "hyperexponential has no cv of 0.5"),
        (sized("{mean_s: 1, law: pareto, cv: 0}"), "pareto has no cv of 0"),
    ],
)
def test_what_is_wrong_with_a_suite_is_said_with_its_place(tmp_path, text, words):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(SuiteError, match=words) as raised:
        suites.load(path)
    assert str(raised.value).startswith(str(path))


def test_many_problems_are_counted_and_not_all_shown(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(one(**{f"key{number}": "1" for number in range(20)}))
    with pytest.raises(SuiteError, match="and 12 more") as raised:
        suites.load(path)
    assert len(str(raised.value).splitlines()) == 9


def test_a_trace_is_beside_its_suite_and_read_at_once(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "plan.tsv").write_text("time\tquery\n0.1\t/a\n0.2\t/a\n")
    path = folder / "own.yaml"
    path.write_text(one(arrivals="{load: 0.5, trace: plan.tsv}"))
    monkeypatch.chdir(tmp_path)
    (scenario,) = suites.load(path.relative_to(tmp_path)).scenarios
    assert scenario.arrivals.trace == folder / "plan.tsv"
    (folder / "plan.tsv").write_text("time\tquery\n0.2\t/a\n0.1\t/a\n")
    with pytest.raises(SuiteError, match=r"own\.yaml:5: a: .*plan\.tsv:3: time goes back"):
        suites.load(path)


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda scenario: scenario.name)
def test_only_overload_asks_for_more_than_the_servers_can_do(scenario):
    asked = scenario.rate_per_s()
    if scenario.arrivals.profile:
        asked *= max(factor for _, factor in scenario.arrivals.profile)
    overloaded = {"ramp", "large-130", "large-174", "simulator-cpu-50"}
    assert (asked > least_capacity_per_s(scenario)) == (scenario.name in overloaded)


def test_held_out_has_what_policies_are_judged_on():
    suite = suites.load(suites.find("held-out")).scenarios
    assert {s.balancers for s in suite} >= {1, 2, 4, 6}
    servers = {len(s.backends) for s in suite}
    assert (min(servers), max(servers)) == (4, 64)
    assert servers >= {4, 7, 8, 12, 20, 64}
    assert {s.kind for s in suite} == {
        *("known capacity", "wrong weights", "hidden speeds", "changing capacity", "churn"),
        *("many balancers", "heavy tails", "bimodal pages", "replay", "bursts", "overload"),
    }
    assert max(factor for s in suite for _, factor in s.arrivals.profile) == 1.74
    laws = {(size.law, size.cv) for s in suite for a in s.applications for _, size in a.stages}
    assert {("hyperexponential", 2.0), ("lognormal", 4.0), ("lognormal", 8.0)} <= laws
    assert any(law == "pareto" for law, _ in laws)
    replay = next(s for s in suite if s.arrivals.trace is not None)
    assert len(replay.applications[0].stages[0][1].values_s) == 60
    shares = {size.heavy_share for s in suite for a in s.applications for _, size in a.stages}
    assert 0.44 in shares
    assert {event.kind for s in suite for event in s.events} == {
        "speed",
        "fail",
        "recover",
        "add",
        "remove",
    }
    for scenario in suite:
        # Wrong and hidden weights are such that they differ from the truth by more than a scale.
        off = scenario.configured_weights() / scenario.capacity_per_s()
        present = [not server.spare for server in scenario.backends]
        misled = scenario.kind in ("wrong weights", "hidden speeds")
        assert (off[present].max() / off[present].min() > 1.5) or not misled
        # So are those of servers that come later: too much for some, too little for others.
        if (late := np.array([server.spare for server in scenario.backends])).any():
            beside = off[late] / off[present].mean()
            assert beside.max() > 1.5
            assert beside.min() < 0.5


def sizes(scenario: Scenario) -> list[Size]:
    return [size for application in scenario.applications for _, size in application.stages]


def changes(scenario: Scenario) -> set[str]:
    return {event.kind for event in scenario.events}


def true_weights(scenario: Scenario) -> bool:
    return all(server.weight is None for server in scenario.backends)


MEANT: dict[str, Callable[[Scenario], bool]] = {
    "known capacity": lambda s: true_weights(s) and not s.events,
    "wrong weights": lambda s: len({server.weight for server in s.backends}) > 1,
    "hidden speeds": lambda s: {server.weight for server in s.backends} == {1.0},
    "changing capacity": lambda s: changes(s) == {"speed"},
    "many balancers": lambda s: s.balancers >= 4 and len(s.backends) >= 12,
    "heavy tails": lambda s: max(size.cv for size in sizes(s)) >= 2.0,
    "bimodal pages": lambda s: any(size.heavy_share for size in sizes(s)),
    "replay": lambda s: s.arrivals.trace is not None and all(size.values_s for size in sizes(s)),
    "bursts": lambda s: s.arrivals.burst_ratio > 1.0,
    "overload": lambda s: max(factor for _, factor in s.arrivals.profile) > 1.0,
    "churn": lambda s: changes(s) in ({"fail", "recover"}, {"add", "remove"}),
}


@pytest.mark.parametrize("kind", MEANT)
def test_every_held_out_scenario_has_what_its_kind_is_named_for(kind):
    of_kind = [s for s in suites.load(suites.find("held-out")).scenarios if s.kind == kind]
    assert of_kind
    assert [s.name for s in of_kind if not MEANT[kind](s)] == []


def test_replay_has_the_traces_times_and_the_recorded_sizes():
    suite = suites.load(suites.find("held-out")).scenarios
    (replay,) = (scenario for scenario in suite if scenario.kind == "replay")
    flows, again = draw_workload(replay, 0), draw_workload(replay, 1)
    np.testing.assert_array_equal(flows.at_s, again.at_s)
    trace = read_trace(replay.arrivals.trace)
    gaps = np.diff(trace.planned_s) * (trace.rate_per_s / replay.rate_per_s())
    np.testing.assert_allclose(np.diff(flows.at_s[: len(trace)]), gaps, atol=1e-9)
    (size,) = sizes(replay)
    recorded = np.array(size.values_s) * size.mean_s / np.mean(size.values_s)
    drawn = np.unique(flows.work_s[:, 0])
    np.testing.assert_allclose(drawn, np.unique(recorded))


def test_papers_has_their_setups():
    suite = {s.name: s for s in suites.load(suites.find("papers")).scenarios}

    def groups(kind):
        found = [s for s in suite.values() if s.kind == kind]
        return {(s.balancers, *((g.count, g.cpus) for g in s.servers)) for s in found}

    assert groups("simulator") == groups("profiles") == {(2, (4, 1), (4, 2))}
    assert groups("moderate") == {(2, (3, 2), (4, 4))}
    assert groups("large") == {(6, (10, 2), (10, 4))}
    for s in suite.values():
        if s.kind == "simulator":
            cpu_load = s.rate_per_s() * s.mean_s(Resource.CPU) / 12
            assert cpu_load == pytest.approx(0.845)
            assert all(server.fifo and server.backlog == 64 for server in s.backends)
    # Table 10: one second in all.
    profiles = {s.name: s.mean_s(Resource.CPU) for s in suite.values() if s.kind == "profiles"}
    assert sorted(profiles.values()) == [0.25, 0.5, 0.75, 1.0]
    loads = {s.arrivals.load for s in suite.values() if s.kind == "large"}
    assert loads == {0.44, 0.87, 1.3, 1.74}
