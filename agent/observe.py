"""What the policy sees: one Snapshot reduced to features, whatever the number of backends.

Lives here: pure functions of a Snapshot, the Observation before it and the last action.
Never here: I/O, clocks, torch, loops over backends.
Upstream: `shm.snapshot`. Downstream: `agent.act.policy`, `agent.rewards` (duration_s).

Laws: an empty slot (t = 0) is not a sample. Ages are subtracted as integers, nanoseconds do not
fit a float. Every duration is a ratio to the service's own mean, so 1 ms and 10 s look alike. A
backend without samples looks average and says so by its share of valid slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from agent.averages import ANSWERS_TOTAL, DURATION_TOTAL, MEMORIES_FLOWS, Averages, follow
from agent.carry import carry
from agent.settings import ACTIONS
from shm.layout import BACKEND_FAILURES
from shm.peers import FAILURES_TOTAL
from shm.snapshot import Exchanges, Ints, Samples, Snapshot, Words

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

SCALARS: Final = ("mean", "p90", "std", "discounted", "weighted")
FEATURES: Final = (
    "flows",
    "flows_log",
    "waiting",
    "waiting_age",
    *(f"duration_{name}" for name in SCALARS),
    *(f"fct_{name}" for name in SCALARS),
    "duration_recent",
    "newest_age",
    "valid_share",
    "failure_share",
    "arrivals",
    "speed",
    *(f"latency_{int(flows)}" for flows in MEMORIES_FLOWS),
    *(f"last_{name}" for name in ACTIONS),
)
SERVICE_FEATURES: Final = (
    *(f"interarrival_{name}" for name in SCALARS),
    "load",
    "backends_log",
    "answers_log",
    "elasticity",
    "spread",
    "drift",
)
FEATURE_COUNT: Final = len(FEATURES)
SERVICE_COUNT: Final = len(SERVICE_FEATURES)

# The cumulative counters of new flows and exchanges, and of flows failed before a first byte; with
# FAILURES all that is read of the totals. A snapshot without one reads as 0.
ARRIVALS_TOTAL: Final = "flows_total"
EXCHANGES_TOTAL: Final = "exchanges_total"
UNANSWERED_TOTAL: Final = "unanswered_total"
FAILURES: Final = (*BACKEND_FAILURES, FAILURES_TOTAL)

DECAY_PER_S: Final = 0.9  # the papers' discount of a sample by its age
RECENT_DECAY_PER_S: Final = 0.4  # for l_j and L_j: the papers' 0.9 outlives the reservoir itself
SPEED_TAU_S: Final = 2.0  # memory of the apparent speed, many flows but few steps
FAILURE_TAU_S: Final = 5.0  # memory of the share of flows that failed
MOST_ATTEMPTS: Final = 64.0  # that a flow is charged for where all of them fail
CLIP: Final = 3.0


@dataclass(frozen=True)
class Observation:
    """One service at `now_ns`, N backends in the snapshot's order.

    flows (N,): in progress, as dispatch counts them.
    features (N, FEATURE_COUNT) f32, service (SERVICE_COUNT,) f32.
    duration_s (N,): estimate of l_j for rewards, a mean of the last second or two; latency_s and
    busy: L_j and n_j at each of MEMORIES_FLOWS (N, K), of which the base is made. duration_s counts
    flows still open by their age; it and latency_s charge flows that failed without an answer
    (`charge_failed`), which the features show only as the share they are.
    service_duration_s: mean of all valid duration samples (0 if there are none).
    arrivals: flows accepted since the observation before. idle: none of those and none open.
    log_speed, recent_flows, recent_failed (N,), totals, averages: carried on to the next one.
    """

    now_ns: int
    identity: Words
    flows: Ints
    features: Float32
    service: Float32
    duration_s: Float64
    latency_s: Float64
    busy: Float64
    service_duration_s: float
    arrivals: int
    idle: bool
    log_speed: Float32
    arrivals_total: Ints
    failures_total: Ints
    unanswered_total: Ints
    recent_flows: Float32
    recent_failed: Float32
    averages: Averages


@dataclass(frozen=True)
class Reduced:
    """Scalars of M rows of samples, in seconds; rows without samples hold zeros.

    scalars (5, M) in the order of SCALARS; recent (M,) the mean weighted by RECENT_DECAY_PER_S and
    recent_weight (M,) the sum of its weights; count (M,) valid samples; newest_age_s (M,).
    """

    scalars: Float32
    recent: Float32
    recent_weight: Float32
    count: Ints
    newest_age_s: Float32


def reduce_samples(now_ns: int, kinds: Sequence[Samples]) -> Reduced:
    """The five scalars of [MPG] Sec. 4 for all rows (M) of all kinds, one kind after the other.

    mean, 90th percentile (nearest rank), standard deviation, discounted mean
    (1/n) sum 0.9^age_s v and weighted discounted mean sum w v / sum w, w = 0.9^age_s, over the n
    valid samples of a row. Kinds of fewer slots are padded with empty ones.
    """
    age_s, value, empty = _as_floats(now_ns, kinds)
    rows, slots = value.shape
    # A service under load has full reservoirs: then nothing below needs a mask.
    gaps = bool(empty.any())
    count = slots - np.count_nonzero(empty, axis=1) if gaps else np.full(rows, slots)
    n = np.maximum(count, 1).astype(np.float32)

    # One scratch matrix for all that follows: fresh ones cost page faults, more than arithmetic.
    mean = value.sum(axis=1) / n
    scratch = value - mean[:, None]
    if gaps:
        scratch[empty] = 0.0
    std = np.sqrt(np.vecdot(scratch, scratch) / n)

    if gaps:
        age_s[empty] = np.inf  # so that its weights are 0 and it is never the newest
    newest = age_s.min(axis=1, initial=np.inf)
    newest[count == 0] = 0.0
    np.multiply(age_s, np.float32(np.log(DECAY_PER_S)), out=scratch)
    np.exp(scratch, out=scratch)
    weighted_sum = np.vecdot(scratch, value)
    total = scratch.sum(axis=1)
    # Weights that underflow (all samples hours old) leave the plain mean.
    weighted = np.where(total > 1e-30, weighted_sum / np.maximum(total, 1e-30), mean)

    # The newest sample has recent weight 1 here: only the ratio matters, and nothing underflows.
    np.subtract(age_s, newest[:, None], out=scratch)
    scratch *= np.float32(np.log(RECENT_DECAY_PER_S))
    np.exp(scratch, out=scratch)
    recent_total = scratch.sum(axis=1)
    recent = np.vecdot(scratch, value) / np.maximum(recent_total, 1e-30)
    recent_total *= np.exp(newest * np.float32(np.log(RECENT_DECAY_PER_S)))

    p90 = np.zeros(rows, np.float32)
    if slots:
        if gaps:
            value[empty] = np.inf
        value.sort(axis=1)
        rank = np.ceil(n * np.float32(0.9)).astype(np.int64) - 1
        p90 = np.where(count > 0, value[np.arange(rows), rank], 0.0).astype(np.float32)
    scalars = np.stack((mean, p90, std, weighted_sum / n, weighted))
    return Reduced(scalars, recent, recent_total, count, newest)


def _as_floats(now_ns: int, kinds: Sequence[Samples]) -> tuple[Float32, Float32, NDArray[np.bool_]]:
    """Ages and values in seconds, and which slots are empty, (M, K) each; empty values are 0."""
    slots = max(kind.t_ns.shape[1] for kind in kinds)
    t_ns = _stacked([kind.t_ns for kind in kinds], slots)
    empty = t_ns == 0
    age_s = (np.int64(now_ns) - t_ns.view(np.int64)).astype(np.float32)
    age_s *= np.float32(1e-9)
    # A worker may sample after the snapshot's clock was read: such an age is 0.
    np.maximum(age_s, np.float32(0.0), out=age_s)
    value = _stacked([kind.value_ns for kind in kinds], slots).view(np.int64).astype(np.float32)
    value *= np.float32(1e-9)
    if empty.any():
        value[empty] = 0.0
    return age_s, value, empty


def _stacked(parts: Sequence[Words], slots: int) -> Words:
    """All rows of all parts (M, slots), narrower ones padded with zeros."""
    if all(part.shape[1] == slots for part in parts):
        return np.concatenate(parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, slots - part.shape[1]))) for part in parts])


_CLIP = np.float32(CLIP)
_RATIO_MIN, _RATIO_MAX = np.float32(np.exp(-CLIP)), np.float32(np.exp(CLIP))


def log_ratio(value: Float32, reference: float | Float32) -> Float32:
    """log(value / reference) clipped to +-CLIP; 0 where there is no reference."""
    if not isinstance(reference, np.ndarray):
        if reference <= 0.0:
            return np.zeros_like(value)
        reference = np.array(reference, np.float32)
    ratio = value / np.maximum(reference, np.float32(1e-30))
    np.maximum(ratio, _RATIO_MIN, out=ratio)
    np.minimum(ratio, _RATIO_MAX, out=ratio)
    logs: Float32 = np.log(ratio, out=ratio)
    return logs if reference.ndim == 0 else np.where(reference > 0.0, logs, np.float32(0.0))


def _since(
    identity: Words, total: Ints, previous: Observation | None, before: Ints | None
) -> Float32:
    """Growth of a counter since `previous` (N,); a backend that is new has grown from 0."""
    if previous is None or before is None:
        return np.zeros(identity.size, np.float32)
    known = carry(identity, previous.identity, before, np.zeros(identity.size, np.int64))
    grown: Float32 = np.maximum(total - known, 0).astype(np.float32)
    return grown


def charge_open(
    recent_s: Float64, recent_weight: Float64, waiting: Ints, waiting_age_s: Float64
) -> Float64:
    """Mean duration (N,) where open flows that are older than it count by their age.

    A backend that hangs yields no samples; without this it would look as fast as it last was.
    """
    slow = (waiting > 0) & (waiting_age_s > recent_s)
    open_weight = np.where(slow, waiting, 0).astype(np.float64)
    total = recent_weight + open_weight
    charged = (recent_s * recent_weight + waiting_age_s * open_weight) / np.maximum(total, 1e-30)
    return np.where(slow, charged, recent_s)


def charge_failed(means_s: Float64, recent_flows: Float32, recent_failed: Float32) -> Float64:
    """Means (N, K) of durations where a flow that failed without an answer is none that was quick.

    Of a share s of failures: an attempt takes (1 - s) of the mean and s of the slowest backend's,
    and a flow needs 1 / (1 - s) attempts, up to MOST_ATTEMPTS. A backend that resets at once would
    otherwise draw flows by its empty queue. Continuous in s, and nothing at s = 0.
    """
    flows = np.maximum(recent_flows, recent_failed).astype(np.float64)
    share = (recent_failed / np.maximum(flows, 1e-30))[:, None]
    attempt_s = means_s + share * (means_s.max(axis=0) - means_s)
    charged: Float64 = attempt_s / np.maximum(1.0 - share, 1.0 / MOST_ATTEMPTS)
    return charged


def observe(
    snapshot: Snapshot, previous: Observation | None, last_action: Float32 | None = None
) -> Observation:
    """Reduce `snapshot`; `previous` gives the counters to subtract.

    last_action (N, A): what the policy did last, in units of its bounds, in the snapshot's order.
    Where the service counts exchanges, they stand wherever flows are spoken of.
    """
    if snapshot.exchanges is not None:
        snapshot = _of_exchanges(snapshot, snapshot.exchanges)
    identity = snapshot.identity
    count = int(identity.size)
    now_ns = snapshot.now_ns
    zeros = np.zeros(count, np.int64)
    arrivals_total = snapshot.totals.get(ARRIVALS_TOTAL, zeros)
    failures_total = sum((snapshot.totals.get(name, zeros) for name in FAILURES), zeros)
    arrived = _since(
        identity, arrivals_total, previous, previous.arrivals_total if previous else None
    )
    failed = _since(
        identity, failures_total, previous, previous.failures_total if previous else None
    )
    unanswered_total = snapshot.totals.get(UNANSWERED_TOTAL, zeros)
    unanswered = _since(
        identity, unanswered_total, previous, previous.unanswered_total if previous else None
    )
    step_s = 0.25 if previous is None else max((now_ns - previous.now_ns) * 1e-9, 1e-6)

    # Rows :N are durations, N:2N completion times, 2N inter-arrival times.
    both = reduce_samples(now_ns, (snapshot.duration, snapshot.fct, snapshot.interarrival))
    sampled = both.count > 0
    has_duration = sampled[:count]
    service_s, service_fct_s = _pooled_means(both.scalars[0, : 2 * count], sampled[: 2 * count])

    waiting_age_s = snapshot.waiting_age_ns / np.maximum(snapshot.waiting, 1) * 1e-9
    recent = np.where(has_duration, both.recent[:count], service_s).astype(np.float64)
    recent_weight = both.recent_weight[:count].astype(np.float64)
    duration_s = charge_open(recent, recent_weight, snapshot.waiting, waiting_age_s)
    averages = follow(snapshot, previous.averages if previous else None, step_s)
    latency_s = averages.mean_s() * averages.charge()[:, None]

    features = np.zeros((count, FEATURE_COUNT), np.float32)
    # (3, N): each plus 1, so that none is far less than few.
    counts = np.array((snapshot.flows, snapshot.waiting, arrived), np.float32) + np.float32(1.0)
    means = counts.sum(axis=1, keepdims=True) / np.float32(max(count, 1))
    features[:, (0, 2, 18)] = log_ratio(counts, means).T
    features[:, 1] = np.log(counts[0]) * np.float32(0.5)
    if service_s > 0.0:
        features[:, 3] = np.minimum(np.log1p(waiting_age_s / service_s), CLIP)
    # (5, 2N): durations against their service mean, completion times against theirs.
    reference = np.repeat(np.array([service_s, service_fct_s], np.float32), count)
    logs = log_ratio(both.scalars[:, : 2 * count], reference)
    logs[:, ~sampled[: 2 * count]] = 0.0
    features[:, 4:9] = logs[:, :count].T
    features[:, 9:14] = logs[:, count:].T
    log_duration = log_ratio(duration_s.astype(np.float32), service_s)
    features[:, 14] = log_duration
    newest_s = both.newest_age_s[:count] / np.float32(service_s + step_s)
    features[:, 15] = np.minimum(np.log1p(newest_s), CLIP)
    slots = max(snapshot.duration.t_ns.shape[1], 1)
    features[:, 16] = both.count[:count] / np.float32(slots)
    features[:, 17] = np.minimum(failed / np.maximum(arrived, 1.0), 1.0)
    log_speed = _log_speed(identity, features[:, 0] - log_duration, previous, step_s)
    relative = log_speed - log_speed.sum() / np.float32(max(count, 1))
    features[:, 19] = np.minimum(np.maximum(relative, -_CLIP), _CLIP)
    memories = len(MEMORIES_FLOWS)
    middle_s = (latency_s.sum(axis=0) / max(count, 1)).astype(np.float32)
    for memory in range(memories):
        at = 20 + memory
        features[:, at] = log_ratio(latency_s[:, memory].astype(np.float32), middle_s[memory])
    if last_action is not None:
        features[:, 20 + memories :] = last_action

    recent_flows = _decayed(identity, arrived, previous, "recent_flows", step_s)
    recent_failed = _decayed(identity, unanswered, previous, "recent_failed", step_s)
    if recent_failed.any():
        duration_s = charge_failed(duration_s[:, None], recent_flows, recent_failed)[:, 0]
        latency_s = charge_failed(latency_s, recent_flows, recent_failed)

    return Observation(
        now_ns=now_ns,
        identity=identity,
        flows=snapshot.flows,
        features=features,
        service=_service_features(snapshot, both, service_s, averages, previous),
        duration_s=duration_s,
        latency_s=latency_s,
        busy=averages.busy(),
        service_duration_s=service_s,
        arrivals=int(arrived.sum()),
        idle=not arrived.any() and not snapshot.flows.any(),
        log_speed=log_speed,
        arrivals_total=arrivals_total,
        failures_total=failures_total,
        unanswered_total=unanswered_total,
        recent_flows=recent_flows,
        recent_failed=recent_failed,
        averages=averages,
    )


def _of_exchanges(snapshot: Snapshot, exchanges: Exchanges) -> Snapshot:
    """The same service with its exchanges in the place of its flows: one policy serves both."""
    none = np.zeros_like(exchanges.busy)

    def total(*names: str) -> Ints:
        return sum((snapshot.totals.get(name, none) for name in names), none)

    # A flow that failed unanswered was an attempt too, though it may never have asked.
    instead = {
        ARRIVALS_TOTAL: total(EXCHANGES_TOTAL, UNANSWERED_TOTAL),
        ANSWERS_TOTAL: total("exchanges_answered_total"),
        DURATION_TOTAL: total("exchange_ns_total"),
    }
    return replace(
        snapshot,
        flows=exchanges.busy,
        waiting=exchanges.waiting,
        waiting_age_ns=exchanges.waiting_age_ns,
        duration=exchanges.latency,
        totals={**snapshot.totals, **instead},
        exchanges=None,
    )


def _decayed(
    identity: Words,
    now: Float32,
    previous: Observation | None,
    name: Literal["recent_flows", "recent_failed"],
    step_s: float,
) -> Float32:
    """A count (N,) with the memory FAILURE_TAU_S; two of them keep their ratio without news."""
    if previous is None:
        return now.copy()
    before: Float32 = getattr(previous, name)
    kept = carry(identity, previous.identity, before, np.zeros_like(now))
    decayed: Float32 = kept * np.float32(np.exp(-step_s / FAILURE_TAU_S)) + now
    return decayed


def _pooled_means(mean: Float32, sampled: NDArray[np.bool_]) -> tuple[float, float]:
    """Means of durations and completion times over backends that have samples, (2N,) both kinds.

    Each backend counts once, a busy one not more; 0 where none has any.
    """
    counts = sampled.reshape(2, -1).sum(axis=1)
    sums = (mean * sampled).reshape(2, -1).sum(axis=1)
    first, second = (sums / np.maximum(counts, 1)).tolist()
    return first, second


def _log_speed(
    identity: Words, instant: Float32, previous: Observation | None, step_s: float
) -> Float32:
    """Apparent speed, log((q+1) / l) smoothed over SPEED_TAU_S (N,).

    At a processor-sharing backend l grows as (q+1) / speed, so this does not move with the queue
    that the weight itself makes. The mean over backends is left in; only differences matter.
    """
    if previous is None:
        return instant.astype(np.float32)
    before = carry(identity, previous.identity, previous.log_speed, instant)
    keep = np.float32(np.exp(-step_s / SPEED_TAU_S))
    smoothed: Float32 = (keep * before + (1 - keep) * instant).astype(np.float32)
    return smoothed


def _service_features(
    snapshot: Snapshot,
    both: Reduced,
    service_s: float,
    averages: Averages,
    previous: Observation | None,
) -> Float32:
    """Inter-arrival scalars against their mean (the mean against the duration), load, N, then:

    answers_log: answers a backend and step. elasticity: see `Averages`. spread: of durations about
    their backend's mean, which tells heavy tails. drift: how far the short memory is off the long.
    """
    count = snapshot.identity.size
    gaps = both.scalars[:, 2 * count :]
    service = np.zeros(SERVICE_COUNT, np.float32)
    if gaps.shape[1] and gaps[0, 0] > 0.0:
        service[0] = log_ratio(gaps[:1, 0], service_s)[0]
        service[1:5] = log_ratio(gaps[1:, 0], float(gaps[0, 0]))
    if not count:
        return service
    service[5] = np.log1p(snapshot.flows.sum() / count) * 0.5
    service[6] = np.log(count) * 0.5
    if previous is not None:
        before = previous.averages
        known = carry(
            averages.identity, before.identity, before.answers_total, averages.answers_total
        )
        answers = np.maximum(averages.answers_total - known, 0)
        service[7] = np.log1p(answers.sum() / count) * 0.5
    service[8] = min(max(averages.elasticity, -1.0), 2.0)
    mean, std = both.scalars[0, :count], both.scalars[2, :count]
    sampled = mean > 0.0
    if sampled.any():
        spread = np.log(np.maximum(std[sampled], 1e-12) / mean[sampled])
        service[9] = min(max(float(spread.mean()), -CLIP), CLIP)
    means = averages.mean_s()
    if means.any():
        off = np.log(np.maximum(means[:, 0], 1e-12) / np.maximum(means[:, -1], 1e-12))
        service[10] = min(float(off.std()), CLIP)
    return service
