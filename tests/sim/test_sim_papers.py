"""The papers' figures, repeated: what the paper says of them holds here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sim_worlds import finished, given_flows

from testbed import cli
from testbed.papers import fig2a, fig2b, table3
from testbed.sim import suites
from testbed.sim.compiled import dispatch
from testbed.sim.policies import rule
from testbed.sim.run import simulate
from testbed.sim.world import World
from testbed.stats import mean_interval

pytestmark = pytest.mark.timeout(600)


def test_the_rates_of_table_3() -> None:
    """Table 9 names 20.28/s; the I/O of the application with most of it gets more than it can."""
    rates = [table3.scenario(name).rate_per_s() for name in table3.APPLICATIONS]
    np.testing.assert_allclose(rates, [20.28, 13.52, 10.14])
    half = table3.scenario("50% CPU, 50% I/O")
    assert half.rate_per_s() > 1.25 * half.capacity_per_s().sum()


def test_the_figures_are_played_on_the_suites_service() -> None:
    """App. C.1's backlog, a CPU a thread, weights by CPUs."""
    suite = {one.name: one for one in suites.load(suites.find("papers")).scenarios}
    assert table3.scenario("75% CPU, 25% I/O") == suite["simulator-cpu-75"]
    of = fig2a.scenario("balanced")
    assert of.servers == suite["simulator-cpu"].servers
    assert of.duration_s == 60.0
    assert [(one.cpus, one.weight, one.backlog, one.fifo) for one in of.servers] == [
        (1, 1.0, 64, True),
        (2, 2.0, 64, True),
    ]


@pytest.mark.parametrize("column", [1, 2])
def test_the_oracle_of_table_3(column: int) -> None:
    """Within the deviation that the paper prints, where the service is not overloaded."""
    of = table3.scenario(list(table3.APPLICATIONS)[column])
    means = [simulate(of, rule("oracle"), seed).mean_s for seed in range(150)]
    paper_s, deviation_s = table3.PAPER["Oracle"][column]
    assert mean_interval(means).estimate == pytest.approx(paper_s, abs=deviation_s)


def test_weights_depend_on_the_application() -> None:
    """Fig 2a: from 2 for pure CPU down to 1 where the I/O decides, and never one number."""
    found = fig2a.run(40)
    medians = [float(np.median(one.ratio)) for one in found]
    assert medians == sorted(medians, reverse=True)
    assert medians[0] == pytest.approx(2.0, abs=0.1)
    assert medians[-1] == pytest.approx(1.0, abs=0.1)
    for one in found:
        low, high = np.quantile(one.ratio, (0.05, 0.95))
        assert high > 1.2 * low


def test_the_weighted_duration_of_a_known_run() -> None:
    """Server 0 (speed 2) has one flow for 1 s, then both have one for 1 s, server 1 for 1 more."""
    of = fig2b.scenario(fig2b.CASES[0], 10.0)
    flows = given_flows([0.0, 1.0], [[4.0], [2.0]])
    world = World(of, 0, flows)
    world.state.weight[:] = [2.0, 1.5]
    world.use(dispatch.SED)
    finished(world)
    assert world.state.flows["done_s"].tolist() == [2.0, 3.0]
    expected = (1.0 * 0.5 + 1.0 * (0.5 * 0.5 + 0.5 * 1.0) + 1.0 * 1.0) / 3.0
    assert fig2b.weighted_duration_s(world.state) == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [0, 1])
def test_an_interval_needs_two(seeds: int) -> None:
    with pytest.raises(SystemExit, match="2 at least"):
        cli.main(["papers", "--seeds", str(seeds)])


def test_the_command_writes_figures_and_pictures(tmp_path: Path) -> None:
    assert cli.main(["papers", "fig2b", "--seeds", "2", "--report", str(tmp_path)]) == 0
    assert cli.main(["papers", "fig2a", "table3", "--seeds", "2", "--report", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"fig2a", "fig2b", "table3"}
    assert len(results["table3"]["rows"]) == len(table3.POLICIES) * len(table3.APPLICATIONS)
    for row in results["fig2b"]["rows"]:
        # What is seen whole, the chain and the simulation see alike.
        if row["case"] in ("ideal", "wrong weights") or row["policy"] == "wcmp":
            assert row["own view"] == pytest.approx(row["chain"], rel=0.08)
        else:
            assert row["own view"] > row["chain"]
    for name in ("sim-fig2a.png", "sim-fig2b.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
