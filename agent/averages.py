"""Mean flow durations and queues a backend over several memories, from the data plane's counters.

Lives here: pure arithmetic on two totals, answers and the sum of their durations, and on the ages
of the flows that still wait. Counters miss no flow, where a reservoir remembers some; so a memory
may be as long as heavy tails need.
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

PRIOR_FLOWS: Final = 8.0
"""Each mean is taken as if that many flows of the service's mean had been seen besides: a backend
is not judged by its first few flows."""
FORGET_SHARE: Final = 0.2
"""A backend's memory fades as if it had answered at least that share of the mean backend's flows:
one that gets none for its bad record becomes average again, and is tried."""

STARVED_SHARE: Final = 0.1
FORGIVE_FLOWS: Final = 32.0
"""Of one that answers less than STARVED_SHARE of the mean, half is forgotten with every
FORGIVE_FLOWS answers a backend, as `ewma` does: one bad flow must not bar it for long."""

EARLY_SLACK: Final = 6.0
"""How many times as long as elsewhere flows may stay after their first byte."""

ELASTICITY_TAU_S: Final = 20.0
RIDGE: Final = 1.0
"""As if that much had been seen of durations that do not answer to the queue at all."""


@dataclass(frozen=True)
class Averages:
    """N backends in the order of `identity`, K memories.

    answers_total, duration_total_ns (N,): the counters as last seen; waiting_age_ns (N,): the ages
    of those that waited then. weight (N, K) in [0, 1]: how much of a memory is filled; total_s
    (N, K): mean times weight; done_s (N, K): the same of what was answered alone; time_s (N, K):
    what passed meanwhile, in seconds a flow of the memory. answers, duration_ns: of all
    backends since the step before. seen (N,) in [0, 1]: how much of ELASTICITY_TAU_S a backend has
    been there; flows_mean, rate_per_s (N,): means of q and of answers a second, times `seen`.
    slope_xy, slope_xx: sums of the regression behind `elasticity`.
    """

    identity: Words
    answers_total: Ints
    duration_total_ns: Ints
    waiting_age_ns: Ints
    weight: Float64
    total_s: Float64
    done_s: Float64
    time_s: Float64
    answers: int
    duration_ns: int
    seen: Float64
    flows_mean: Float64
    rate_per_s: Float64
    slope_xy: float
    slope_xx: float

    def mean_s(self) -> Float64:
        """(N, K) means, drawn to that of all flows by PRIOR_FLOWS; 0 where nothing was answered."""
        pooled = self._pooled(self.total_s)
        flows = self.weight * np.array(MEMORIES_FLOWS)
        own = self.total_s * np.array(MEMORIES_FLOWS) * (pooled > 0.0)
        means: Float64 = (own + PRIOR_FLOWS * pooled) / (flows + PRIOR_FLOWS)
        return means

    def busy(self) -> Float64:
        """(N, K) flows counted here that wait for an answer, in the mean: n_j = lambda_j L_j.

        Little's law: the sum of durations over the time in which they ended. Drawn to all backends'
        by PRIOR_FLOWS, as the means are; 0 where nothing was answered. Of answers alone: with those
        that wait, n_j would go up and down with L_j, and (1 + kappa n_j) / L_j notice neither.
        """
        pooled_s, pooled_gap_s = self._pooled(self.done_s), self._pooled(self.time_s)
        memory = np.array(MEMORIES_FLOWS) * (pooled_s > 0.0)
        time_s = self.time_s * memory + PRIOR_FLOWS * pooled_gap_s
        flows: Float64 = (self.done_s * memory + PRIOR_FLOWS * pooled_s) / np.maximum(time_s, 1e-12)
        return flows

    def _pooled(self, total: Float64) -> Float64:
        """(K,) of all backends, an answer; 0 before the first one."""
        filled = self.weight.sum(axis=0)
        pooled: Float64 = total.sum(axis=0) * (filled > 0.0) / np.maximum(filled, 1e-12)
        return pooled

    def charge(self) -> Float64:
        """(N,) at least 1: what a mean must be multiplied by where a backend answers too early.

        By Little's law flows stay q / rate seconds. A backend whose flows stay far longer than its
        first bytes take, in comparison with the others', gave those bytes before it did the work:
        its durations say nothing about it.
        """
        own_s = self.mean_s()[:, 1]
        told = (self.seen > 0.3) & (self.flows_mean >= 0.5 * self.seen)
        told &= (self.rate_per_s > 0.0) & (own_s > 0.0)
        charge = np.ones(len(own_s))
        if np.count_nonzero(told) > 2:
            ratio = self.flows_mean[told] / (self.rate_per_s[told] * own_s[told])
            charge[told] = np.maximum(ratio / np.median(ratio) / EARLY_SLACK, 1.0)
        return charge

    @property
    def elasticity(self) -> float:
        """By how much, in proportion, durations follow the queue that this balancer knows of.

        About 1 where every flow slows all others down, 0 where servers have CPUs to spare or where
        other balancers' flows, which are not seen, make most of the queue.
        """
        return self.slope_xy / (self.slope_xx + RIDGE)


def follow(snapshot: Snapshot, before: Averages | None, step_s: float) -> Averages:
    """Averages with the answers since `before` taken in; `step_s` seconds have passed.

    A mean is the time that flows waited over the number of answers: the estimate of a mean from
    durations some of which are not over. So a backend that slows down is seen to before the flows
    that it holds are answered.
    """
    identity = snapshot.identity
    count, memories = identity.size, len(MEMORIES_FLOWS)
    zeros = np.zeros(count, np.int64)
    answers_total = snapshot.totals.get(ANSWERS_TOTAL, zeros)
    duration_total_ns = snapshot.totals.get(DURATION_TOTAL, zeros)
    empty = np.zeros((count, memories))
    flows = snapshot.flows.astype(np.float64)
    nothing = np.zeros(count)
    xy = xx = 0.0
    if before is None:
        known_answers, known_ns, known_age_ns = zeros, zeros, zeros
        weight = total_s = done_s = time_s = empty
        seen = flows_mean = rate_per_s = nothing
    else:
        # One that comes back has counted all its life: what it counts from now on is news.
        age_ns = snapshot.waiting_age_ns
        known_answers = carry(identity, before.identity, before.answers_total, answers_total)
        known_ns = carry(identity, before.identity, before.duration_total_ns, duration_total_ns)
        known_age_ns = carry(identity, before.identity, before.waiting_age_ns, age_ns)
        weight = carry(identity, before.identity, before.weight, empty)
        total_s = carry(identity, before.identity, before.total_s, empty)
        done_s = carry(identity, before.identity, before.done_s, empty)
        time_s = carry(identity, before.identity, before.time_s, empty)
        seen = carry(identity, before.identity, before.seen, nothing)
        flows_mean = carry(identity, before.identity, before.flows_mean, nothing)
        rate_per_s = carry(identity, before.identity, before.rate_per_s, nothing)
        xy, xx = before.slope_xy, before.slope_xx

    answers = np.maximum(answers_total - known_answers, 0)
    some = answers > 0
    duration_ns = np.where(some, np.maximum(duration_total_ns - known_ns, 0), 0)
    mean_s = duration_ns / np.maximum(answers, 1) * 1e-9
    # Flows that were given up take their age with them: what is negative is no time.
    grown_ns = snapshot.waiting_age_ns - known_age_ns
    waited_s = np.maximum(duration_total_ns - known_ns + grown_ns, 0) * 1e-9

    elapsed = np.exp(-step_s / ELASTICITY_TAU_S)
    usual_s = total_s[:, 1] / np.maximum(weight[:, 1], 1e-12)
    comparable = some & (weight[:, 1] > 0.1) & (usual_s > 0.0) & (mean_s > 0.0) & (seen > 0.3)
    if comparable.any():
        usual = flows_mean[comparable] / seen[comparable]
        x = np.log((flows[comparable] + 1.0) / (usual + 1.0))
        y = np.log(mean_s[comparable] / usual_s[comparable])
        xy, xx = elapsed * xy + float(x @ y), elapsed * xx + float(x @ x)

    # What the counters hold at first is of nobody knows how long: no rate.
    now = 1.0 - elapsed if before is not None else 0.0
    # All answers of a step count alike: the mean after n of them, each of weight 1/m.
    share = 1.0 / np.array(MEMORIES_FLOWS)
    keep = np.power(1.0 - share, answers[:, None])
    missing = np.maximum(FORGET_SHARE * answers.sum() / max(count, 1) - answers, 0.0)
    fade = np.power(1.0 - share, missing[:, None])
    middle = rate_per_s.sum() / max(count, 1)
    starved = (seen > 0.3) & (rate_per_s < STARVED_SHARE * middle)
    fade[starved] *= 0.5 ** (answers.sum() / (FORGIVE_FLOWS * max(count, 1)))
    each = np.where(some[:, None], (1.0 - keep) / np.maximum(answers, 1)[:, None], share)
    total_s = fade * keep * total_s + each * waited_s[:, None]
    done_s = fade * keep * done_s + (1.0 - keep) * mean_s[:, None]
    if before is None:
        # Since when the counters count is not known: as if the queues had always been those of now.
        time_s = done_s / (flows[:, None] + 1.0)
    else:
        time_s = fade * keep * time_s + step_s * share
    return Averages(
        identity=identity,
        answers_total=answers_total,
        duration_total_ns=duration_total_ns,
        waiting_age_ns=snapshot.waiting_age_ns,
        answers=int(answers.sum()) if before is not None else 0,
        duration_ns=int(duration_ns.sum()) if before is not None else 0,
        weight=fade * keep * weight + (1.0 - keep),
        total_s=total_s,
        done_s=done_s,
        time_s=time_s,
        seen=seen + now * (1.0 - seen),
        flows_mean=flows_mean + now * (flows - flows_mean),
        rate_per_s=rate_per_s + now * (answers / step_s - rate_per_s),
        slope_xy=xy,
        slope_xx=xx,
    )
