"""The suites that come with the testbed say what they are meant to say."""

from __future__ import annotations

import pytest

from testbed.sim import suites
from testbed.sim.scenario import Scenario, SuiteError, load_suite


def scenarios() -> list[Scenario]:
    return [s for name in suites.names() for s in load_suite(suites.find(name))]


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
    path.write_text("scenarios: []")
    assert suites.find(str(path)) == path
    assert suites.goals(path) == {}


def test_an_unknown_suite_is_refused_with_the_names_of_the_known():
    with pytest.raises(SuiteError, match=r"'nowhere'.*held-out"):
        suites.find("nowhere")


def test_goals_that_are_no_pairs_are_refused_with_the_file(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("goals: {wrong: 1.1}\nscenarios: []")
    with pytest.raises(SuiteError, match=r"own\.yaml"):
        suites.goals(path)


@pytest.mark.parametrize("name", suites.names())
def test_every_goal_speaks_of_a_kind_of_the_suite(name):
    path = suites.find(name)
    assert set(suites.goals(path)) <= {scenario.kind for scenario in load_suite(path)}


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda scenario: scenario.name)
def test_only_overload_asks_for_more_than_the_servers_can_do(scenario):
    asked = scenario.rate_per_s()
    if scenario.arrivals.profile:
        asked *= max(factor for _, factor in scenario.arrivals.profile)
    overloaded = {"ramp", "large-130", "large-174", "simulator-cpu-50"}
    assert (asked > least_capacity_per_s(scenario)) == (scenario.name in overloaded)


def test_held_out_has_what_policies_are_judged_on():
    suite = load_suite(suites.find("held-out"))
    assert {s.balancers for s in suite} >= {1, 2, 4, 6}
    assert max(len(s.backends) for s in suite) == 64
    laws = {(size.law, size.cv) for s in suite for a in s.applications for _, size in a.stages}
    assert {("hyperexponential", 2.0), ("lognormal", 4.0), ("lognormal", 8.0)} <= laws
    assert any(law == "pareto" for law, _ in laws)
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
