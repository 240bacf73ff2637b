"""The statistics that reports quote: spreads of one run, intervals over repeated runs.

Lives here: pure functions of numbers, in numpy and `math`. Never here: files, plots, runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_BOOTSTRAP_BATCH_ELEMENTS = 1_000_000


@dataclass(frozen=True)
class Spread:
    """Durations in seconds; NaN where there was nothing to measure."""

    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; infinite where the data cannot bound it."""

    estimate: float
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def spread(durations_s: Floats) -> Spread:
    """Mean, percentiles (linear between neighbours) and maximum of one run's durations."""
    if len(durations_s) == 0:
        return Spread(*(math.nan,) * 5)
    p50_s, p90_s, p99_s = (float(p) for p in np.percentile(durations_s, (50, 90, 99)))
    return Spread(float(durations_s.mean()), p50_s, p90_s, p99_s, float(durations_s.max()))


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean over repetitions, one value a run, with Student's t interval.

    With one value the interval is infinite. Raises ValueError for none.
    """
    array = _finite(values)
    _check_confidence(confidence)
    estimate = float(array.mean())
    if len(array) == 1:
        return Interval(estimate, -math.inf, math.inf)
    error = float(array.std(ddof=1)) / math.sqrt(len(array))
    half = t_quantile(0.5 + confidence / 2, len(array) - 1) * error
    return Interval(estimate, estimate - half, estimate + half)


def ratio_interval(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """The ratio of two means over paired repetitions, with a percentile bootstrap interval.

    `numerators[i]` and `denominators[i]` (positive) belong together, such as two policies on the
    same arrivals; pairs are drawn together. With fewer than some 8 pairs the interval is too
    narrow, and with one it is infinite. Raises ValueError for unpaired or non-positive data.
    """
    above, below = _pairs(numerators, denominators)
    _check_confidence(confidence)
    if resamples < 1:
        raise ValueError(f"need resamples >= 1, not {resamples}")
    estimate = float(above.sum() / below.sum())
    if len(above) == 1:
        return Interval(estimate, -math.inf, math.inf)
    ratios = _resampled_ratios(above, below, np.random.default_rng(seed), resamples)
    return Interval(estimate, *_percentiles(ratios, confidence))


def geometric_interval(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """The geometric mean over experiments of their ratios, with a percentile bootstrap interval.

    Each of `pairs` is what `ratio_interval` takes; repetitions are drawn anew in each experiment,
    the experiments themselves stay as they are. Infinite if one has a single repetition. Raises
    ValueError for no experiment, or for a ratio that is not positive.
    """
    _check_confidence(confidence)
    experiments = [_pairs(*pair) for pair in pairs]
    if not experiments or any(above.sum() <= 0 for above, _ in experiments):
        raise ValueError("need at least one ratio, and all of them positive")
    logs = [math.log(above.sum() / below.sum()) for above, below in experiments]
    estimate = math.exp(sum(logs) / len(logs))
    if any(len(above) == 1 for above, _ in experiments):
        return Interval(estimate, -math.inf, math.inf)
    rng = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for above, below in experiments:
        total += np.log(_resampled_ratios(above, below, rng, resamples))
    return Interval(estimate, *_percentiles(np.exp(total / len(experiments)), confidence))


def _pairs(numerators: ArrayLike, denominators: ArrayLike) -> tuple[Floats, Floats]:
    above, below = _finite(numerators), _finite(denominators)
    if len(above) != len(below):
        raise ValueError(f"{len(above)} numerators and {len(below)} denominators are not pairs")
    if np.any(below <= 0):
        raise ValueError("denominators must be positive")
    return above, below


def _resampled_ratios(
    above: Floats, below: Floats, rng: np.random.Generator, resamples: int
) -> Floats:
    count = len(above)
    ratios: list[Floats] = []
    batch = max(1, _BOOTSTRAP_BATCH_ELEMENTS // count)
    for first in range(0, resamples, batch):
        picks = rng.integers(count, size=(min(batch, resamples - first), count))
        ratios.append(above[picks].sum(axis=1) / below[picks].sum(axis=1))
    return np.concatenate(ratios)


def _percentiles(values: Floats, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values, (0.5 - confidence / 2, 0.5 + confidence / 2))
    return float(low), float(high)


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t distribution, by bisection on its distribution function."""
    if not 0 < probability < 1 or degrees < 1:
        raise ValueError(f"no t quantile for probability {probability}, degrees {degrees}")
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    low, high = 0.0, 1.0
    while _t_upper_tail(high, degrees) > 1 - probability:
        low, high = high, 2 * high
    # Halving stops at neighbouring floats, well within this many steps.
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _t_upper_tail(middle, degrees) > 1 - probability:
            low = middle
        else:
            high = middle
    return high


def _t_upper_tail(value: float, degrees: int) -> float:
    """P(T > value) for value >= 0, by the regularised incomplete beta function."""
    total = degrees + value * value
    return _incomplete_beta(degrees / 2, 0.5, degrees / total, value * value / total) / 2


def _incomplete_beta(a: float, b: float, x: float, y: float) -> float:
    """I_x(a, b), y = 1 - x, by its continued fraction (Numerical Recipes, 3rd ed., 6.4)."""
    if x <= 0 or y <= 0:
        return 0.0 if x <= 0 else 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(log_front + a * math.log(x) + b * math.log(y))
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(a, b, x) / a
    return 1 - front * _beta_fraction(b, a, y) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 + term * d
            d = 1 / (d if abs(d) > tiny else tiny)
            c = 1 + term / c
            c = c if abs(c) > tiny else tiny
            value *= d * c
        if abs(d * c - 1) < 1e-15:
            return value
    raise ArithmeticError(f"the beta fraction does not converge for {a}, {b}, {x}")


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.all(np.isfinite(array)):
        raise ValueError("need a list of finite values, at least one")
    return array


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not {confidence}")
