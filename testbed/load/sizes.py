"""How much work a request asks for: one law a function, all given by mean and CV.

Lives here: the laws. Never here: arrival times.
"""

from __future__ import annotations

import enum
import math

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]


class Law(enum.StrEnum):
    """The shape of the distribution. The CV of FIXED is 0 and that of EXPONENTIAL 1."""

    FIXED = "fixed"
    EXPONENTIAL = "exponential"
    LOGNORMAL = "lognormal"
    HYPEREXPONENTIAL = "hyperexponential"
    PARETO = "pareto"


def draw(law: Law, mean_s: float, cv: float, count: int, rng: np.random.Generator) -> Seconds:
    """`count` sizes in seconds with the given mean and coefficient of variation.

    FIXED and EXPONENTIAL ignore `cv`. HYPEREXPONENTIAL has two phases with balanced means and
    needs cv >= 1; PARETO (type I, shape 1 + sqrt(1 + 1/cv²), so of finite variance) and LOGNORMAL
    need cv > 0. Raises ValueError otherwise.
    """
    if not (math.isfinite(mean_s) and mean_s >= 0):
        raise ValueError(f"mean must be finite and not negative, not {mean_s}")
    match law:
        case Law.FIXED:
            return np.full(count, mean_s)
        case Law.EXPONENTIAL:
            return mean_s * rng.standard_exponential(count)
        case Law.LOGNORMAL:
            _require(law, cv > 0, cv)
            variance = math.log1p(cv * cv)
            return mean_s * rng.lognormal(-variance / 2, math.sqrt(variance), count)
        case Law.HYPEREXPONENTIAL:
            _require(law, cv >= 1, cv)
            # Balanced means: each phase carries half of the work.
            first = (1 + math.sqrt((cv * cv - 1) / (cv * cv + 1))) / 2
            phase = np.where(rng.random(count) < first, 0.5 / first, 0.5 / (1 - first))
            return mean_s * phase * rng.standard_exponential(count)
        case Law.PARETO:
            _require(law, cv > 0, cv)
            shape = 1 + math.sqrt(1 + 1 / (cv * cv))
            return mean_s * (shape - 1) / shape * (1 + rng.pareto(shape, count))


def _require(law: Law, holds: bool, cv: float) -> None:
    if not (holds and math.isfinite(cv)):
        raise ValueError(f"{law} has no cv of {cv}")
