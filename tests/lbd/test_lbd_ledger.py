"""Accounts balance: whatever becomes of flows, in any order, gauges return to zero."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lbd_daemon import unique_name
from lbd_rig import ListLedger

from lbd.dispatch import Load, Policy
from lbd.flow import BACKEND_FAULT, Flow, Outcome
from lbd.ledger import ShmLedger
from shm.layout import BACKEND_FAILURES, TOTALS, Layout
from shm.reader import Reader
from shm.region import Region
from shm.worker import WorkerBlock

SLOTS = 3
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.integers(0, SLOTS - 1)),
        st.tuples(st.sampled_from(["connect", "answer"]), st.integers(0, 99)),
        st.tuples(st.sampled_from(list(Outcome)), st.integers(0, 99)),
    ),
    max_size=80,
)


class Told(Policy):
    """A policy that only writes down what it is told."""

    name = "told"

    def __init__(self) -> None:
        super().__init__(Load.of([0.0] * SLOTS))
        self.answered = 0
        self.failures = 0

    def choose(self, now_ns: int, key: int) -> int:
        return 0

    def sampled(self, slot: int, now_ns: int, duration_ns: int) -> None:
        self.answered += 1

    def failed(self, slot: int, now_ns: int, age_ns: int) -> None:
        self.failures += 1


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region.create(unique_name(), Layout(2, SLOTS, 64))
    for slot in range(SLOTS):
        made.add_backend(f"b{slot}", f"127.0.0.1:{slot + 1}", 1.0)
    yield made
    made.remove()


def play(ledger: ShmLedger, steps: list[tuple[object, int]]) -> tuple[Counter[Outcome], int]:
    """Do the steps that fit; end what is left. The outcomes, and how many flows were answered."""
    now_ns = 10**12
    flows: list[Flow] = []
    ended: Counter[Outcome] = Counter()
    answered = 0
    for what, which in [*steps, *[(Outcome.SHUTDOWN, n) for n in range(80)]]:
        now_ns += 1_000_003
        if what == "open":
            flows.append(Flow(ledger, which, now_ns))
            continue
        if not flows:
            continue
        flow = flows[which % len(flows)]
        if what == "connect" and flow.outcome is None and not flow.connected_ns:
            flow.connected(now_ns)
        elif what == "answer" and flow.outcome is None and flow.waiting:
            flow.answered(now_ns)
            answered += 1
        elif isinstance(what, Outcome):
            ended[what] += flow.outcome is None
            flow.end(what, now_ns)
    return ended, answered


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_mix_of_outcomes_leaves_gauges_at_zero_and_totals_that_add_up(
    region: Region, steps: list[tuple[object, int]]
) -> None:
    block = WorkerBlock(region, 0)
    for entry in region.entries():
        block.adopt(entry.slot, entry.identity)
    told = Told()
    ended, answered = play(ShmLedger(block, [told]), steps)
    block.publish(10**12)
    for gauge in ("flows", "waiting", "waiting_start_ns"):
        assert [int(n) for n in block.rows[gauge]] == [0] * SLOTS, gauge
    seen = Reader(region).snapshot(10**13)
    totals = {name: int(seen.totals[name].sum()) for name in TOTALS}
    assert totals["flows_total"] == sum(ended.values())
    assert totals["first_byte_total"] == answered == told.answered
    for outcome in Outcome:
        assert totals[outcome.value] == ended[outcome]
    assert told.failures == sum(ended[outcome] for outcome in BACKEND_FAULT)
    assert (seen.waiting_age_ns == 0).all()
    samples = int((seen.fct.t_ns > 0).sum())
    assert samples <= ended[Outcome.COMPLETED]
    assert bool(samples) == bool(ended[Outcome.COMPLETED])
    assert int((seen.duration.t_ns > 0).sum()) <= answered


def test_the_ages_of_waiting_flows_add_up(region: Region) -> None:
    block = WorkerBlock(region, 0)
    for entry in region.entries():
        block.adopt(entry.slot, entry.identity)
    ledger = ShmLedger(block, [])
    for connected_ns in (1000, 3000):
        flow = Flow(ledger, 1, 500)
        flow.connected(connected_ns)
    block.publish(4000)
    seen = Reader(region).snapshot(5000)
    assert seen.waiting.tolist() == [0, 2, 0]
    assert seen.waiting_age_ns.tolist() == [0, 6000, 0]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_completed_flows_are_samples_of_completion_time(
    region: Region, outcome: Outcome
) -> None:
    block = WorkerBlock(region, 0)
    for entry in region.entries():
        block.adopt(entry.slot, entry.identity)
    flow = Flow(ShmLedger(block, []), 0, 1000)
    flow.connected(2000)
    flow.end(outcome, 9000)
    block.publish(9000)
    seen = Reader(region).snapshot(9000)
    samples = seen.fct.value_ns[seen.fct.t_ns > 0].tolist()
    assert samples == ([8000] if outcome is Outcome.COMPLETED else [])
    assert not (seen.duration.t_ns > 0).any()


def test_a_flow_ends_once() -> None:
    ledger = ListLedger()
    flow = Flow(ledger, 0, 1)
    flow.end(Outcome.CLIENT_RESET, 2)
    flow.end(Outcome.SHUTDOWN, 3)
    assert flow.outcome is Outcome.CLIENT_RESET
    assert ledger.names == ["dispatched", "ended"]


def test_what_the_backend_failed_is_the_same_in_both_tables() -> None:
    assert {outcome.value for outcome in BACKEND_FAULT} == set(BACKEND_FAILURES)
