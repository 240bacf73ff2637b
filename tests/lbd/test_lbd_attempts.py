"""Further attempts, their budget, and the places of limited backends: the pure parts."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.connecting import Retry
from lbd.capacity import Capacity, Waiting, WaitingRoom
from lbd.dispatch import Load
from lbd.retry import WINDOW_S, RetryBudget, Step, next_step

S = 10**9


@given(st.integers(0, 4), st.integers(0, 4))
def test_attempts_are_as_many_as_the_rule_says(same: int, others: int) -> None:
    """Each backend is tried `same` times again before the next of `others` has its turn."""
    rule = Retry(same=same, others=others)
    tried, fresh = [0], 1
    while (step := next_step(rule, tried)) is not Step.NONE:
        if step is Step.OTHER:
            tried.append(fresh)
            fresh += 1
        else:
            tried.append(tried[-1])
        assert len(tried) < 100
    assert tried == [slot for slot in range(others + 1) for _ in range(same + 1)]


@given(
    st.floats(0, 1),
    st.floats(0, 20),
    st.lists(st.tuples(st.integers(0, S), st.integers(0, 50), st.integers(0, 20)), max_size=80),
)
def test_retries_never_exceed_the_budget_of_any_window(
    share: float, per_s: float, moves: list[tuple[int, int, int]]
) -> None:
    budget = RetryBudget(share, per_s)
    now_ns = flows = 0
    asked: list[tuple[int, int, bool]] = []  # (second, flows so far, allowed)
    for wait_ns, more, wanted in moves:
        now_ns += wait_ns
        flows += more
        asked += ((now_ns // S, flows, _take(budget, now_ns, flows)) for _ in range(wanted))
    for at, (second, flows_now, _) in enumerate(asked):
        window = [one for one in asked[: at + 1] if one[0] > second - WINDOW_S]
        retries = sum(allowed for _, _, allowed in window)
        assert retries <= share * (flows_now - window[0][1]) + per_s * WINDOW_S


def test_a_budget_comes_back_with_time_and_with_flows() -> None:
    budget = RetryBudget(0.5, 0.2)
    assert [_take(budget, 0, 0) for _ in range(3)] == [True, True, False]
    assert [_take(budget, S, 4) for _ in range(3)] == [True, True, False]
    assert not _take(budget, WINDOW_S * S, 4)
    assert _take(budget, (WINDOW_S + 1) * S, 4)


def test_flows_before_the_first_failure_count_and_a_new_bound_forgives_nothing() -> None:
    budget = RetryBudget(0.2, 0.0)
    for second in range(100):
        budget.look(second * S, 10 * second)
    assert [_take(budget, 100 * S, 1000) for _ in range(20)].count(True) == 18, "of the last 90"
    budget.bound(0.5, 0.0)
    assert [_take(budget, 100 * S, 1000) for _ in range(50)].count(True) == 45 - 18


def _take(budget: RetryBudget, now_ns: int, flows: int) -> bool:
    allowed = budget.allows(now_ns, flows)
    if allowed:
        budget.spend()
    return allowed


def test_a_place_is_claimed_over_all_workers_and_never_beyond_the_limit() -> None:
    mine, theirs = np.zeros(3), np.zeros(3)
    none = [np.zeros(3, dtype=np.int64)] * 2
    load = Load([mine, theirs], none, none, [0, 1, 2], np.ones(3))
    capacity = Capacity(load, memoryview(mine))
    capacity.max_flows = [2, 0, 1]
    theirs[0] = 1
    assert capacity.claim(0)
    assert not capacity.claim(0)
    assert mine.tolist() == [1, 0, 0]
    assert all(capacity.claim(1) for _ in range(10))
    assert capacity.full([0, 1, 2]) == [0]
    theirs[2] = 1
    assert capacity.full([0, 1, 2]) == [0, 2]
    capacity.release(0)
    assert capacity.full([0, 1, 2]) == [2]


@pytest.fixture
def client() -> socket.socket:
    sock = socket.socket()
    sock.close()
    return sock


def test_a_waiting_room_is_first_come_first_served_and_bounded(client: socket.socket) -> None:
    room = WaitingRoom()
    room.bound(2, 5 * S)
    assert not room.overdue(10**18)
    assert room.enter(Waiting(client, 1, 0))
    assert room.enter(Waiting(client, 2, 3 * S))
    assert not room.enter(Waiting(client, 3, 3 * S))
    assert not room.overdue(5 * S)
    assert room.overdue(5 * S + 1)
    assert room.first().key == room.leave().key == 1
    assert not room.overdue(5 * S + 1)
    assert room.leave().key == 2
    room.bound(0, S)
    assert not room.enter(Waiting(client, 1, 0))
