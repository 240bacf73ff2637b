"""Seasons: the same figures wherever they are played, and nothing is played twice."""

from __future__ import annotations

import sqlite3

import polars as pl
import pytest
from league_suite import LocalFarm, scenario

from testbed.sim.league import match
from testbed.sim.league.cache import Cache
from testbed.sim.league.farm import here
from testbed.sim.league.match import Match, MatchError, play
from testbed.sim.league.season import SeasonError, play_season
from testbed.sim.policies import RuleError, rule
from testbed.sim.run import simulate

# The first run of a simulator that has changed compiles it.
pytestmark = pytest.mark.timeout(600)

POLICIES = ("sed-global", "lsq", "awcmp")
SUITE = (scenario(name="small"), scenario(name="large", balancers=3, servers=[{"count": 5}]))


def season(farm, cache, policies=POLICIES, seeds=range(2), **options):
    return play_season(SUITE, policies, seeds, farm, cache, **options)


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "sub" / "runs.sqlite")


def test_a_match_is_what_each_policy_does_alone():
    # The policies share the flows, which therefore none of them may change.
    played = play(Match(SUITE[0], 7, POLICIES))
    for figures, policy in zip(played, POLICIES, strict=True):
        alone = simulate(SUITE[0], rule(policy), 7)
        assert figures.mean_s == alone.mean_s
        assert figures.p99_s == alone.quantile_s(0.99)
        assert figures.p50_s < figures.p90_s < figures.p95_s < figures.p99_s
        assert figures.flows == len(alone.fct_s) == figures.finished
    assert len({figures.mean_s for figures in played}) == len(POLICIES)


def test_a_season_has_one_row_a_run_in_order(cache):
    runs = season(LocalFarm(), cache)
    expected = [(s.name, policy, seed) for s in SUITE for policy in POLICIES for seed in range(2)]
    assert runs.select("scenario", "policy", "seed").rows() == expected
    outcomes = pl.sum_horizontal("finished", "rejected", "failed", "unrouted")
    assert runs.select((pl.col("flows") == outcomes).all()).item()


def test_what_was_played_is_not_played_again(cache):
    first = season(LocalFarm(), cache)
    again = LocalFarm()
    assert season(again, cache).equals(first)
    assert again.given == []
    more = LocalFarm()
    season(more, cache, (*POLICIES, "rr"), range(3))
    fresh = {(s.name, policy, 2) for s in SUITE for policy in POLICIES}
    assert more.runs() == fresh | {(s.name, "rr", seed) for s in SUITE for seed in range(3)}


def test_an_interrupted_season_goes_on_where_it_stopped(cache):
    with pytest.raises(KeyboardInterrupt):
        season(LocalFarm(fails_at=3), cache)
    rest = LocalFarm()
    assert len(season(rest, cache)) == 12
    assert len(rest.given) == 1


def test_longer_matches_come_first(cache):
    farm = LocalFarm()
    season(farm, cache)
    assert [match.scenario.name for match in farm.given] == ["large", "large", "small", "small"]


def test_progress_adds_up_to_all_runs(cache):
    def count(seeds):
        known = {s.name: 0 for s in SUITE}

        def progress(of, runs):
            known[of.name] += runs

        season(LocalFarm(), cache, seeds=seeds, progress=progress)
        return known

    assert count(range(1)) == {"small": 3, "large": 3}
    assert count(range(2)) == {"small": 6, "large": 6}


def test_other_processes_have_the_same_figures(cache, tmp_path):
    elsewhere = season(here(2), cache)
    local = season(LocalFarm(), Cache(tmp_path / "other.sqlite"))
    assert elsewhere.drop("cpu_s").equals(local.drop("cpu_s"))


def test_an_error_of_a_match_is_raised():
    matches = [Match(SUITE[0], seed, ("nobody",)) for seed in range(3)]
    with pytest.raises(RuleError, match="no rule 'nobody'"):
        list(here(1)(matches))


def test_a_run_that_fails_leaves_the_others_of_its_match(cache, monkeypatch):
    def simulated(of, chosen, seed, workload):
        if chosen.name == "lsq" and of.name == "large":
            raise ZeroDivisionError(f"under {chosen.name}")
        return simulate(of, chosen, seed, workload)

    monkeypatch.setattr(match, "simulate", simulated)
    with pytest.raises(
        SeasonError, match="2 of 12 runs failed, first large, lsq, seed 0"
    ) as raised:
        season(LocalFarm(), cache)
    assert "ZeroDivisionError: under lsq" in str(raised.value)
    monkeypatch.undo()
    rest = LocalFarm()
    season(rest, cache)
    assert rest.runs() == {("large", "lsq", 0), ("large", "lsq", 1)}


def test_nothing_to_judge_is_said_by_the_match():
    of = scenario(name="rare", arrivals={"rate_per_s": 1e-6})
    with pytest.raises(MatchError, match="rare, seed 3: no flow"):
        play(Match(of, 3, POLICIES))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_matches_in_play_are_handed_out_before_it_ends(error):
    """Interrupted after the second: what is in play comes, and not all that waits."""
    matches = [Match(SUITE[1], seed, ("lsq",)) for seed in range(60)]
    playing = here(2)(matches)
    before = [next(playing), next(playing)]
    after = [playing.throw(error)]
    with pytest.raises(error):
        after.extend(playing)
    seeds = [played.seed for played, _ in before + after]
    assert len(set(seeds)) == len(seeds)
    assert 1 <= len(after) < 20
    for played, figures in after:
        assert [one.mean_s for one in figures] == [one.mean_s for one in play(played)]


def test_a_cache_that_is_none_is_refused(tmp_path):
    path = tmp_path / "runs.sqlite"
    path.write_bytes(b"something else" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        Cache(path)
