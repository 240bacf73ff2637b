"""Statistics against published tables and against data whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from testbed.stats import (
    Interval,
    geometric_interval,
    mean_interval,
    ratio_interval,
    spread,
    t_quantile,
)


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"),
    [
        (0.975, 1, 12.7062047362),
        (0.975, 2, 4.3026527297),
        (0.975, 4, 2.7764451052),
        (0.975, 9, 2.2621571629),
        (0.975, 30, 2.0422724563),
        (0.995, 5, 4.0321429836),
        (0.95, 7, 1.8945786051),
        (0.75, 1, 1.0),
        (0.975, 10**6, 1.9599663),
        (0.5, 3, 0.0),
    ],
)
def test_t_quantiles_are_those_of_the_tables(probability, degrees, expected):
    assert t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert t_quantile(1 - probability, degrees) == pytest.approx(-expected, rel=1e-6, abs=1e-9)


def test_mean_interval_of_a_worked_example():
    interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764451052 * math.sqrt(2.5 / 5)
    assert interval.estimate == 3.0
    assert interval.low == pytest.approx(3 - half)
    assert interval.high == pytest.approx(3 + half)


def test_one_value_bounds_nothing():
    assert mean_interval([2.0]) == Interval(2.0, -math.inf, math.inf)
    assert ratio_interval([2.0], [4.0], seed=1) == Interval(0.5, -math.inf, math.inf)


def test_the_mean_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = sum(7.0 in mean_interval(rng.normal(7, 2, 5)) for _ in range(1000))
    assert 920 <= hits <= 980


def test_pairs_cancel_what_they_have_in_common():
    rng = np.random.default_rng(4)
    common = rng.lognormal(0, 1, 12)
    interval = ratio_interval(0.8 * common, common, seed=1)
    assert interval.low == pytest.approx(0.8)
    assert interval.high == pytest.approx(0.8)
    shuffled = ratio_interval(0.8 * common, np.roll(common, 1), seed=1)
    assert shuffled.high - shuffled.low > 0.1
    assert shuffled == ratio_interval(0.8 * common, np.roll(common, 1), seed=1)


def test_spread_of_known_values_and_of_none():
    values = spread(np.arange(101.0))
    assert (values.mean_s, values.p50_s, values.p90_s, values.p99_s, values.max_s) == (
        50,
        50,
        90,
        99,
        100,
    )
    assert math.isnan(spread(np.empty(0)).p99_s)


def test_bad_data_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])
    with pytest.raises(ValueError, match="finite"):
        mean_interval([1.0, math.nan])
    with pytest.raises(ValueError, match="pairs"):
        ratio_interval([1.0, 2.0], [1.0], seed=1)
    with pytest.raises(ValueError, match="positive"):
        ratio_interval([1.0], [0.0], seed=1)
    with pytest.raises(ValueError, match="confidence"):
        mean_interval([1.0, 2.0], confidence=1.5)


def test_the_geometric_interval_of_one_experiment_is_that_of_its_ratio():
    rng = np.random.default_rng(5)
    above, below = rng.lognormal(size=(2, 20))
    alone = ratio_interval(above, below, seed=4)
    overall = geometric_interval([(above, below)], seed=4)
    assert (overall.estimate, overall.low, overall.high) == pytest.approx(
        (alone.estimate, alone.low, alone.high), rel=1e-12
    )


def test_experiments_count_alike_whatever_their_scale_and_length():
    pairs = [([2.0, 4.0], [1.0, 2.0]), ([1e6] * 5, [2e6] * 5), ([8e-3] * 3, [1e-3] * 3)]
    found = geometric_interval(pairs, seed=1)
    assert (found.estimate, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0), rel=1e-12)


def test_geometric_intervals_contain_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(8)
    truth, hits, trials = 1.3 * 0.8, 0, 300
    for trial in range(trials):
        below = rng.lognormal(0.0, 0.5, (2, 15))
        above = below * np.array([[1.3**2], [0.8**2]]) * rng.lognormal(0.0, 0.1, (2, 15))
        above /= np.exp(0.1**2 / 2)
        pairs = list(zip(above, below, strict=True))
        hits += truth in geometric_interval(pairs, seed=trial, resamples=500)
    # 95% of 300 is 285 with a deviation of 4; percentile intervals of 15 pairs are a bit narrow.
    assert 255 <= hits <= 297


@pytest.mark.parametrize("pairs", [[], [([0.0], [1.0])], [([1.0, 2.0], [1.0])]])
def test_what_has_no_geometric_mean_is_refused(pairs):
    with pytest.raises(ValueError, match=r"positive|pairs"):
        geometric_interval(pairs, seed=1)


def test_a_single_repetition_leaves_the_geometric_mean_unbounded():
    found = geometric_interval([([2.0, 2.0], [1.0, 1.0]), ([3.0], [1.0])], seed=1)
    assert found.estimate == pytest.approx(6**0.5)
    assert (found.low, found.high) == (-math.inf, math.inf)
