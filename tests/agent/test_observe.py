from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make import NOW_NS, no_samples, permuted, samples, snapshot

from agent.observe import (
    CLIP,
    FEATURE_COUNT,
    FEATURES,
    MOST_ATTEMPTS,
    SERVICE_COUNT,
    carry,
    charge_failed,
    charge_open,
    observe,
    reduce_samples,
)
from shm.peers import FAILURES_TOTAL
from shm.snapshot import Exchanges, Samples

COLUMN = {name: index for index, name in enumerate(FEATURES)}


def by_loop(ages_s, values_s):
    """The five scalars from their definitions, one sample at a time."""
    n = len(values_s)
    weights = [0.9**age for age in ages_s]
    weighted = sum(w * v for w, v in zip(weights, values_s, strict=True))
    rank = int(np.ceil(0.9 * n)) - 1
    return [
        np.mean(values_s),
        sorted(values_s)[rank],
        np.std(values_s),
        weighted / n,
        weighted / sum(weights),
    ]


@given(
    st.lists(st.tuples(st.floats(0, 60), st.floats(1e-4, 10)), min_size=1, max_size=20),
    st.integers(0, 12),
)
def test_scalars_follow_their_definitions_and_empty_slots_count_for_nothing(pairs, empty):
    t_ns = [NOW_NS - int(age * 1e9) for age, _ in pairs] + [0] * empty
    value_ns = [int(value * 1e9) for _, value in pairs] + [7 * 10**9] * empty
    got = reduce_samples(
        NOW_NS, [Samples(np.array([t_ns], np.uint64), np.array([value_ns], np.uint64))]
    )
    wanted = by_loop(*zip(*pairs, strict=True))
    assert got.count[0] == len(pairs)
    assert got.scalars[:, 0] == pytest.approx(wanted, rel=2e-3, abs=2e-4)
    assert got.newest_age_s[0] == pytest.approx(min(age for age, _ in pairs), abs=1e-5)


def test_a_row_without_samples_reduces_to_zeros():
    got = reduce_samples(
        NOW_NS, [Samples(np.zeros((3, 4), np.uint64), np.full((3, 4), 9, np.uint64))]
    )
    assert not got.scalars.any()
    assert not got.count.any()


def test_a_millisecond_is_resolved_after_a_month_of_uptime():
    t = np.array([[NOW_NS - 1_000_000]], np.uint64)
    assert reduce_samples(NOW_NS, [Samples(t, t)]).newest_age_s[0] == pytest.approx(1e-3, rel=1e-5)


def test_a_sample_taken_after_the_clock_was_read_has_age_zero():
    t = np.array([[NOW_NS + 5_000]], np.uint64)
    assert reduce_samples(NOW_NS, [Samples(t, t)]).newest_age_s[0] == 0.0


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
def test_features_are_finite_and_bounded_for_any_number_of_backends(count):
    seen = observe(snapshot(count), None)
    assert seen.features.shape == (count, FEATURE_COUNT)
    assert seen.service.shape == (SERVICE_COUNT,)
    assert np.all(np.isfinite(seen.features))
    assert np.all(np.isfinite(seen.service))
    assert np.all(np.abs(seen.features) <= 2 * CLIP)


@given(st.floats(-2, 2))
def test_it_does_not_matter_whether_a_request_takes_1_ms_or_10_s(log10_scale):
    base = snapshot(5, waiting=np.zeros(5, np.int64), waiting_age_ns=np.zeros(5, np.int64))
    scale = 10.0**log10_scale

    def scaled(kind):
        return Samples(kind.t_ns, np.rint(kind.value_ns * scale).astype(np.uint64))

    other = replace(base, duration=scaled(base.duration), fct=scaled(base.fct))
    a, b = observe(base, None), observe(other, None)
    kept = [i for i, name in enumerate(FEATURES) if name != "newest_age"]
    assert a.features[:, kept] == pytest.approx(b.features[:, kept], abs=1e-3)


@settings(max_examples=20)
@given(st.integers(0, 99))
def test_the_order_of_backends_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    first, order = snapshot(6, seed), rng.permutation(6)
    second = replace(snapshot(6, seed + 1), now_ns=NOW_NS + 250_000_000)
    plain = observe(second, observe(first, None))
    other = observe(permuted(second, order), observe(permuted(first, rng.permutation(6)), None))
    assert other.features == pytest.approx(plain.features[order], abs=1e-5)
    assert other.duration_s == pytest.approx(plain.duration_s[order])


def test_a_backend_without_samples_looks_average_and_says_so():
    base = snapshot(3)
    t_ns = base.duration.t_ns.copy()
    t_ns[1] = 0
    seen = observe(replace(base, duration=Samples(t_ns, base.duration.value_ns)), None)
    for name in ("duration_mean", "duration_p90", "duration_std", "duration_weighted"):
        assert seen.features[1, COLUMN[name]] == 0.0
    assert seen.features[1, COLUMN["valid_share"]] == 0.0
    assert seen.features[0, COLUMN["valid_share"]] == 1.0
    assert np.isfinite(seen.duration_s).all()


def test_open_flows_older_than_the_mean_are_charged_their_age():
    recent, weight = np.array([0.1, 0.1, 0.1]), np.array([10.0, 10.0, 10.0])
    waiting, age_s = np.array([0, 10, 10]), np.array([0.0, 0.05, 3.1])
    assert charge_open(recent, weight, waiting, age_s) == pytest.approx([0.1, 0.1, 1.6])


def test_a_backend_that_hangs_looks_slow_before_any_flow_ends():
    base = snapshot(4, waiting=np.array([0, 0, 20, 0]))
    hung = replace(base, waiting_age_ns=np.array([0, 0, 20 * 5 * 10**9, 0]))
    assert np.argmax(observe(hung, None).duration_s) == 2


def test_failures_and_arrivals_count_since_the_step_before():
    totals = {name: np.full(2, 100) for name in ("flows_total", "connect_failed_total")}
    first = observe(snapshot(2, totals=totals), None)
    grown = {"flows_total": np.array([110, 104]), "connect_failed_total": np.array([105, 100])}
    seen = observe(snapshot(2, totals=grown), first)
    assert seen.arrivals == 14
    assert seen.features[:, COLUMN["failure_share"]] == pytest.approx([0.5, 0.0])


def test_what_failed_at_other_balancers_is_a_failure_too():
    first = observe(
        snapshot(2, totals={"flows_total": np.array([100, 100]), FAILURES_TOTAL: np.zeros(2, int)}),
        None,
    )
    grown = {"flows_total": np.array([110, 104]), FAILURES_TOTAL: np.array([0, 1])}
    seen = observe(snapshot(2, totals=grown), first)
    assert seen.features[:, COLUMN["failure_share"]] == pytest.approx([0.0, 0.25])


def test_a_new_backend_has_grown_from_zero_and_a_known_one_keeps_its_count():
    first = observe(snapshot(2, totals={"flows_total": np.array([100, 100])}), None)
    later = snapshot(
        2, identity=np.array([2, 9], np.uint64), totals={"flows_total": np.array([103, 4])}
    )
    assert observe(later, first).arrivals == 7


def test_carry_follows_identities():
    known = np.array([5, 3, 8], np.uint64)
    got = carry(np.array([8, 4, 5], np.uint64), known, np.array([1, 2, 3]), np.full(3, -1))
    assert got.tolist() == [3, -1, 1]


def test_a_service_without_any_traffic_is_idle_and_neutral():
    nothing = np.zeros(3, np.int64)
    base = snapshot(
        3,
        flows=nothing,
        waiting=nothing,
        waiting_age_ns=nothing,
        totals={},
        duration=no_samples(3),
        fct=no_samples(3),
        interarrival=no_samples(1),
    )
    seen = observe(base, None)
    assert seen.idle
    assert not seen.features.any()
    assert seen.service_duration_s == 0.0


def test_kinds_may_differ_in_their_number_of_slots():
    base = snapshot(3)
    wide = replace(base, interarrival=no_samples(1, 64), fct=no_samples(3, 5))
    narrow = replace(base, interarrival=no_samples(1, 1), fct=no_samples(3, 0))
    other = observe(narrow, None)
    assert observe(wide, None).features == pytest.approx(other.features, abs=1e-6)


def test_where_exchanges_are_counted_they_stand_in_for_flows() -> None:
    """The same load told as flows and as exchanges is one observation, whatever the flows are."""
    told, resting = snapshot(4, 1), snapshot(4, 2)
    exchanges = Exchanges(told.flows, told.waiting, told.waiting_age_ns, told.duration)
    counted = {
        "flows_total": "exchanges_total",
        "first_byte_total": "exchanges_answered_total",
        "duration_ns_total": "exchange_ns_total",
    }
    answered = np.arange(1, 5)
    averaged = {"first_byte_total": answered, "duration_ns_total": answered**2 * 10**8}
    told = replace(told, totals={**told.totals, **averaged})
    totals = {name: np.zeros(4, np.int64) for name in counted}
    totals |= {instead: told.totals[name] for name, instead in counted.items()}
    seen = observe(
        replace(
            resting,
            totals=totals,
            exchanges=exchanges,
            fct=told.fct,
            interarrival=told.interarrival,
        ),
        None,
    )
    wanted = observe(told, None)
    np.testing.assert_array_equal(seen.features, wanted.features)
    np.testing.assert_array_equal(seen.service, wanted.service)
    np.testing.assert_array_equal(seen.duration_s, wanted.duration_s)
    assert seen.arrivals == wanted.arrivals


def test_a_failed_flow_is_never_a_quick_one():
    """Continuous in the share of failures, and without any as it was."""
    means = np.array([[0.1, 0.1, 0.1, 0.1, 0.3], [0.2, 0.2, 0.2, 0.2, 0.2]]).T
    flows = np.array([100, 100, 100, 0, 100], np.float32)
    failed = np.array([0, 1, 50, 9, 0], np.float32)
    found = charge_failed(means, flows, failed)
    assert found[:, 0] == pytest.approx([0.1, 0.102 / 0.99, 0.4, 0.3 * MOST_ATTEMPTS, 0.3])
    assert found[:, 1] == pytest.approx([0.2, 0.2 / 0.99, 0.4, 0.2 * MOST_ATTEMPTS, 0.2])


def test_a_backend_that_fails_at_once_looks_slower_than_all_that_answer():
    """Also while it gets no flows, and less and less once it answers again."""
    equal = samples(np.random.default_rng(1), 3, 16)
    base = snapshot(3, waiting=np.zeros(3, np.int64), duration=equal)
    empty = np.array([0, 50, 0])
    duration = Samples(base.duration.t_ns.copy(), base.duration.value_ns)
    duration.t_ns[1] = 0
    first = observe(replace(base, totals={"flows_total": np.zeros(3, np.int64)}), None)
    answered = {
        "first_byte_total": np.array([50, 0, 50]),
        "duration_ns_total": np.array([50, 0, 50]) * 10**8,
        "unanswered_total": empty,
    }
    failing = {"flows_total": np.array([50, 50, 50]), **answered}

    def later(seconds, totals):
        now_ns = base.now_ns + int(seconds * 1e9)
        return replace(base, now_ns=now_ns, duration=duration, totals=totals)

    seen = observe(later(0.25, failing), first)
    for found in (seen.duration_s, *seen.latency_s.T):
        assert found[1] > 10 * max(found[0], found[2])
    kept = observe(later(0.5, failing), seen)
    assert (kept.latency_s[1] > 10 * np.maximum(kept.latency_s[0], kept.latency_s[2])).all()
    well = {**answered, "flows_total": np.array([150, 150, 150])}
    again = observe(later(0.75, well), kept)
    assert (again.latency_s[1] < 0.5 * kept.latency_s[1]).all()
