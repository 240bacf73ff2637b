"""The flows of a run, drawn before it: times, balancers, sizes, link latencies.

Lives here: the draws. Two policies on the same seed meet the very same flows, which is what makes
them comparable flow by flow. Never here: anything that depends on a policy's choices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.load.sizes import draw
from testbed.load.trace import read_trace
from testbed.sim.scenario import Application, Scenario, Size

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

STAGES = 5
"""Most stages a flow has; unused ones have no work."""


@dataclass(frozen=True)
class Workload:
    """F flows in order of arrival at their balancers.

    at_s (F,), balancer (F,), client (F,) is a hash of the source; work_s (F, STAGES) seconds of
    work at speed 1, CPU and I/O in turn; there_s, back_s (F,) to and from the server, edge_s (F,)
    between client and balancer, both ways together.
    """

    at_s: Floats
    balancer: Integers
    client: Integers
    work_s: Floats
    there_s: Floats
    back_s: Floats
    edge_s: Floats

    def __len__(self) -> int:
        return len(self.at_s)


def draw_workload(scenario: Scenario, seed: int) -> Workload:
    """Each column has a stream of its own, so that changing one leaves the others as they are."""
    streams = [np.random.default_rng([seed, number]) for number in range(5)]
    at_s = arrival_times(scenario, streams[0])
    count = len(at_s)
    low, high = scenario.link_s
    links = streams[4].uniform(low, high, (4, count))
    return Workload(
        at_s=at_s,
        balancer=streams[1].integers(scenario.balancers, size=count),
        client=_clients(scenario.clients, count, streams[2]),
        work_s=_work(scenario.applications, count, streams[3]),
        there_s=links[0],
        back_s=links[1],
        edge_s=links[2] + links[3],
    )


def _clients(clients: int, count: int, rng: np.random.Generator) -> Integers:
    return rng.integers(1 << 62, size=clients)[rng.integers(clients, size=count)]


def arrival_times(scenario: Scenario, rng: np.random.Generator) -> Floats:
    """Ascending times in [0, duration_s): a Poisson process of unit rate, bent to the rate."""
    arrivals, duration_s = scenario.arrivals, scenario.duration_s
    rate = scenario.rate_per_s()
    if arrivals.trace is not None:
        return read_trace(arrivals.trace).at_rate(rate).lasting(duration_s).planned_s
    times, rates = _rate_curve(scenario, rng)
    # Cumulative expected arrivals at the breakpoints, exact for a rate that is linear between.
    steps = np.diff(times) * 0.5 * (rates[1:] + rates[:-1]) * rate
    cumulative = np.concatenate([[0.0], np.cumsum(steps)])
    expected = cumulative[-1]
    block = int(expected + 8.0 * np.sqrt(expected) + 16)
    unit = np.cumsum(rng.standard_exponential(block))
    while unit[-1] < expected:
        unit = np.concatenate([unit, unit[-1] + np.cumsum(rng.standard_exponential(block))])
    unit = unit[unit < expected]
    return _invert(unit, times, rates * rate, cumulative)


def _invert(unit: Floats, times: Floats, rates: Floats, cumulative: Floats) -> Floats:
    """Times at which the integral of the piecewise-linear rate reaches `unit`."""
    at = np.clip(np.searchsorted(cumulative, unit, side="right") - 1, 0, len(times) - 2)
    left = unit - cumulative[at]
    span = times[at + 1] - times[at]
    rate, slope = rates[at], np.where(span > 0, rates[at + 1] - rates[at], 0.0)
    slope = slope / np.where(span > 0, span, 1.0)
    # Root of slope/2 t^2 + rate t = left, in the form that does not cancel.
    root = np.sqrt(np.maximum(rate * rate + 2.0 * slope * left, 0.0))
    return times[at] + 2.0 * left / np.maximum(rate + root, 1e-300)


def _rate_curve(scenario: Scenario, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Breakpoints (s) and the rate's factor at them, bursts included; twice where it jumps."""
    arrivals, duration_s = scenario.arrivals, scenario.duration_s
    points = np.array(arrivals.profile or ((0.0, 1.0),))
    times = np.clip(np.concatenate([[0.0], points[:, 0], [duration_s]]), 0.0, duration_s)
    if arrivals.burst_ratio == 1.0:
        return _pieces(np.unique(times), points)
    share = arrivals.burst_s / (arrivals.burst_s + arrivals.calm_s)
    calm = 1.0 / (1.0 - share + share * arrivals.burst_ratio)
    edges, states, now_s, state = [0.0], [], 0.0, int(rng.random() < share)
    while now_s < duration_s:
        now_s += rng.exponential(arrivals.burst_s if state else arrivals.calm_s)
        edges.append(min(now_s, duration_s))
        states.append(state)
        state = 1 - state
    levels = calm * np.where(np.array(states) == 1, arrivals.burst_ratio, 1.0)
    times = np.unique(np.concatenate([times, edges]))
    at = np.clip(np.searchsorted(edges, times[:-1], side="right") - 1, 0, len(levels) - 1)
    both, factor = _pieces(times, points)
    return both, factor * np.repeat(levels[at], 2)


def _pieces(times: Floats, points: Floats) -> tuple[Floats, Floats]:
    """The profile of `points` (P, 2) between neighbours of `times`: start and end of each piece.

    No point lies within a piece. Before the first and after the last point the factor stays.
    """
    starts, ends = times[:-1], times[1:]
    at, factor = points[:, 0], points[:, 1]
    # A step has two points at one time: a piece begins at the later and ends at the earlier.
    left = np.searchsorted(at, starts, side="right") - 1
    right = np.minimum(left + 1, len(at) - 1)
    left = np.maximum(left, 0)
    span = at[right] - at[left]
    slope = (factor[right] - factor[left]) / np.where(span > 0, span, 1.0)
    both = np.stack([starts, ends], axis=1)
    curve = factor[left, None] + slope[:, None] * np.maximum(both - at[left, None], 0.0)
    return both.ravel(), curve.ravel()


def _work(applications: tuple[Application, ...], count: int, rng: np.random.Generator) -> Floats:
    shares = np.array([application.share for application in applications])
    kind = rng.choice(len(applications), size=count, p=shares / shares.sum())
    work_s = np.zeros((count, STAGES))
    for number, application in enumerate(applications):
        rows = np.flatnonzero(kind == number)
        if application.together:
            means = np.array([size.mean_s for _, size in application.stages])
            first = application.stages[0][1]
            total = draw_size(first.model_copy(update={"mean_s": means.sum()}), len(rows), rng)
            work_s[rows[:, None], np.arange(len(means))] = total[:, None] * (means / means.sum())
            continue
        for stage, (_, size) in enumerate(application.stages):
            work_s[rows, stage] = draw_size(size, len(rows), rng)
    return work_s


def draw_size(size: Size, count: int, rng: np.random.Generator) -> Floats:
    """`count` sizes in seconds."""
    if size.values_s:
        values = np.array(size.values_s)
        return rng.choice(values, size=count) * (size.mean_s / values.mean())
    sizes = draw(size.law, size.mean_s, size.cv, count, rng)
    if size.heavy_share > 0.0:
        light = 1.0 / (1.0 - size.heavy_share + size.heavy_share * size.heavy_ratio)
        heavy = rng.random(count) < size.heavy_share
        sizes *= np.where(heavy, size.heavy_ratio * light, light)
    return sizes
