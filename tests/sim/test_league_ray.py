"""The league on a Ray cluster of one node, with another version of the simulator, and without."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from league_suite import LocalFarm, scenario

from testbed.processes import Children, free_ports
from testbed.sim.league import farm
from testbed.sim.league.cache import Cache
from testbed.sim.league.match import Match, play
from testbed.sim.league.season import play_season
from testbed.sim.policies import RuleError

# The first run of a simulator that has changed compiles it.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
SUITE = (scenario(name="small"), scenario(name="other", servers=[{"count": 5}]))
POLICIES = ("sed-global", "lsq")


@pytest.fixture(scope="module")
def address():
    pytest.importorskip("ray")
    port, dashboard = free_ports(2)
    # Not pytest's folder: the names of sockets below it have at most 107 characters.
    with TemporaryDirectory() as folder, Children() as children:
        head = children.start(
            "ray",
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"),
                *("--include-dashboard=false", f"--dashboard-agent-listen-port={dashboard}"),
                *(f"--temp-dir={folder}", "--object-store-memory=100000000"),
                "--disable-usage-stats",
            ],
            env={"PYTHONPATH": str(ROOT)},
        )
        head.wait_line("Ray runtime started", 60.0)
        yield f"127.0.0.1:{port}"


@pytest.mark.slow
def test_a_cluster_has_the_same_figures(address, tmp_path):
    there = play_season(
        SUITE, POLICIES, range(6), farm.cluster(address), Cache(tmp_path / "there.sqlite")
    )
    local = play_season(SUITE, POLICIES, range(6), LocalFarm(), Cache(tmp_path / "here.sqlite"))
    assert there.drop("cpu_s").equals(local.drop("cpu_s"))


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_matches_in_play_are_handed_out_before_it_ends(address, error):
    """Interrupted after the second: what the two cores play comes, and nothing that waits."""
    matches = [Match(SUITE[1], seed, ("lsq",)) for seed in range(20)]
    playing = farm.cluster(address)(matches)
    before = [next(playing), next(playing)]
    after = [playing.throw(error)]
    with pytest.raises(error):
        after.extend(playing)
    assert sorted(match.seed for match, _ in before + after) == [0, 1, 2, 3]
    for match, figures in after:
        assert [one.mean_s for one in figures] == [one.mean_s for one in play(match)]


@pytest.mark.slow
def test_a_match_that_raises_leaves_those_in_play(address):
    matches = [Match(SUITE[0], seed, ("nobody" if seed == 2 else "lsq",)) for seed in range(20)]
    playing = farm.cluster(address)(matches)
    handed_out = []
    with pytest.raises(RuleError, match="no rule 'nobody'"):
        handed_out.extend(playing)
    seeds = {match.seed for match, _ in handed_out}
    assert {0, 1} <= seeds
    assert len(seeds) < 6


def test_a_node_with_another_simulator_is_refused():
    with pytest.raises(farm.FarmError, match="another version"):
        farm._play_same(LocalFarm(), "other")


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(farm.FarmError, match=r"lbd\[ray\]"):
        farm.cluster("auto")
