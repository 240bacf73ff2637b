"""Standings of runs whose ratios are known."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from testbed.sim.league.standings import Verdict, learned, privileged, stand
from testbed.sim.league.summary import beaten, best, bounded, overall, short, worst
from testbed.sim.policies import REFERENCE
from testbed.stats import Interval

SEEDS = 12
LEARNED = "agent:new"

# Scenario: kind, then policy to (mean, p99) over the reference's.
RATIOS = {
    "one": ("x", {"lsq": (1.2, 1.5), "rr": (2.0, 3.0), LEARNED: (1.1, 1.6), "oracle": (0.5, 0.5)}),
    "two": ("x", {"lsq": (1.4, 1.1), "rr": (1.3, 2.0), LEARNED: (1.4, 1.0), "oracle": (0.6, 0.5)}),
    "three": ("y", {"lsq": (1.0, 1.0), "rr": (4.0, 9.0), LEARNED: (1.0, 1.0), "oracle": (1, 1)}),
}


def runs(spread: float = 0.05) -> pl.DataFrame:
    rng = np.random.default_rng(3)
    rows = []
    for scenario, (kind, ratios) in RATIOS.items():
        for seed in range(SEEDS):
            reference = rng.lognormal(0.0, 0.5)
            for policy, (mean, p99) in {REFERENCE: (1.0, 1.0), **ratios}.items():
                # Three's policies differ by chance alone.
                noise = np.exp(spread * rng.standard_normal()) if policy != REFERENCE else 1.0
                rows.append(
                    {
                        "scenario": scenario,
                        "kind": kind,
                        "policy": policy,
                        "seed": seed,
                        "mean_s": reference * mean * noise,
                        "p99_s": 5 * reference * p99 * noise,
                        "flows": 100,
                        "finished": 99 if policy == "rr" else 100,
                    }
                )
    return pl.DataFrame(rows).sample(fraction=1.0, shuffle=True, seed=1).sort("scenario", "policy")


@pytest.fixture(scope="module")
def standings():
    return stand(runs())


def test_ratios_are_those_put_in_within_their_intervals(standings):
    found = {(r.scenario, r.policy, r.figure): r.interval for r in standings.to_reference}
    for scenario, (_, ratios) in RATIOS.items():
        assert found[scenario, REFERENCE, "mean_s"] == Interval(1.0, 1.0, 1.0)
        for policy, (mean, p99) in ratios.items():
            for figure, ratio in (("mean_s", mean), ("p99_s", p99)):
                interval = found[scenario, policy, figure]
                assert interval.low < interval.estimate < interval.high
                assert interval.estimate == pytest.approx(ratio, rel=0.06)


def test_pairs_stay_together():
    # The reference's own spread is ten times that of the ratios, and must not matter.
    of = {(r.scenario, r.policy): r.interval for r in stand(runs(0.01)).to_reference}
    interval = of["one", "rr"]
    assert interval.high / interval.low < 1.03


def test_the_best_heuristic_of_a_scenario_is_the_rival(standings):
    rival = {(r.scenario, r.policy, r.figure): r.against for r in standings.to_rival}
    assert rival["one", LEARNED, "mean_s"] == "lsq"
    assert rival["two", LEARNED, "mean_s"] == "rr"
    assert rival["two", LEARNED, "p99_s"] == "lsq"
    # What knows more than a balancer can is nobody's rival, nor is what has learned.
    assert not {REFERENCE, "oracle", LEARNED} & set(rival.values())
    assert rival["one", "lsq", "mean_s"] == "rr"


def test_verdicts_are_given_beyond_the_interval_only(standings):
    verdict = {(r.scenario, r.figure): r.verdict for r in standings.to_rival if r.policy == LEARNED}
    assert verdict["one", "mean_s"] == Verdict.BETTER
    assert verdict["one", "p99_s"] == Verdict.WORSE
    assert verdict["two", "mean_s"] == Verdict.WORSE
    assert verdict["two", "p99_s"] == Verdict.BETTER
    assert verdict["three", "mean_s"] == Verdict.TIED
    rows = beaten(standings, LEARNED).rows
    assert [row[:3] for row in rows] == [("one", "p99", "lsq"), ("two", "mean", "rr")]


def test_the_worst_scenario_of_a_kind_is_its_highest_ratio(standings):
    found = {(r.kind, r.policy, r.figure): r.scenario for r in standings.worst}
    assert found["x", "lsq", "mean_s"] == "two"
    assert found["x", "lsq", "p99_s"] == "one"
    assert found["y", "rr", "p99_s"] == "three"


def test_overall_is_the_geometric_mean(standings):
    found = {(entry.policy, entry.figure): entry.interval for entry in standings.overall}
    assert found["lsq", "mean_s"].estimate == pytest.approx((1.2 * 1.4) ** (1 / 3), rel=0.04)
    assert found["rr", "p99_s"].estimate == pytest.approx(54 ** (1 / 3), rel=0.04)
    assert found["rr", "p99_s"].low < 54 ** (1 / 3) < found["rr", "p99_s"].high
    assert standings.policies == ("oracle", REFERENCE, LEARNED, "lsq", "rr")


def test_goals_are_kept_only_with_both_figures(standings):
    goals = {"x": (1.5, 1.55), "y": (1.1, 1.1), "elsewhere": (1.0, 1.0)}
    columns = overall(runs(), standings, goals).columns
    rows = {row[0]: row for row in overall(runs(), standings, goals).rows}
    reached = columns.index("goals")
    assert rows["lsq"][reached] == "2 of 2"
    assert rows[LEARNED][reached] == "1 of 2"
    assert rows["rr"][reached] == "0 of 2"
    assert rows["rr"][columns.index("lost")] == "1.00%"
    assert "oracle *" in rows
    cells = {row[0]: row[1:] for row in worst(standings, goals).rows}
    assert [cell.endswith("✓") for cell in cells[LEARNED]] == [False, True]
    assert cells["goal"] == ("1.50 / 1.55", "1.10 / 1.10")


def test_the_best_is_named_with_those_that_are_no_worse(standings):
    rows = {row[0]: row[1:] for row in best(standings).rows}
    assert rows["one"] == ("lsq", LEARNED, "lsq", "-")
    assert rows["two"][:2] == ("rr", "-")


def test_one_seed_alone_gives_no_verdict():
    alone = stand(runs().filter(pl.col("seed") == 0))
    assert {r.verdict for r in alone.to_rival} == {Verdict.TIED}
    assert all(math.isinf(entry.interval.high) for entry in alone.overall)
    assert bounded(alone.overall[-1].interval).count(".") == 1


def test_without_another_heuristic_there_is_no_rival():
    only = stand(runs().filter(pl.col("policy").is_in([REFERENCE, LEARNED])))
    assert only.to_rival == ()
    assert best(only).rows[0] == ("one", "-", "-", "-", "-")


def test_who_knows_what_no_balancer_does():
    assert all(map(privileged, ("sed-global", "oracle", "sed-true", "wcmp-true")))
    assert not any(map(privileged, ("sed", "ewma:50", "awcmp", "jiq", LEARNED)))
    assert [learned(spec) for spec in ("agent", LEARNED, "sed")] == [True, True, False]


@pytest.mark.parametrize(("ratio", "text"), [(1.0, "1.00"), (9.994, "9.99"), (9.996, "10")])
def test_large_ratios_have_no_decimals(ratio, text):
    assert short(ratio) == text
