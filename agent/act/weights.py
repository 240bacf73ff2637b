"""From the policy's output u in (-1, 1) to the weights that dispatch uses.

Lives here: pure arithmetic and its bounds. Never here: state, networks.
Upstream: `agent.act.policy`. Downstream: `agent.agent`, and from there the data plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.averages import MEMORIES_FLOWS
from agent.settings import PolicySettings

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


def log_bound(settings: PolicySettings) -> float:
    """Half the width of log g, the unit of the action feature.

    log(max_ratio) / 2 where g is all there is; over a base that ranks the backends already, the
    narrower log(factor_ratio) / 2: what is learned corrects it, and exploring costs less.
    """
    wide = settings.base == "none"
    return 0.5 * float(np.log(settings.max_ratio if wide else settings.factor_ratio))


def log_factor(u: Float32, settings: PolicySettings) -> Float64:
    """log g (N,), mean 0, largest minus smallest at most 2 log_bound. u (N,) in [-1, 1]."""
    raw = u.astype(np.float64) * log_bound(settings)
    centred: Float64 = raw - raw.mean() if raw.size else raw
    return centred


def bounded(log_weight: Float64, width: float) -> Float64:
    """log_weight (N,) clipped to a window of `width`.

    The window is centred on the median, so that one outlier cannot flatten all others, but moved
    to lie within the values' range, so that nothing is clipped that need not be.
    """
    low, high = float(log_weight.min()), float(log_weight.max())
    if high - low <= width:
        return log_weight
    start = min(max(float(np.median(log_weight)) - 0.5 * width, low), high - width)
    clipped: Float64 = np.clip(log_weight, start, start + width)
    return clipped


def offset(u: Float32, settings: PolicySettings) -> float:
    """b > 0, what is added to q: one for all backends. u (N,) in [-1, 1]; 1 at 0.

    A small b makes the queue decide, a large one the weights: it stands for what a flow finds on a
    server besides the flows that this balancer counts.
    """
    return float(np.exp(np.log(settings.offset_ratio) * u.mean())) if u.size else 1.0


def kappa(u: Float32, settings: PolicySettings) -> float:
    """What the queues of the past count in `capacity`; u (N,) in [-1, 1]: 0 at -1, a quarter of
    busy_most at 0, busy_most at 1."""
    return settings.busy_most * (0.5 * (float(u.mean()) + 1.0)) ** 2 if u.size else 0.0


def memory_place(u: Float32) -> float:
    """Where u (N,) in [-1, 1] points to among the memories: 0 the shortest, 1 the next one."""
    return 0.5 * (float(u.mean()) + 1.0) * (len(MEMORIES_FLOWS) - 1) if u.size else 0.0


def blend(memories: Float64, u: Float32) -> Float64:
    """(N,) from a mean's memories (N, K), in the logarithm, at the place that u (N,) names.

    The mean of u runs from -1, the shortest memory, to 1, the longest.
    """
    place = memory_place(u)
    below = min(int(place), memories.shape[1] - 2)
    share = place - below
    low = np.maximum(memories[:, below], 1e-12)
    high = np.maximum(memories[:, below + 1], 1e-12)
    mixed: Float64 = np.exp((1.0 - share) * np.log(low) + share * np.log(high))
    return np.where(memories[:, 0] > 0.0, mixed, 0.0)


def capacity(latency_s: Float64, busy: Float64, counts: float) -> Float64:
    """What a backend serves in a second (N,): (1 + kappa n_j) / L_j; 0 where L_j is unknown.

    `counts` is kappa. Durations alone (0) tell speeds, but not that a server has many CPUs, whose
    flows are slowed down only when all of them are busy; with 1 a backend that answers as fast with
    a longer queue counts for more: where each flow slows down all others, L_j = (1 + n_j) / c_j.
    """
    known = np.isfinite(latency_s) & (latency_s > 0.0)
    return np.where(known, (1.0 + counts * busy) / np.where(known, latency_s, 1.0), 0.0)


def weights(log_g: Float64, capacity_per_s: Float64, settings: PolicySettings) -> Float64:
    """a_j = g_j base_j (N,): finite, positive, geometric mean 1, ratio at most max_ratio.

    capacity_per_s (N,): of base 'latency'; a backend whose capacity is unknown (0) is average.
    """
    log_a = log_g
    if settings.base == "latency":
        known = capacity_per_s > 0.0
        if known.any():
            log_c = np.log(np.where(known, capacity_per_s, 1.0))
            log_a = log_g + np.where(known, log_c - log_c[known].mean(), 0.0)
    if not log_a.size:
        return np.ones(0)
    log_a = bounded(log_a, float(np.log(settings.max_ratio)))
    a: Float64 = np.exp(log_a - log_a.mean())
    return a


@dataclass(frozen=True)
class Score:
    """What dispatch chooses by, argmin (q_j + offset) / weights_j, weights (N,); and log_g (N,)."""

    log_g: Float64
    weights: Float64
    offset: float


def score(u: Float32, latency_s: Float64, busy: Float64, settings: PolicySettings) -> Score:
    """All actions u (N, A), as ACTIONS has them, put to L_j and n_j at their memories (N, K)."""
    factor, offset_u, memory, counts = u.T
    log_g = log_factor(factor, settings)
    now = capacity(blend(latency_s, memory), blend(busy, memory), kappa(counts, settings))
    return Score(log_g, weights(log_g, now, settings), offset(offset_u, settings))
