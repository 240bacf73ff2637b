"""Where weights should put flows, and how far what is seen may be from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make import NOW_NS, snapshot

from agent.act.network import fresh_parameters
from agent.act.policy import Policy
from agent.agent import Agent
from agent.balance import MISPLACED_MOST, Balance, predicted
from agent.settings import AgentSettings, PolicySettings

IDENTITY = np.arange(1, 4, dtype=np.uint64)


def dispatched(weights: np.ndarray, offset: float, flows: int) -> np.ndarray:
    """What argmin (q + b) / a makes of that many flows that all stay."""
    q = np.zeros(len(weights))
    for _ in range(flows):
        q[np.argmin((q + offset) / weights)] += 1
    return q


@given(
    st.lists(st.floats(0.1, 10.0), min_size=2, max_size=12),
    st.floats(0.125, 8.0),
    st.integers(0, 400),
)
def test_flows_are_predicted_where_dispatch_puts_them(weights, offset, flows):
    a = np.array(weights)
    told = predicted(a, offset, float(flows))
    assert told.sum() == pytest.approx(flows, abs=1e-6)
    assert (told >= 0.0).all()
    # Queues are whole: a backend may lack or have one flow, and its part of what the others lack.
    off = np.abs(told - dispatched(a, offset, flows))
    assert (off <= 1.0 + len(a) * a / a.sum() + 1e-9).all()


def test_a_backend_that_is_worth_none_yet_gets_none():
    assert predicted(np.array([8.0, 1.0]), 1.0, 3.0).tolist() == [3.0, 0.0]
    assert predicted(np.array([1.0, 8.0]), 1.0, 16.0) == pytest.approx([1.0, 15.0])


def followed(weights: np.ndarray, steps: int = 80) -> Balance:
    """After `steps` quarters of a second of flows that go by `weights`, others being in force."""
    balance = Balance()
    rng = np.random.default_rng(0)
    for _ in range(steps):
        balance.expect(IDENTITY, np.array([4.0, 1.0, 1.0]), 1.0)
        flows = dispatched(weights, 1.0, int(rng.integers(5, 25))).astype(np.int64)
        balance.see(IDENTITY, flows, 0.25)
    return balance


def test_flows_that_follow_the_weights_are_in_place_and_others_are_not():
    assert followed(np.array([4.0, 1.0, 1.0])).misplaced < 0.1
    assert followed(np.array([1.0, 1.0, 4.0])).misplaced > MISPLACED_MOST


def test_few_flows_tell_nothing():
    balance = Balance()
    for _ in range(80):
        balance.expect(IDENTITY, np.ones(3), 1.0)
        balance.see(IDENTITY, np.array([1, 0, 0]), 0.25)
    assert balance.misplaced is None


def test_another_set_of_backends_is_not_compared_until_there_are_weights_for_it():
    balance = followed(np.array([4.0, 1.0, 1.0]))
    before = balance.misplaced
    balance.see(IDENTITY[:2], np.array([50, 0]), 0.25)
    assert balance.misplaced == before
    for _ in range(40):
        balance.expect(IDENTITY[:2], np.ones(2), 1.0)
        balance.see(IDENTITY[:2], np.array([50, 0]), 0.25)
    assert balance.misplaced > MISPLACED_MOST


@pytest.mark.parametrize("mode", ["frozen", "shadow"])
def test_an_agent_says_how_much_is_misplaced_while_its_weights_are_in_force(mode):
    agent = Agent(AgentSettings(mode=mode), Policy(PolicySettings(), fresh_parameters(1)))
    flows = np.array([40, 0, 0, 0])
    for step in range(60):
        now_ns = NOW_NS + int(step * 0.25e9)
        decision = agent.step(replace(snapshot(4, flows=flows), now_ns=now_ns))
    if mode == "shadow":
        assert decision.misplaced is None
        return
    assert decision.misplaced > 0.5
    agent.rest()
    assert agent.step(snapshot(4, flows=flows)).misplaced is None


def test_what_came_in_a_gap_is_nobodys_fault():
    agent = Agent(AgentSettings(mode="frozen"), Policy(PolicySettings(), fresh_parameters(1)))
    agent.step(snapshot(4, flows=np.array([10, 10, 10, 10])))
    later = replace(snapshot(4, flows=np.array([40, 0, 0, 0])), now_ns=NOW_NS + 20 * 10**9)
    assert agent.step(later).misplaced is None
