"""An agent that always decides the same, compiled: averages from counters, weights from those.

Lives here: the mirror of `agent.averages` and `agent.act.weights` for actions that are the same at
every step and for every backend, with g = 1, held to them step by step by a test. A search tries
thousands of such constants. Never here: networks, failures (averages alone do not charge them).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.averages import (
    ELASTICITY_TAU_S,
    FORGET_SHARE,
    FORGIVE_FLOWS,
    MEMORIES_FLOWS,
    PRIOR_FLOWS,
    STARVED_SHARE,
)
from testbed.sim.compiled import dispatch
from testbed.sim.compiled.jit import inner, outer
from testbed.sim.records import State

_MEMORIES = len(MEMORIES_FLOWS)


class Averages(NamedTuple):
    """`agent.averages.Averages` of M balancers and N slots, K memories; the rest is scratch."""

    identity: NDArray[np.uint64]  # (M, N): whose the row is; 0 for nobody's
    answers: NDArray[np.int64]  # (M, N): totals as last seen
    duration_ns: NDArray[np.int64]
    waited_ns: NDArray[np.int64]  # of durations, and of the ages of those that wait
    weight: NDArray[np.float64]  # (M, N, K)
    total_s: NDArray[np.float64]
    done_s: NDArray[np.float64]
    time_s: NDArray[np.float64]
    seen: NDArray[np.float64]  # (M, N)
    rate_per_s: NDArray[np.float64]
    begun: NDArray[np.bool_]  # (M,)
    new: NDArray[np.float64]  # (N,): answers since the step before
    new_s: NDArray[np.float64]  # (N,): their durations
    new_wait_s: NDArray[np.float64]  # (N,): what flows have waited meanwhile
    log_weight: NDArray[np.float64]
    ranked: NDArray[np.float64]


def averages(balancers: int, slots: int) -> Averages:
    """Before the first step."""
    pair, memories = (balancers, slots), (balancers, slots, _MEMORIES)
    return Averages(
        np.zeros(pair, np.uint64),
        *(np.zeros(pair, np.int64) for _ in range(3)),
        *(np.zeros(memories) for _ in range(4)),
        np.zeros(pair),
        np.zeros(pair),
        np.zeros(balancers, np.bool_),
        *(np.zeros(slots) for _ in range(5)),
    )


@outer
def follow(
    s: State,
    a: Averages,
    m: int,
    slots: NDArray[np.int64],
    identity: NDArray[np.uint64],
    dt_s: float,
) -> None:
    """Take in the answers of `slots` (n,) since the step before; `dt_s` seconds have passed."""
    count, sum_new = len(slots), 0.0
    for at in range(count):
        slot = slots[at]
        comes = a.identity[m, slot] != identity[at]
        if comes:
            a.identity[m, slot] = identity[at]
            a.seen[m, slot] = a.rate_per_s[m, slot] = 0.0
            for k in range(_MEMORIES):
                a.weight[m, slot, k] = a.total_s[m, slot, k] = 0.0
                a.done_s[m, slot, k] = a.time_s[m, slot, k] = 0.0
        view, told = s.views[m, slot], s.told[m, slot]
        answers, duration_ns = view.answered + told.answered, view.duration_ns + told.duration_ns
        age_s = s.seen[m, slot] * s.world[0].now_s - (view.start_s + told.start_s)
        waited_ns = duration_ns + int(max(age_s, 0.0) * 1e9)
        if comes and a.begun[m]:
            a.answers[m, slot], a.duration_ns[m, slot] = answers, duration_ns
            a.waited_ns[m, slot] = waited_ns
        new = max(answers - a.answers[m, slot], 0)
        a.new[slot] = new
        a.new_s[slot] = max(duration_ns - a.duration_ns[m, slot], 0) * 1e-9 if new > 0 else 0.0
        a.new_wait_s[slot] = max(waited_ns - a.waited_ns[m, slot], 0) * 1e-9
        a.answers[m, slot], a.duration_ns[m, slot] = answers, duration_ns
        a.waited_ns[m, slot] = waited_ns
        sum_new += new
    rates = 0.0
    for slot in slots:
        rates += a.rate_per_s[m, slot]
    few = STARVED_SHARE * rates / max(count, 1)
    elapsed = np.exp(-dt_s / ELASTICITY_TAU_S)
    for slot in slots:
        new = a.new[slot]
        missing = max(FORGET_SHARE * sum_new / max(count, 1) - new, 0.0)
        starved = a.seen[m, slot] > 0.3 and a.rate_per_s[m, slot] < few
        for k in range(_MEMORIES):
            share = 1.0 / MEMORIES_FLOWS[k]
            keep, fade = (1.0 - share) ** new, (1.0 - share) ** missing
            if starved:
                fade *= 0.5 ** (sum_new / (FORGIVE_FLOWS * max(count, 1)))
            each = (1.0 - keep) / new if new > 0.0 else share
            done_s = fade * keep * a.done_s[m, slot, k] + each * a.new_s[slot]
            a.done_s[m, slot, k] = done_s
            a.total_s[m, slot, k] = fade * keep * a.total_s[m, slot, k] + each * a.new_wait_s[slot]
            a.weight[m, slot, k] = fade * keep * a.weight[m, slot, k] + (1.0 - keep)
            if a.begun[m]:
                a.time_s[m, slot, k] = fade * keep * a.time_s[m, slot, k] + dt_s * share
            else:
                a.time_s[m, slot, k] = done_s / (s.seen[m, slot] + 1.0)
        if a.begun[m]:
            a.seen[m, slot] += (1.0 - elapsed) * (1.0 - a.seen[m, slot])
            a.rate_per_s[m, slot] += (1.0 - elapsed) * (new / dt_s - a.rate_per_s[m, slot])
    a.begun[m] = True


@outer
def decide(
    s: State,
    a: Averages,
    m: int,
    slots: NDArray[np.int64],
    place: float,
    kappa: float,
    offset: float,
    width: float,
) -> None:
    """Put weights in force: (1 + kappa n_j) / L_j at `place` among the memories, their logarithms
    within `width`; and `offset`. All are 1 before the first answer."""
    count, below = len(slots), min(int(place), _MEMORIES - 2)
    answered = _pooled(a, m, slots, 0)[0] > 0.0
    for slot in slots:
        a.log_weight[slot] = 0.0
    if answered:
        share = place - below
        _add_log_means(a, m, slots, below, 1.0 - share, True)
        _add_log_means(a, m, slots, below + 1, share, False)
        for slot in slots:
            log_s, log_n = a.log_weight[slot], a.ranked[slot]
            a.log_weight[slot] = np.log(1.0 + kappa * np.exp(log_n)) - log_s
    _bound(a, slots, width)
    mean = 0.0
    for slot in slots:
        mean += a.log_weight[slot] / count
    for slot in slots:
        s.weight[m, slot] = np.exp(a.log_weight[slot] - mean)
    for slot in range(s.q.shape[1]):
        s.offset[m, slot] = offset
    dispatch.refresh(s, m)


@inner
def _pooled(a: Averages, m: int, slots: NDArray[np.int64], k: int) -> tuple[float, float, float]:
    """Of all backends, an answer: what flows waited, their durations, and the time between them."""
    weight = total_s = done_s = time_s = 0.0
    for slot in slots:
        weight += a.weight[m, slot, k]
        total_s += a.total_s[m, slot, k]
        done_s += a.done_s[m, slot, k]
        time_s += a.time_s[m, slot, k]
    if weight <= 0.0:
        return 0.0, 0.0, 0.0
    filled = max(weight, 1e-12)
    return total_s / filled, done_s / filled, time_s / filled


@inner
def _add_log_means(
    a: Averages, m: int, slots: NDArray[np.int64], k: int, share: float, first: bool
) -> None:
    """`share` of the logarithms of L_j, into `log_weight`, and of n_j, into `ranked`."""
    pooled_s, pooled_done_s, gap_s = _pooled(a, m, slots, k)
    memory = MEMORIES_FLOWS[k]
    for slot in slots:
        own_s = a.total_s[m, slot, k] * memory + PRIOR_FLOWS * pooled_s
        own_flows = a.weight[m, slot, k] * memory + PRIOR_FLOWS
        time_s = a.time_s[m, slot, k] * memory + PRIOR_FLOWS * gap_s
        log_s = share * np.log(max(own_s / own_flows, 1e-12))
        done_s = a.done_s[m, slot, k] * memory + PRIOR_FLOWS * pooled_done_s
        log_n = share * np.log(max(done_s / max(time_s, 1e-12), 1e-12))
        if first:
            a.log_weight[slot], a.ranked[slot] = log_s, log_n
        else:
            a.log_weight[slot] += log_s
            a.ranked[slot] += log_n


@inner
def _bound(a: Averages, slots: NDArray[np.int64], width: float) -> None:
    """As `agent.act.weights.bounded`."""
    count = len(slots)
    for at in range(count):
        value, hole = a.log_weight[slots[at]], at
        while hole > 0 and a.ranked[hole - 1] > value:
            a.ranked[hole] = a.ranked[hole - 1]
            hole -= 1
        a.ranked[hole] = value
    low, high = a.ranked[0], a.ranked[count - 1]
    if high - low <= width:
        return
    median = 0.5 * (a.ranked[(count - 1) // 2] + a.ranked[count // 2])
    start = min(max(median - 0.5 * width, low), high - width)
    for slot in slots:
        a.log_weight[slot] = min(max(a.log_weight[slot], start), start + width)
