"""What holds for every policy, and what each one promises. Pure: loads are plain arrays."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.schema import POLICIES as CONFIGURED
from config.schema import WEIGHTED_POLICIES
from lbd.dispatch import NONE, POLICIES, Load, Memory, Policy, create
from lbd.dispatch.policy import LeastScore

NAMES = sorted(POLICIES)
LEAST = sorted(name for name, kind in POLICIES.items() if issubclass(kind, LeastScore))
LATENCY = ("ewma", "least_time", "hcl")
NOW = 10**9
MS = 10**6
CHI2_999 = {2: 13.82, 3: 16.27, 4: 18.47}
"""0.999 quantiles by degrees of freedom; with the seed below the draws are always the same."""


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    random.seed(20)


def loaded(flows: list[float], weight: list[float] | None = None, usable: Any = None) -> Load:
    load = Load.of(flows, weight)
    if usable is not None:
        load.usable = sorted(usable)
    return load


def policy(name: str, load: Load, memory: Memory | None = None) -> Policy:
    return create(name, load, memory or Memory())


def counts(chosen: Policy, times: int) -> Counter[int]:
    return Counter(chosen.choose(NOW, random.getrandbits(32)) for _ in range(times))


def chi_square(found: Counter[int], expected: dict[int, float]) -> float:
    assert set(found) <= set(expected)
    return sum((found[slot] - mean) ** 2 / mean for slot, mean in expected.items())


def test_the_registry_is_what_the_configuration_offers() -> None:
    assert set(POLICIES) == set(CONFIGURED)
    assert {name for name, kind in POLICIES.items() if kind.uses_weight} == set(WEIGHTED_POLICIES)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)  # some build a table of 65,537 entries
@given(data=st.data())
def test_only_usable_slots_are_chosen(name: str, data: st.DataObject) -> None:
    """Also after flows of backends that are no longer usable were answered or failed."""
    slots = data.draw(st.integers(1, 12))
    whole = st.lists(st.integers(0, 1000).map(float), min_size=slots, max_size=slots)
    some = st.lists(st.floats(0.001, 1000), min_size=slots, max_size=slots)
    usable = data.draw(st.sets(st.integers(0, slots - 1)))
    load = loaded(data.draw(whole), data.draw(some), usable)
    chosen = policy(name, load)
    event = st.tuples(st.booleans(), st.integers(0, slots - 1), st.integers(0, 10**10))
    for failed, slot, duration_ns in data.draw(st.lists(event, max_size=20)):
        (chosen.failed if failed else chosen.sampled)(slot, NOW, duration_ns)
        assert chosen.choose(NOW, data.draw(st.integers(0, 2**32 - 1))) in (usable or {NONE})


@pytest.mark.parametrize("name", NAMES)
def test_a_change_of_what_is_usable_is_followed(name: str) -> None:
    load = loaded([0.0] * 4)
    chosen = policy(name, load)
    for usable in ([2], [], [0, 3], [1, 2, 3]):
        load.usable = usable
        chosen.refresh()
        assert set(counts(chosen, 400)) == (set(usable) or {NONE})


@pytest.mark.parametrize("name", LEAST)
def test_ties_spread_at_random(name: str) -> None:
    chosen = policy(name, loaded([5.0, 3.0, 3.0, 3.0, 3.0]))
    found = counts(chosen, 4000)
    assert chi_square(found, dict.fromkeys((1, 2, 3, 4), 1000.0)) < CHI2_999[3]


@pytest.mark.parametrize("name", LEAST)
@given(data=st.data())
def test_least_score_is_the_argmin_over_the_sum_of_all_workers(
    name: str, data: st.DataObject
) -> None:
    """Against brute force. Durations and weights are whole, so that equal scores are equal."""
    slots = data.draw(st.integers(1, 8))
    row = st.lists(st.integers(0, 50), min_size=slots, max_size=slots)
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    weight = data.draw(st.lists(st.integers(1, 16), min_size=slots, max_size=slots))
    usable = sorted(data.draw(st.sets(st.integers(0, slots - 1), min_size=1)))
    none = [np.zeros(slots, dtype=np.int64)] * len(rows)
    flows = [np.array(r, dtype=float) for r in rows]
    load = Load(flows, none, none, usable, np.array(weight, dtype=float))
    chosen = policy(name, load)
    durations = data.draw(st.lists(st.integers(1, 1000), min_size=slots, max_size=slots))
    for slot, duration in enumerate(durations):
        chosen.sampled(slot, NOW, duration * MS)
    cost = {
        "lsq": [1.0] * slots,
        "sed": [1 / w for w in weight],
        "ewma": [float(d) for d in durations],
        "least_time": [d / w for d, w in zip(durations, weight, strict=True)],
    }[name]
    score = {s: (sum(r[s] for r in rows) + 1) * cost[s] for s in usable}
    assert score[chosen.choose(NOW, 0)] <= min(score.values()) * (1 + 1e-6)


def test_q_is_read_live_from_every_workers_row() -> None:
    rows = [np.zeros(2), np.zeros(2), np.zeros(2)]
    none = [np.zeros(2, dtype=np.int64)] * 3
    chosen = policy("lsq", Load(rows, none, none, [0, 1], np.ones(2)))
    for row in rows:
        row[0] = 1.0
        assert chosen.choose(NOW, 0) == 1
        row[0] = 0.0


def test_wrr_is_smooth_as_nginx_documents_it() -> None:
    chosen = policy("wrr", loaded([0.0] * 3, [5.0, 1.0, 1.0]))
    turns = "".join("abc"[chosen.choose(NOW, 0)] for _ in range(14))
    # b and c have the same weight: either may come first.
    assert turns in ("aabacaa" * 2, "aacabaa" * 2)


def test_rr_takes_turns() -> None:
    chosen = policy("rr", loaded([0.0] * 3))
    assert counts(chosen, 300) == {0: 100, 1: 100, 2: 100}


@pytest.mark.parametrize(("name", "share"), [("ecmp", [1, 1, 1]), ("wcmp", [5, 3, 2])])
def test_random_policies_have_their_shares(name: str, share: list[int]) -> None:
    found = counts(policy(name, loaded([9.0, 0.0, 0.0], [5.0, 3.0, 2.0])), 6000)
    expected = {slot: 6000 * s / sum(share) for slot, s in enumerate(share)}
    assert chi_square(found, expected) < CHI2_999[2]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=2, max_size=8),
    st.integers(0, 2**32),
)
def test_p2c_never_takes_the_worse_of_all(backends: list[tuple[int, int]], seed: int) -> None:
    random.seed(seed)
    chosen = policy("p2c", loaded([float(q) for q, _ in backends], [float(w) for _, w in backends]))
    score = [(q + 1) / w for q, w in backends]
    taken = score[chosen.choose(NOW, 0)]
    assert taken < max(score) or score.count(max(score)) > 1


@pytest.mark.parametrize("memory", [Memory(flows=10), Memory(flows=None, seconds=1.0)])
def test_memory_is_of_flows_or_of_seconds(memory: Memory) -> None:
    """A backend that became slow is found out within its memory."""
    chosen = policy("ewma", loaded([0.0, 0.0]), memory)
    now_ns = NOW
    for _ in range(50):
        now_ns += 100 * MS
        chosen.sampled(0, now_ns, 10 * MS)
        chosen.sampled(1, now_ns, 20 * MS)
    assert chosen.choose(now_ns, 0) == 0
    for _ in range(30):
        now_ns += 100 * MS
        chosen.sampled(0, now_ns, 100 * MS)
    assert chosen.choose(now_ns, 0) == 1


def test_a_memory_is_one_of_the_two() -> None:
    for wrong in ({"flows": 1.0, "seconds": 1.0}, {"flows": None, "seconds": None}):
        with pytest.raises(ValueError, match="either"):
            Memory(**wrong)


def test_least_time_charges_what_waits_by_its_age() -> None:
    load = loaded([1.0, 1.0])
    chosen = policy("least_time", load)
    for slot in (0, 1):
        chosen.sampled(slot, NOW, 10 * MS)
    load.waiting[0][0] = 1
    load.waiting_start_ns[0][0] = NOW - 500 * MS
    assert counts(chosen, 50) == {1: 50}


class Others:
    """Rows longer than the load, as those of a region are."""

    def __init__(self, q: list[float], waiting: int = 0, since_ns: int = 0) -> None:
        self.q = np.array([*q, 7.0])
        self.waiting = np.array([waiting, *[0] * len(q)])
        self.waiting_start_ns = np.array([since_ns, *[0] * len(q)])


@pytest.mark.parametrize("name", sorted({*LEAST, "p2c", "hcl", "source_hash"}))
def test_flows_of_other_balancers_count_while_they_are_heard(name: str) -> None:
    load = loaded([0.0, 0.0])
    chosen = policy(name, load)
    load.count_also(Others([9.0, 0.0]))
    chosen.refresh()
    assert (load.q(0), load.q(1)) == (9.0, 0.0)
    assert set(counts(chosen, 100)) == {1}
    load.count_also(None)
    chosen.refresh()
    assert load.q(0) == 0.0
    assert set(counts(chosen, 400)) == {0, 1}


def test_least_time_charges_what_waits_at_other_balancers() -> None:
    load = loaded([1.0, 1.0])
    chosen = policy("least_time", load)
    for slot in (0, 1):
        chosen.sampled(slot, NOW, 10 * MS)
    load.count_also(Others([0.0, 0.0], waiting=1, since_ns=NOW - 500 * MS))
    chosen.refresh()
    assert counts(chosen, 50) == {1: 50}


def test_hcl_prefers_cold_backends_to_quick_ones() -> None:
    chosen = policy("hcl", loaded([50.0] + [1.0] * 9))
    for slot in range(10):
        chosen.sampled(slot, NOW, (1 if slot == 0 else 10) * MS)
    assert 0 not in counts(chosen, 200)


def test_hcl_does_not_follow_one_quick_answer_with_every_flow() -> None:
    """While nothing ends, only q tells what was sent since: each backend gets its part."""
    load = loaded([0.0] * 10)
    chosen = policy("hcl", load)
    for slot in range(10):
        chosen.sampled(slot, NOW, (9 if slot == 0 else 10) * MS)
    for _ in range(100):
        load.flows[0][chosen.choose(NOW, 0)] += 1
    assert 8 <= load.flows[0].min()
    assert load.flows[0].max() <= 13


def test_hcl_takes_durations_as_shared_by_the_flows_in_progress() -> None:
    """20 ms beside three others is quicker than 10 ms alone."""
    load = loaded([4.0, 1.0, 1.0])
    chosen = policy("hcl", load)
    for slot, duration_ms in ((0, 20), (1, 10), (2, 10)):
        chosen.sampled(slot, NOW, duration_ms * MS)
    load.flows[0][:] = 0.0
    assert counts(chosen, 50) == {0: 50}


@pytest.mark.parametrize(("age_ms", "taken"), [(4 * 32, True), (4 * 48, False)])
def test_hcl_takes_failures_as_shared_by_the_flows_in_progress(age_ms: int, taken: bool) -> None:
    """32 or 48 ms where none is in progress, against four times 10 ms where three are."""
    load = loaded([1.0] * 10)
    chosen = policy("hcl", load)
    for slot in range(10):
        chosen.sampled(slot, NOW, 10 * MS)
    load.flows[0][1] = 4.0
    chosen.failed(1, NOW, age_ms * MS)
    load.flows[0][:] = 3.0
    load.flows[0][1] = 0.0
    assert (chosen.choose(NOW, 0) == 1) is taken


@pytest.mark.parametrize("name", LATENCY)
def test_a_change_of_the_backends_leaves_what_was_learnt_of_the_others(name: str) -> None:
    """0 was slow and stays; 1 was slow and is another backend; 2 and 3 come."""
    former = policy(name, loaded([0.0, 0.0, 0.0]))
    for slot, duration_ms in ((0, 500), (1, 500), (2, 10)):
        former.sampled(slot, NOW, duration_ms * MS)
    load = loaded([0.0] * 4)
    chosen = policy(name, load)
    chosen.inherit(former, [0, 2])
    chosen.sampled(2, NOW, 10 * MS)
    assert counts(chosen, 50) == {2: 50}
    load.usable = [0, 1, 3]
    chosen.refresh()
    assert 0 not in counts(chosen, 50), "slower than the mean, which the new ones count as"


def test_turns_go_on_where_they_were() -> None:
    former = policy("rr", loaded([0.0] * 3))
    last = former.choose(NOW, 0)
    chosen = policy("rr", loaded([0.0] * 5))
    chosen.inherit(former, [0, 1, 2])
    assert chosen.choose(NOW, 0) == last + 1
    former = policy("wrr", loaded([0.0] * 3, [5.0, 1.0, 1.0]))
    turns = [former.choose(NOW, 0) for _ in range(3)]
    chosen = policy("wrr", loaded([0.0] * 3, [5.0, 1.0, 1.0]))
    chosen.inherit(former, [0, 1, 2])
    turns += [chosen.choose(NOW, 0) for _ in range(4)]
    assert turns in ([0, 0, 1, 0, 2, 0, 0], [0, 0, 2, 0, 1, 0, 0])


@pytest.mark.parametrize("name", NAMES)
def test_a_barred_backend_is_not_chosen_and_the_next_choice_knows_nothing_of_it(name: str) -> None:
    chosen = policy(name, loaded([0.0] * 4, usable=[0, 1, 3]))
    for barred in ([0], [0, 3], [0, 1, 3], [2]):
        left = {0, 1, 3} - set(barred)
        found = {chosen.choose_but(NOW, random.getrandbits(32), barred) for _ in range(200)}
        assert found == (left or {NONE})
    assert set(counts(chosen, 400)) == {0, 1, 3}


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"maglev", "source_hash"}))
def test_a_backend_gets_its_share(name: str) -> None:
    """A quarter of what an equal one gets, whatever the policy; flows end when four are open."""
    load = loaded([0.0] * 3)
    load.share[0] = 0.25
    chosen = policy(name, load)
    for slot in range(3):
        chosen.sampled(slot, NOW, 10 * MS)
    found: Counter[int] = Counter()
    open_slots: list[int] = []
    for _ in range(1800):
        slot = chosen.choose(NOW, 0)
        found[slot] += 1
        load.flows[0][slot] += 1
        open_slots.append(slot)
        if len(open_slots) > 30:
            load.flows[0][open_slots.pop(0)] -= 1
    assert found[0] < 0.6 * min(found[1], found[2])
    assert found[0] > 0
