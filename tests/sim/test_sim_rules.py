"""The simulator's compiled rules are the live ones, choice by choice and bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sim_pair import Pair, SplitMix, empty_state

from lbd.dispatch import POLICIES, Memory
from lbd.dispatch.latency import FORGIVE_FLOWS, LatencyAverages
from testbed.sim.compiled import latency as compiled_latency
from testbed.sim.compiled.sums import add_up
from testbed.sim.policies import rule

# The first of them may have to compile, on a busy machine.
pytestmark = pytest.mark.timeout(600)

SLOTS = (1, 2, 3, 5, 7, 12, 20)
WITH_MEMORY = {
    "ewma": (Memory(), Memory(flows=3.0), Memory(flows=None, seconds=0.5)),
}

slot_number = st.integers(0, max(SLOTS) - 1)
duration_ns = st.integers(0, 10**11)
ticks = st.integers(0, 2000)
operation = st.one_of(
    st.tuples(st.just("choose"), st.integers(0, 2**62)),
    st.tuples(st.just("choices"), st.integers(1, 40)),
    st.tuples(st.just("choose but"), st.integers(0, 2**62), st.lists(slot_number, max_size=6)),
    st.tuples(st.just("sample"), slot_number, duration_ns, ticks),
    st.tuples(st.just("samples"), slot_number, duration_ns, st.integers(1, 3 * FORGIVE_FLOWS)),
    st.tuples(st.just("fail"), slot_number, duration_ns),
    st.tuples(st.just("end"), slot_number, ticks),
    st.tuples(st.just("usable"), st.sets(slot_number)),
    st.tuples(st.just("backends"), st.sets(slot_number, min_size=1), st.sets(slot_number)),
    st.tuples(st.just("weight"), st.lists(st.floats(0.01, 100.0), min_size=20, max_size=20)),
)


def replay(pair: Pair, operations: list[tuple]) -> int:
    """Do them all to both sides; the number of choices compared."""
    slots, compared = pair.load.slots, 0
    for kind, *given_values in operations:
        match kind, given_values:
            case "choose", [key]:
                compared += _choose(pair, key)
            case "choices", [count]:
                for number in range(count):
                    compared += _choose(pair, number)
            case "choose but", [key, barred]:
                tried = sorted({slot % slots for slot in barred})
                before = pair.state.usable[: len(pair.load.usable)].tolist()
                live, compiled = pair.choose_but(key, tried)
                assert compiled == live
                assert live not in tried
                assert pair.state.usable[: len(before)].tolist() == before
                assert pair.state.world[0]["usable"] == len(before)
            case "sample", [slot, duration, passed]:
                pair.pass_time(passed)
                pair.end(slot % slots, passed)
                pair.sampled(slot % slots, duration)
            case "samples", [slot, duration, count]:
                for number in range(count):
                    pair.pass_time(1)
                    pair.sampled(slot % slots, duration + number)
            case "fail", [slot, age]:
                pair.failed(slot % slots, age)
            case "end", [slot, age_ticks]:
                pair.end(slot % slots, age_ticks)
            case "usable", [some]:
                pair.set_usable(sorted({slot % slots for slot in some}.intersection(pair.present)))
            case "backends", [present, gone]:
                pair.change_backends(
                    sorted({slot % slots for slot in present}), {slot % slots for slot in gone}
                )
            case "weight", [weight]:
                pair.set_weight(weight[:slots])
        if kind not in ("choose", "choices", "choose but"):
            # What the choice itself computes is compared after it.
            if pair.name != "least_time":
                pair.check()
    return compared


def _choose(pair: Pair, key: int) -> int:
    live, compiled = pair.choose(key)
    assert compiled == live
    pair.check()
    if live >= 0:
        pair.start(live)
    return 1


@pytest.mark.parametrize("name", sorted(POLICIES))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=50)
@given(data=st.data())
def test_every_choice_is_the_live_policys(name: str, data: st.DataObject) -> None:
    slots = data.draw(st.sampled_from(SLOTS))
    memory = data.draw(st.sampled_from(WITH_MEMORY.get(name, (None,))))
    pair = Pair(name, slots, data.draw(st.integers(0, 2**64 - 1)), memory)
    pair.set_usable(list(range(slots)))
    for slot, flows in enumerate(data.draw(st.lists(st.integers(0, 30), max_size=slots))):
        pair.start(slot, flows)
    replay(pair, data.draw(st.lists(operation, max_size=25)))
    assert replay(pair, [("choices", 5)]) == 5


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_where_all_are_barred_the_next_choice_is_the_live_policys(name: str) -> None:
    pair = Pair(name, 5, 1)
    pair.set_usable([0, 4])
    assert replay(pair, [("choose", 0), ("choose but", 0, [0, 4]), ("choices", 5)]) == 6


@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize("slots", [7, 64])
def test_a_long_random_walk(name: str, slots: int) -> None:
    """Thousands of choices: averages fill, histories wrap, failures come and are forgiven."""
    rng = np.random.default_rng([slots, len(name)])
    pair = Pair(name, slots, 99)
    pair.set_usable(list(range(slots)))
    pair.set_weight(rng.uniform(0.2, 5.0, slots).tolist())
    for turn in range(2500):
        live, compiled = pair.choose(int(rng.integers(1 << 40)))
        assert compiled == live
        pair.start(live)
        pair.pass_time(int(rng.integers(1, 4)))
        done = int(rng.integers(slots))
        if pair.waiting[done]:
            pair.end(done, int(rng.integers(200)))
            if rng.random() < 0.02:
                pair.failed(done, int(rng.exponential(1e8)))
            else:
                pair.sampled(done, int(rng.exponential(1e8 * (1 + done % 3))))
        if turn % 500 == 499:
            out = set(rng.integers(slots, size=2).tolist())
            pair.set_usable([slot for slot in range(slots) if slot not in out])
        if turn % 600 == 599:
            gone = set(rng.integers(slots, size=2).tolist())
            pair.change_backends(list(range(turn // 600 % 2, slots)), gone)
    pair.choose(0)
    pair.check()


def test_a_backend_that_comes_back_unseen_is_treated_alike() -> None:
    """The live rule forgets that it waits for a first sample of what went out of use."""
    pair = Pair("ewma", 3, 1)
    pair.set_usable([0, 1, 2])
    pair.sampled(0, 10**6)
    pair.set_usable([0, 1])
    pair.sampled(1, 10**7)
    pair.set_usable([0, 1, 2])
    for number in range(5):
        pair.sampled(0, 10**8 * (number + 1))
        pair.check()


@settings(deadline=None)
@given(
    slots=st.sampled_from(SLOTS),
    memory=st.sampled_from(WITH_MEMORY["ewma"]),
    events=st.lists(
        st.tuples(st.sampled_from(["add", "fail", "forgive"]), slot_number, duration_ns, ticks),
        max_size=120,
    ),
)
def test_latency_averages_are_the_live_ones(
    slots: int, memory: Memory, events: list[tuple[str, int, int, int]]
) -> None:
    state, live, now_ns = empty_state(slots), LatencyAverages(slots, memory), 10**15
    balancer, m = state.balancers[0], np.int32(0)
    balancer["memory_flows"] = memory.flows or 0.0
    balancer["memory_s"] = memory.seconds or 1.0
    for kind, slot, value_ns, passed in events:
        slot %= slots
        now_ns += passed * 10**6
        if kind == "fail":
            live.add_failure(slot, value_ns)
            compiled_latency.add_failure(state, m, np.int32(slot), float(value_ns))
        else:
            count = 1 if kind == "add" else FORGIVE_FLOWS
            for number in range(count):
                mean = live.add(slot, now_ns, value_ns + number)
                found = compiled_latency.add(
                    state, m, np.int32(slot), float(now_ns), float(value_ns + number)
                )
                assert found == mean
                due = balancer["samples"] % FORGIVE_FLOWS == 0
                assert (due and compiled_latency.forgive(state, m)) == live.forgive()
        compiled_latency.fill(state, m)
        np.testing.assert_array_equal(state.filled_ns, live.filled_ns())


@settings(deadline=None)
@given(st.lists(st.floats(-1e12, 1e12), max_size=128))
def test_sums_are_numpys_to_the_last_bit(values: list[float]) -> None:
    array = np.array(values, dtype=np.float64)
    assert add_up(array, len(array)) == array.sum()


def test_the_generator_is_splitmix() -> None:
    """First outputs of seed 1234567, as published with the reference implementation."""
    stream = SplitMix(1234567)
    assert [stream.random() for _ in range(2)] == [
        (value >> 11) * 2.0**-53 for value in (6457827717110365317, 3203168211198807973)
    ]


def test_every_live_policy_has_a_rule() -> None:
    assert {rule(name).name for name in POLICIES} == set(POLICIES)
