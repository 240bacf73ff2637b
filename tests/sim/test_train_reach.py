"""The search for what constants reach: it finds something, and holds on seeds it has not seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed import cli
from testbed.sim.scenario import Scenario
from testbed.train import reach
from testbed.train.tables import NEUTRAL, cost

pytestmark = pytest.mark.timeout(600)

SUITE = """
scenarios:
  - name: hidden
    kind: hidden
    balancers: 2
    duration_s: 30
    warmup_s: 6
    servers: [{count: 2, cpus: 1, weight: 1}, {count: 2, cpus: 8, weight: 1}]
    applications: [{stages: [[cpu, {mean_s: 0.05}]]}]
    arrivals: {load: 0.9}
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(SUITE)
    return path


def test_what_is_found_is_better_than_the_neutral_place_and_as_good_elsewhere(suite, capsys):
    scenario = reach.suites.load(suite).scenarios[0]
    place = reach.search(scenario, 4)
    assert all(-1.0 <= u <= 1.0 for u in place)
    assert place[2] > NEUTRAL[2] + 0.3, "many CPUs are told by the queues of the past"
    found, neutral = (mean_cost(scenario, one) for one in (place, NEUTRAL))
    assert found < neutral - 0.05
    assert reach.search(scenario, 4) == place, "the same search finds the same"


def mean_cost(scenario: Scenario, place: reach.Place) -> float:
    runs = [
        reach.simulate(scenario, reach.constant(place, reach.PERIOD_S), seed) for seed in range(3)
    ]
    return sum(cost(run.fct_s) for run in runs) / len(runs)


def test_a_row_a_scenario_with_intervals_beside_a_policy(suite, capsys):
    arguments = ["--suite", str(suite), "--generations", "1", "--seeds", "2", "--jobs", "1"]
    assert cli.main(["reach", *arguments, "--beside", "sed-global"]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| hidden | ")
    assert row.endswith("| 1.00 (1.00 to 1.00), 1.00 (1.00 to 1.00) |"), "the reference itself"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--beside", "no"], "no rule 'no'"),
        (["--scenarios", "no"], "no scenario 'no'"),
        (["--suite", "no"], "no suite 'no'"),
        (["--seeds", "1"], "2 at least"),
        (["--generations", "0"], "--generations 1"),
    ],
)
def test_what_cannot_be_searched_is_refused(arguments, said, capsys):
    assert cli.main(["reach", *arguments]) == reach.EXIT_USAGE
    assert said in capsys.readouterr().err
