"""The trap of latency policies: a backend that fails fast must not look fast."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbd.dispatch import Load, Memory, create
from lbd.dispatch.latency import FAILURE_CAP, FORGIVE_FLOWS, LatencyAverages

NOW = 10**9
MS = 10**6
LATENCY = ("ewma", "least_time", "hcl")
EVENTS = st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 10**11)), max_size=60)


@pytest.fixture(params=[Memory(flows=20.0), Memory(flows=None, seconds=1.0)], ids=str)
def memory(request: pytest.FixtureRequest) -> Memory:
    found: Memory = request.param
    return found


@given(events=EVENTS, slot=st.integers(0, 3), age_ns=st.integers(0, 10**11))
def test_a_failure_never_makes_a_backend_look_better(
    events: list[tuple[bool, int, int]], slot: int, age_ns: int
) -> None:
    latency = LatencyAverages(4, Memory(flows=20.0))
    for at, (failed, which, value_ns) in enumerate(events):
        if failed:
            latency.add_failure(which, value_ns)
        else:
            latency.add(which, NOW + at, value_ns)
    before = latency.filled_ns()
    latency.add_failure(slot, age_ns)
    after = latency.filled_ns()
    assert after[slot] >= before[slot]
    others = [s for s in range(4) if s != slot]
    healthy = [s for s in others if before[s] == latency.mean_ns[s]]
    assert all(after[slot] > after[s] for s in healthy if not math.isclose(after[s], 0))


@pytest.mark.parametrize("name", LATENCY)
def test_a_first_failure_before_any_answer_does_not_attract(name: str, memory: Memory) -> None:
    chosen = create(name, Load.of([0.0, 0.0]), memory)
    chosen.failed(0, NOW, MS // 10)
    chosen.sampled(1, NOW, 100 * MS)
    assert {chosen.choose(NOW, 0) for _ in range(50)} == {1}


@pytest.mark.parametrize("name", ["ewma", "least_time"])
def test_a_backend_that_fails_fast_soon_has_next_to_no_flows(name: str) -> None:
    """Its queue is always empty, the other's is eight long: the charge makes up for it."""
    load = Load.of([0.0, 8.0])
    chosen = create(name, load, Memory())
    for _ in range(20):
        chosen.sampled(1, NOW, 10 * MS)
    taken = 0
    for _ in range(500):
        if chosen.choose(NOW, 0) == 0:
            taken += 1
            chosen.failed(0, NOW, MS // 10)
        else:
            chosen.sampled(1, NOW, 10 * MS)
    forgiven = 500 / (2 * FORGIVE_FLOWS)
    assert taken <= math.log2(FAILURE_CAP) + forgiven + 1


@pytest.mark.parametrize("name", LATENCY)
def test_any_number_of_failures_leaves_costs_finite_and_equal_ones_equal(name: str) -> None:
    """All backends down for long, then back: each still gets its share."""
    random.seed(3)
    chosen = create(name, Load.of([0.0, 0.0, 0.0]), Memory())
    for at in range(20_000):
        slot = chosen.choose(NOW, 0)
        assert slot in (0, 1, 2), at
        chosen.failed(slot, NOW, MS)
    for at in range(300):
        chosen.sampled(at % 3, NOW + at * MS, 10 * MS)
    found = [chosen.choose(NOW + 300 * MS, 0) for _ in range(300)]
    assert set(found) == {0, 1, 2}


def test_answers_take_the_charge_back() -> None:
    latency = LatencyAverages(2, Memory(flows=20.0))
    latency.add(1, NOW, 10 * MS)
    for _ in range(100):
        latency.add_failure(0, 5000 * MS)
    assert latency.filled_ns()[0] >= 5000 * MS
    for at in range(int(math.log2(FAILURE_CAP))):
        latency.add(0, NOW + at, 10 * MS)
    assert not latency.failing
    assert latency.filled_ns()[0] == pytest.approx(10 * MS)


def test_a_slot_that_is_used_again_has_no_past() -> None:
    latency = LatencyAverages(2, Memory(flows=20.0))
    latency.add(0, NOW, 500 * MS)
    latency.add_failure(0, MS)
    latency.add(1, NOW, 10 * MS)
    after = LatencyAverages(3, Memory(flows=20.0))
    after.inherit(latency, [1])
    assert after.filled_ns().tolist() == [10 * MS] * 3
    assert not after.failing


def test_a_charge_outlives_a_change_of_the_backends() -> None:
    latency = LatencyAverages(3, Memory(flows=20.0))
    for slot in (0, 1):
        latency.add(slot, NOW, 10 * MS)
    latency.add_failure(1, MS)
    after = LatencyAverages(2, Memory(flows=20.0))
    after.inherit(latency, [0, 1])
    assert after.filled_ns().tolist() == [10 * MS, 20 * MS]
    after.add(1, NOW, 10 * MS)
    assert after.filled_ns().tolist() == [10 * MS, 10 * MS]
