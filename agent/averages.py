"""Mean flow durations a backend over several memories, from the counters of the data plane.

Lives here: pure arithmetic on two totals, answers and the sum of their durations. Counters miss no
flow, where a reservoir remembers some; so a memory may be as long as heavy tails need.
Never here: features, I/O, clocks.
Upstream: `shm.snapshot` totals. Downstream: `agent.observe`, and the base of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.carry import carry
from shm.snapshot import Ints, Snapshot, Words

Float64 = NDArray[np.float64]

ANSWERS_TOTAL: Final = "first_byte_total"
DURATION_TOTAL: Final = "duration_ns_total"

MEMORIES_FLOWS: Final = (50.0, 300.0, 1800.0)
"""Short, medium, long: heavy tails need two thousand flows, a change of capacity some fifty."""

ELASTICITY_TAU_S: Final = 20.0
RIDGE: Final = 1.0
"""As if that much had been seen of durations that do not answer to the queue at all."""


@dataclass(frozen=True)
class Averages:
    """N backends in the order of `identity`, K memories.

    answers_total, duration_total_ns (N,): the counters as last seen. weight (N, K) in [0, 1]: how
    much of a memory is filled; total_s (N, K): mean times weight. flows_mean (N,): q lately.
    slope_xy, slope_xx: sums of the regression behind `elasticity`.
    """

    identity: Words
    answers_total: Ints
    duration_total_ns: Ints
    weight: Float64
    total_s: Float64
    flows_mean: Float64
    slope_xy: float
    slope_xx: float

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) whether a backend has answered at all."""
        known: NDArray[np.bool_] = self.weight[:, 0] > 0.0
        return known

    def mean_s(self) -> Float64:
        """(N, K) means; a backend that never answered counts as the mean of the others, or 0."""
        means = self.total_s / np.maximum(self.weight, 1e-12)
        known = self.known
        if known.all() or not known.any():
            return means
        means[~known] = means[known].mean(axis=0)
        return means

    @property
    def elasticity(self) -> float:
        """By how much, in proportion, durations follow the queue that this balancer sees.

        About 1 where every flow slows all others down, 0 where servers have CPUs to spare or where
        other balancers' flows, which are not seen, make most of the queue.
        """
        return self.slope_xy / (self.slope_xx + RIDGE)


def follow(snapshot: Snapshot, before: Averages | None, step_s: float) -> Averages:
    """Averages with the answers since `before` taken in; `step_s` seconds have passed."""
    identity = snapshot.identity
    count, memories = identity.size, len(MEMORIES_FLOWS)
    zeros = np.zeros(count, np.int64)
    answers_total = snapshot.totals.get(ANSWERS_TOTAL, zeros)
    duration_total_ns = snapshot.totals.get(DURATION_TOTAL, zeros)
    empty = np.zeros((count, memories))
    flows = snapshot.flows.astype(np.float64)
    xy = xx = 0.0
    if before is None:
        known_answers, known_ns, weight, total_s = zeros, zeros, empty, empty
        flows_mean = flows
    else:
        known_answers = carry(identity, before.identity, before.answers_total, zeros)
        known_ns = carry(identity, before.identity, before.duration_total_ns, zeros)
        weight = carry(identity, before.identity, before.weight, empty)
        total_s = carry(identity, before.identity, before.total_s, empty)
        flows_mean = carry(identity, before.identity, before.flows_mean, flows)
        xy, xx = before.slope_xy, before.slope_xx

    answers = np.maximum(answers_total - known_answers, 0)
    some = answers > 0
    mean_s = np.where(some, (duration_total_ns - known_ns) / np.maximum(answers, 1), 0.0) * 1e-9
    mean_s = np.maximum(mean_s, 0.0)

    fade = np.exp(-step_s / ELASTICITY_TAU_S)
    usual_s = total_s[:, 1] / np.maximum(weight[:, 1], 1e-12)
    comparable = some & (weight[:, 1] > 0.1) & (usual_s > 0.0) & (mean_s > 0.0)
    if comparable.any():
        x = np.log((flows[comparable] + 1.0) / (flows_mean[comparable] + 1.0))
        y = np.log(mean_s[comparable] / usual_s[comparable])
        xy, xx = fade * xy + float(x @ y), fade * xx + float(x @ x)

    # All answers of a step count alike: the mean after n of them, each of weight 1/m.
    keep = np.power(1.0 - 1.0 / np.array(MEMORIES_FLOWS), answers[:, None])
    return Averages(
        identity=identity,
        answers_total=answers_total,
        duration_total_ns=duration_total_ns,
        weight=keep * weight + (1.0 - keep),
        total_s=keep * total_s + (1.0 - keep) * mean_s[:, None],
        flows_mean=flows_mean + (1.0 - fade) * (flows - flows_mean),
        slope_xy=xy,
        slope_xx=xx,
    )
