"""What the policy sees: one Snapshot reduced to features, whatever the number of backends.

Lives here: pure functions of a Snapshot, the Observation before it and the last action.
Never here: I/O, clocks, torch, loops over backends.
Upstream: `shm.snapshot`. Downstream: `agent.act.policy`, `agent.rewards` (duration_s).

Laws: an empty slot (t = 0) is not a sample. Ages are subtracted as integers, nanoseconds do not
fit a float. Every duration is a ratio to the service's own mean, so 1 ms and 10 s look alike. A
backend without samples looks average and says so by its share of valid slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shm.snapshot import Ints, Samples, Snapshot, Words

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
    "log_weight",
)
SERVICE_FEATURES: Final = (
    *(f"interarrival_{name}" for name in SCALARS),
    "load",
    "backends_log",
)
FEATURE_COUNT: Final = len(FEATURES)
SERVICE_COUNT: Final = len(SERVICE_FEATURES)

# Cumulative counters of the data plane that are read here; a region without one reads as 0.
ARRIVALS_TOTAL: Final = "accepted"
FAILURES_TOTAL: Final = "failed"

DECAY_PER_S: Final = 0.9  # the papers' discount of a sample by its age
RECENT_DECAY_PER_S: Final = 0.4  # for l_j and L_j: the papers' 0.9 outlives the reservoir itself
SPEED_TAU_S: Final = 2.0  # memory of the apparent speed, many flows but few steps
CLIP: Final = 3.0


@dataclass(frozen=True)
class Observation:
    """One service at `now_ns`, N backends in the snapshot's order.

    features (N, FEATURE_COUNT) f32, service (SERVICE_COUNT,) f32.
    duration_s (N,): estimate of l_j for rewards; latency_s (N,): L_j of the base; both recent
    weighted means that count flows still open by their age.
    service_duration_s: mean of all valid duration samples (0 if there are none).
    arrivals: flows accepted since the observation before. idle: none of those and none open.
    log_speed (N,), totals: carried on to the next observation.
    """

    now_ns: int
    identity: Words
    features: Float32
    service: Float32
    duration_s: Float64
    latency_s: Float64
    service_duration_s: float
    arrivals: int
    idle: bool
    log_speed: Float32
    arrivals_total: Ints
    failures_total: Ints


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


def reduce_samples(now_ns: int, t_ns: Words, value_ns: Words) -> Reduced:
    """The five scalars of [MPG] Sec. 4 for rows of samples (M, K).

    mean, 90th percentile (nearest rank), standard deviation, discounted mean
    (1/n) sum 0.9^age_s v and weighted discounted mean sum w v / sum w, w = 0.9^age_s, over the n
    valid samples of a row.
    """
    rows, slots = t_ns.shape
    if slots == 0:
        zero = np.zeros(rows, np.float32)
        nothing = np.zeros((len(SCALARS), rows), np.float32)
        return Reduced(nothing, zero, zero, np.zeros(rows, np.int64), zero)
    empty = t_ns == 0
    # A worker may sample after the snapshot's clock was read: such an age is 0, not 2^64.
    age_ns = np.maximum(np.int64(now_ns) - t_ns.view(np.int64), 0)
    age_s = age_ns.astype(np.float32)
    age_s *= np.float32(1e-9)
    value = value_ns.astype(np.float32)
    value *= np.float32(1e-9)
    value[empty] = 0.0
    count = slots - np.count_nonzero(empty, axis=1)
    n = np.maximum(count, 1).astype(np.float32)

    mean = value.sum(axis=1) / n
    deviation = value - mean[:, None]
    deviation[empty] = 0.0
    std = np.sqrt(np.einsum("mk,mk->m", deviation, deviation) / n)

    age_s[empty] = np.inf  # so that its weights are 0 and it is never the newest
    newest = age_s.min(axis=1)
    newest[count == 0] = 0.0
    weight = np.exp(age_s * np.float32(np.log(DECAY_PER_S)))
    weighted_sum = np.einsum("mk,mk->m", weight, value)
    # Weights that underflow (all samples hours old) leave the plain mean.
    total = weight.sum(axis=1)
    weighted = np.where(total > 1e-30, weighted_sum / np.maximum(total, 1e-30), mean)
    # The newest sample has recent weight 1 here: only the ratio matters, and nothing underflows.
    age_s -= newest[:, None]
    recent = np.exp(age_s * np.float32(np.log(RECENT_DECAY_PER_S)))
    recent_total = recent.sum(axis=1)
    recent_mean = np.einsum("mk,mk->m", recent, value) / np.maximum(recent_total, 1e-30)
    recent_total *= np.exp(newest * np.float32(np.log(RECENT_DECAY_PER_S)))

    value[empty] = np.inf
    value.sort(axis=1)
    rank = np.ceil(n * np.float32(0.9)).astype(np.int64) - 1
    p90 = value[np.arange(rows), rank]
    p90[count == 0] = 0.0
    scalars = np.stack((mean, p90, std, weighted_sum / n, weighted))
    return Reduced(scalars, recent_mean, recent_total, count, newest)


def log_ratio(value: Float32, reference: float) -> Float32:
    """log(value / reference) clipped to +-CLIP; 0 where there is no reference."""
    if reference <= 0.0:
        return np.zeros_like(value)
    ratio = np.maximum(value / np.float32(reference), np.float32(np.exp(-CLIP)))
    return np.minimum(np.log(ratio), np.float32(CLIP))


def carry(
    identity: Words, before: Words, values: NDArray[np.generic], missing: NDArray[np.generic]
) -> NDArray[np.generic]:
    """Rows of `values`, which belong to `before`, in the order of `identity`; else `missing`.

    values (M, …) for identities `before` (M,); missing (N, …); returns (N, …).
    """
    if identity.shape == before.shape and np.array_equal(identity, before):
        return values.copy()
    result = missing.copy()
    if before.size:
        order = np.argsort(before)
        at = order[np.minimum(np.searchsorted(before[order], identity), before.size - 1)]
        known = before[at] == identity
        result[known] = values[at[known]]
    return result


def _stack(duration: Samples, fct: Samples) -> tuple[Words, Words] | None:
    """Both kinds as one (2N, K), so that one pass reduces both; None if their K differ."""
    if duration.t_ns.shape != fct.t_ns.shape:
        return None
    t_ns = np.concatenate((duration.t_ns, fct.t_ns))
    return t_ns, np.concatenate((duration.value_ns, fct.value_ns))


def _since(
    identity: Words, total: Ints, previous: Observation | None, before: Ints | None
) -> Float32:
    """Growth of a counter since `previous` (N,); a backend that is new has grown from 0."""
    if previous is None or before is None:
        return np.zeros(identity.size, np.float32)
    known = carry(identity, previous.identity, before, np.zeros(identity.size, np.int64))
    return np.maximum(total - known, 0).astype(np.float32)


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


def observe(
    snapshot: Snapshot, previous: Observation | None, log_weight: Float32 | None = None
) -> Observation:
    """Reduce `snapshot`; `previous` gives the counters to subtract, `log_weight` the last action.

    log_weight (N,): the last action of the policy over its bound, in the snapshot's order.
    """
    identity = snapshot.identity
    count = int(identity.size)
    now_ns = snapshot.now_ns
    zeros = np.zeros(count, np.int64)
    arrivals_total = snapshot.totals.get(ARRIVALS_TOTAL, zeros)
    failures_total = snapshot.totals.get(FAILURES_TOTAL, zeros)
    arrived = _since(
        identity, arrivals_total, previous, previous.arrivals_total if previous else None
    )
    failed = _since(
        identity, failures_total, previous, previous.failures_total if previous else None
    )
    step_s = 0.25 if previous is None else max((now_ns - previous.now_ns) * 1e-9, 1e-6)

    stacked = _stack(snapshot.duration, snapshot.fct)
    if stacked is not None:
        both = reduce_samples(now_ns, *stacked)
    else:
        both = _join(
            reduce_samples(now_ns, snapshot.duration.t_ns, snapshot.duration.value_ns),
            reduce_samples(now_ns, snapshot.fct.t_ns, snapshot.fct.value_ns),
        )
    # duration[..., :N], fct[..., N:]
    sampled = both.count > 0
    has_duration, has_fct = sampled[:count], sampled[count:]
    service_s = _pooled_mean(both.scalars[0, :count], both.count[:count])
    service_fct_s = _pooled_mean(both.scalars[0, count:], both.count[count:])

    waiting_age_s = snapshot.waiting_age_ns / np.maximum(snapshot.waiting, 1) * 1e-9
    recent = np.where(has_duration, both.recent[:count], service_s).astype(np.float64)
    recent_weight = both.recent_weight[:count].astype(np.float64)
    duration_s = charge_open(recent, recent_weight, snapshot.waiting, waiting_age_s)

    features = np.zeros((count, FEATURE_COUNT), np.float32)
    flows = (snapshot.flows + 1).astype(np.float32)
    features[:, 0] = log_ratio(flows, float(flows.mean()) if count else 0.0)
    features[:, 1] = np.log(flows) * np.float32(0.5)
    waiting = (snapshot.waiting + 1).astype(np.float32)
    features[:, 2] = log_ratio(waiting, float(waiting.mean()) if count else 0.0)
    if service_s > 0.0:
        features[:, 3] = np.minimum(np.log1p(waiting_age_s / service_s), CLIP)
    features[:, 4:9] = np.where(
        has_duration, log_ratio(both.scalars[:, :count], service_s), np.float32(0.0)
    ).T
    features[:, 9:14] = np.where(
        has_fct, log_ratio(both.scalars[:, count:], service_fct_s), np.float32(0.0)
    ).T
    log_duration = log_ratio(duration_s.astype(np.float32), service_s)
    features[:, 14] = log_duration
    newest_s = both.newest_age_s[:count] / np.float32(service_s + step_s)
    features[:, 15] = np.minimum(np.log1p(newest_s), CLIP)
    slots = max(snapshot.duration.t_ns.shape[1], 1)
    features[:, 16] = both.count[:count] / np.float32(slots)
    features[:, 17] = np.minimum(failed / np.maximum(arrived, 1.0), 1.0)
    features[:, 18] = log_ratio(arrived + 1.0, float(arrived.mean()) + 1.0 if count else 0.0)
    log_speed = _log_speed(identity, features[:, 0] - log_duration, previous, step_s)
    features[:, 19] = np.clip(log_speed - log_speed.mean() if count else log_speed, -CLIP, CLIP)
    if log_weight is not None:
        features[:, 20] = log_weight

    return Observation(
        now_ns=now_ns,
        identity=identity,
        features=features,
        service=_service_features(snapshot, service_s),
        duration_s=duration_s,
        latency_s=duration_s,
        service_duration_s=service_s,
        arrivals=int(arrived.sum()),
        idle=not arrived.any() and not snapshot.flows.any(),
        log_speed=log_speed,
        arrivals_total=arrivals_total,
        failures_total=failures_total,
    )


def _join(duration: Reduced, fct: Reduced) -> Reduced:
    return Reduced(
        np.concatenate((duration.scalars, fct.scalars), axis=1),
        np.concatenate((duration.recent, fct.recent)),
        np.concatenate((duration.recent_weight, fct.recent_weight)),
        np.concatenate((duration.count, fct.count)),
        np.concatenate((duration.newest_age_s, fct.newest_age_s)),
    )


def _pooled_mean(mean: Float32, count: Ints) -> float:
    """Mean over backends that have samples; each backend counts once, a busy one not more."""
    sampled = count > 0
    return float(mean[sampled].mean()) if sampled.any() else 0.0


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


def _service_features(snapshot: Snapshot, service_s: float) -> Float32:
    """Inter-arrival scalars against their mean (the mean against the duration), load, N."""
    count = snapshot.identity.size
    service = np.zeros(SERVICE_COUNT, np.float32)
    gaps = reduce_samples(
        snapshot.now_ns, snapshot.interarrival.t_ns, snapshot.interarrival.value_ns
    )
    if gaps.count.size and gaps.count[0]:
        scalars = gaps.scalars[:, 0]
        mean_s = float(scalars[0])
        service[0] = log_ratio(scalars[:1], service_s)[0]
        service[1:5] = log_ratio(scalars[1:], mean_s)
    if count:
        service[5] = np.log1p(snapshot.flows.sum() / count) * 0.5
        service[6] = np.log(count) * 0.5
    return service
