"""Fairness rewards: how evenly the backends are busy, as one number to maximise.

Lives here: pure functions of l (N,), the time to finish what is on each backend, in any unit.
Never here: state, discounting, scaling to a running mean; a reward is fixed once it is computed.
Upstream: `agent.observe` (duration_s). Downstream: `agent.agent`, `agent.learn.replay`.

Conventions. Every function divides l by its mean first, also where the papers do not (VBF, logVBF,
MS, logMS): a service of 1 ms and one of 10 s then learn alike; the ratios (PBF, CV, Jain, G) do
not depend on scale anyway. So all are invariant under l -> c l, c > 0. If there is nothing to
compare (N <= 1) or nothing to do (mean 0), l counts as all equal, where each has its maximum.

Sources: [MPG] Markov-potential-game paper (VBF, its log and the sum, PBF, MS, CV), [RLB] the
RLB-QMIX paper and its predecessor (PBF, Jain, G).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

# Variance (of l over its mean) below which differences are sampling noise: 3% deviation.
VARIANCE_FLOOR = 1e-3


def relative(l: Vector) -> Vector:  # noqa: E741 - the papers' symbol
    """l over its mean (N,); ones if N <= 1 or the mean is 0. Raises ValueError on bad values."""
    values = np.asarray(l, dtype=np.float64)
    if not np.all(np.isfinite(values)) or np.any(values < 0.0):
        raise ValueError("durations must be finite and not negative")
    if values.size <= 1:
        return np.ones_like(values)
    largest = float(values.max())
    if largest <= 0.0:
        return np.ones_like(values)
    # By the largest first: a sum of tiny (subnormal) or huge values would lose its meaning.
    scaled: Vector = values / largest
    divided: Vector = scaled / scaled.mean()
    return divided


def vbf(l: Vector) -> float:  # noqa: E741
    """Variance-based fairness, -1/N sum_j (l_j - mean)^2. [MPG] Def. 2, Eq. 5. At most 0."""
    return -float(np.var(relative(l))) if np.size(l) else 0.0


def log_vbf(l: Vector) -> float:  # noqa: E741
    """-log(variance + floor): keeps a slope where VBF is flat. [MPG] App. E.2.1.

    At most -log(VARIANCE_FLOOR), reached when all are equal.
    """
    return -float(np.log(VARIANCE_FLOOR - vbf(l)))


def vbf_log_vbf(l: Vector) -> float:  # noqa: E741
    """VBF + logVBF: fast at first, sharp at the end. [MPG] App. E.2.1; the default."""
    return vbf(l) + log_vbf(l)


def pbf(l: Vector) -> float:  # noqa: E741
    """Product-based fairness, prod_j l_j / max(l), in [0, 1]. [RLB] Eq. 4, [MPG] Def. 5."""
    values = relative(l)
    return float(np.prod(values / values.max())) if values.size else 1.0


def ms(l: Vector) -> float:  # noqa: E741
    """Negative makespan, -max_j l_j, of l over its mean: in [-N, -1]. [MPG] Def. 1, Eq. 1."""
    return -float(relative(l).max()) if np.size(l) else -1.0


def log_ms(l: Vector) -> float:  # noqa: E741
    """-log(max_j l_j), of l over its mean: in [-log N, 0]. [MPG] Table 11."""
    return -float(np.log(-ms(l)))


def cv(l: Vector) -> float:  # noqa: E741
    """Negative coefficient of variation, -std / mean. [MPG] App. E.2.1."""
    return -float(np.std(relative(l))) if np.size(l) else 0.0


def jain(l: Vector) -> float:  # noqa: E741
    """Jain's index, (sum l)^2 / (N sum l^2), in [1/N, 1]. [RLB]; Jain et al. 1984."""
    values = relative(l)
    return float(1.0 / np.mean(values * values)) if values.size else 1.0


def g(l: Vector) -> float:  # noqa: E741
    """G's index, prod_j sin(pi l_j / (2 max(l))), in [0, 1]. [RLB], exponent 1/k with k = 1."""
    values = relative(l)
    return float(np.prod(np.sin(0.5 * np.pi * values / values.max()))) if values.size else 1.0


def shares(reward: float, best: float, l: Vector) -> Vector:  # noqa: E741
    """`reward - best` divided among the backends (N,); the mean over them is `reward - best`.

    Each bears it by its squared deviation from the mean of l: exactly so for VBF, where that is
    the definition, and as a rule of credit for the others. All zero if all are equal.
    """
    squared = np.square(relative(l) - 1.0)
    mean = float(squared.mean()) if squared.size else 0.0
    return (reward - best) * (squared / mean) if mean > 0.0 else np.zeros(squared.size)


REWARDS: dict[str, Callable[[Vector], float]] = {
    "VBF": vbf,
    "logVBF": log_vbf,
    "VBF+logVBF": vbf_log_vbf,
    "PBF": pbf,
    "MS": ms,
    "logMS": log_ms,
    "CV": cv,
    "Jain": jain,
    "G": g,
}
