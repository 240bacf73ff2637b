"""Plans: laws of sizes, Poisson arrivals, traces and their errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import testbed
from testbed.load.arrivals import Plan, poisson
from testbed.load.sizes import Law, draw
from testbed.load.trace import TraceError, read_trace

RECORDED = Path(testbed.__file__).parent / "traces" / "poisson_for_loop.csv"


@pytest.mark.parametrize(
    ("law", "cv", "expected_cv", "tolerance"),
    [
        (Law.FIXED, 5.0, 0.0, 0.0),
        (Law.EXPONENTIAL, 5.0, 1.0, 0.02),
        (Law.LOGNORMAL, 2.0, 2.0, 0.1),
        (Law.HYPEREXPONENTIAL, 4.0, 4.0, 0.1),
        (Law.HYPEREXPONENTIAL, 1.0, 1.0, 0.02),
        (Law.PARETO, 0.5, 0.5, 0.1),
    ],
)
def test_sizes_have_the_mean_and_variation_asked_for(law, cv, expected_cv, tolerance):
    sizes_s = draw(law, 0.02, cv, 400_000, np.random.default_rng(1))
    assert sizes_s.mean() == pytest.approx(0.02, rel=0.03)
    assert sizes_s.std() / sizes_s.mean() == pytest.approx(expected_cv, rel=tolerance, abs=1e-9)


def test_a_pareto_of_large_cv_keeps_its_mean():
    sizes_s = draw(Law.PARETO, 1.0, 3.0, 2_000_000, np.random.default_rng(2))
    assert sizes_s.mean() == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize(
    ("law", "cv"), [(Law.LOGNORMAL, 0.0), (Law.HYPEREXPONENTIAL, 0.9), (Law.PARETO, np.inf)]
)
def test_a_law_refuses_a_variation_that_it_cannot_have(law, cv):
    with pytest.raises(ValueError, match="has no cv"):
        draw(law, 1.0, cv, 10, np.random.default_rng(1))


def test_poisson_arrivals_are_poisson_and_belong_to_their_seed():
    plan = poisson(rate_per_s=200, duration_s=200, seed=1, mean_s=0.01)
    assert len(plan) == pytest.approx(40_000, abs=5 * 200)
    gaps_s = np.diff(plan.planned_s)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1, rel=0.03)
    assert plan.planned_s[-1] < 200
    assert plan.work_s is not None
    assert plan.work_s.mean() == pytest.approx(0.01, rel=0.03)
    assert plan.queries[0] == f"/?work_us={round(plan.work_s[0] * 1e6)}"
    again = poisson(rate_per_s=200, duration_s=200, seed=1, mean_s=0.01)
    assert np.array_equal(again.planned_s, plan.planned_s)
    assert again.queries == plan.queries
    other = poisson(rate_per_s=200, duration_s=200, seed=2, mean_s=0.01)
    assert other.queries[:10] != plan.queries[:10]


def test_another_rate_leaves_the_sizes_as_they_are():
    slow = poisson(rate_per_s=50, duration_s=10, seed=3, mean_s=0.01)
    fast = poisson(rate_per_s=100, duration_s=10, seed=3, mean_s=0.01)
    assert list(fast.queries[: len(slow)]) == list(slow.queries)


@pytest.mark.parametrize(("rate", "duration"), [(0, 1), (-1, 1), (np.nan, 1), (1, 0), (1, np.inf)])
def test_poisson_refuses_impossible_rates_and_durations(rate, duration):
    with pytest.raises(ValueError, match="must be finite and positive"):
        poisson(rate_per_s=rate, duration_s=duration, seed=1, mean_s=0.01)


def test_a_plan_is_scaled_repeated_and_cut():
    plan = Plan(np.array([0.5, 1.0, 2.0]), ["/a", "/b", "/c"], 2.0)
    assert plan.rate_per_s == 1.5
    twice = plan.at_rate(3.0)
    assert twice.planned_s.tolist() == [0.25, 0.5, 1.0]
    long = twice.lasting(2.4)
    assert long.planned_s.tolist() == [0.25, 0.5, 1.0, 1.25, 1.5, 2.0, 2.25]
    assert long.queries == ["/a", "/b", "/c", "/a", "/b", "/c", "/a"]
    assert long.period_s == 2.4
    assert plan.lasting(0.8).queries == ["/a"]


def test_an_impossible_plan_is_refused():
    with pytest.raises(ValueError, match="differ in length"):
        Plan(np.zeros(2), ["/"], 1.0)
    with pytest.raises(ValueError, match="decrease"):
        Plan(np.array([1.0, 0.5]), ["/", "/"], 1.0)
    with pytest.raises(ValueError, match="period"):
        Plan(np.array([2.0]), ["/"], 1.0)
    with pytest.raises(ValueError, match="rate"):
        Plan(np.empty(0), [], 1.0).at_rate(1.0)


def test_the_recorded_trace_is_as_its_readme_says():
    plan = read_trace(RECORDED)
    assert len(plan) == 2000
    assert plan.rate_per_s == pytest.approx(347, rel=0.01)
    assert plan.queries[0] == "/dummy.php/?n=6931149"
    assert plan.at_rate(100).lasting(60).rate_per_s == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ("", 1, "two different times"),
        ("when\twhat\n", 1, "header"),
        ("time\tquery\n1.0\t/a\nx\t/b\n", 3, "not a number"),
        ("time\tquery\n1.0\t/a\n2.0\n", 3, "1 fields"),
        ("time\tquery\n1.0\t/a\n2.0\t/b\t/c\n", 3, "3 fields"),
        ("time\tquery\n1.0\t/a\n0.5\t/b\n", 3, "time goes back"),
        ("time\tquery\nnan\t/a\n", 2, "not finite"),
        ("time\tquery\n1.0\ta\n", 2, "not a request target"),
        ("time\tquery\n1.0\t/a b\n", 2, "not a request target"),
        ("time\tquery\n1.0\t/é\n", 2, "not a request target"),
        ("time\tquery\n1.0\t/" + "a" * 5000 + "\n", 2, "longer"),
        ("time\tquery\n1.0\t/a\n1.0\t/b\n", 3, "two different times"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, line, complaint):
    path = tmp_path / "trace.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TraceError, match=complaint) as caught:
        read_trace(path)
    assert str(caught.value).startswith(f"{path}:{line}:")
