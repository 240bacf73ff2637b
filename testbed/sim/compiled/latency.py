"""Latency averages of one balancer; mirrors `lbd.dispatch.latency.LatencyAverages`."""

from __future__ import annotations

import math

from lbd.dispatch.latency import FAILURE_CAP, FAILURE_FACTOR, FORGIVE_FLOWS
from testbed.sim.compiled.jit import inner, outer
from testbed.sim.compiled.sums import add_up
from testbed.sim.records import State


@inner
def add(s: State, m: int, slot: int, now_ns: float, duration_ns: float) -> float:
    balancer, view = s.balancers[m], s.views[m, slot]
    view.count += 1.0
    if balancer.memory_flows > 0.0:
        share = 1.0 / balancer.memory_flows
    else:
        share = 1.0 - math.exp(-((now_ns - view.last_ns) * 1e-9) / balancer.memory_s)
        view.last_ns = now_ns
    mean = s.mean_ns[m, slot]
    mean += max(share, 1.0 / view.count) * (duration_ns - mean)
    s.mean_ns[m, slot] = mean
    if balancer.failing:
        _discharge(s, m, slot, view.charge / FAILURE_FACTOR)
    balancer.samples += 1
    view.sampled_at = balancer.samples
    return mean


@outer
def forgive(s: State, m: int) -> bool:
    """To be called at every FORGIVE_FLOWS-th sample."""
    balancer = s.balancers[m]
    count = s.q.shape[1]
    known = 0
    for slot in range(count):
        known += s.views[m, slot].count + s.views[m, slot].charge > 1.0
    patience, neutral, any_stale = FORGIVE_FLOWS * known, _neutral(s, m), False
    for slot in range(count):
        view = s.views[m, slot]
        if view.count + view.charge <= 1.0 or balancer.samples - view.sampled_at <= patience:
            continue
        any_stale = True
        if s.mean_ns[m, slot] > neutral:
            s.mean_ns[m, slot] = 0.5 * (s.mean_ns[m, slot] + neutral)
        if view.charge > 1.0:
            _discharge(s, m, slot, view.charge / FAILURE_FACTOR)
        view.sampled_at = balancer.samples
    return any_stale


@outer
def add_failure(s: State, m: int, slot: int, age_ns: float) -> None:
    view = s.views[m, slot]
    view.charge = min(FAILURE_FACTOR * view.charge, FAILURE_CAP)
    view.failed_ns = max(view.failed_ns, age_ns)
    s.balancers[m].failing = 1


@outer
def forget(s: State, m: int, slot: int) -> None:
    """What `LatencyAverages.inherit` knows of a slot whose backend does not stay."""
    view = s.views[m, slot]
    s.mean_ns[m, slot] = view.count = view.last_ns = 0.0
    view.sampled_at = s.balancers[m].samples
    _discharge(s, m, slot, 1.0)


@outer
def _discharge(s: State, m: int, slot: int, charge: float) -> None:
    view = s.views[m, slot]
    if charge <= 1.0:
        charge = 1.0
        view.failed_ns = 0.0
    view.charge = charge
    failing = 0
    for other in range(s.q.shape[1]):
        failing |= s.views[m, other].charge > 1.0
    s.balancers[m].failing = failing


@outer
def _neutral(s: State, m: int) -> float:
    """Mean over the backends that have samples, else 1 ns. Overwrites `filled_ns`."""
    seen = 0
    for slot in range(s.q.shape[1]):
        if s.views[m, slot].count > 0:
            s.filled_ns[seen] = s.mean_ns[m, slot]
            seen += 1
    return add_up(s.filled_ns, seen) / seen if seen else 1.0


@outer
def fill(s: State, m: int) -> None:
    """Positive means (N,) into `filled_ns`; see `LatencyAverages.filled_ns`."""
    neutral = _neutral(s, m)
    worst = 0.0
    for slot in range(s.q.shape[1]):
        seen = s.views[m, slot].count > 0
        s.filled_ns[slot] = max(s.mean_ns[m, slot] if seen else neutral, 1.0)
        worst = max(worst, s.filled_ns[slot])
    if s.balancers[m].failing:
        for slot in range(s.q.shape[1]):
            view = s.views[m, slot]
            if view.charge > 1.0:
                s.filled_ns[slot] = max(worst * view.charge, view.failed_ns)
