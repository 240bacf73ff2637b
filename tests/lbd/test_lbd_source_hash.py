"""Source hash with bounded loads: the same client, the same backend, and none above its bound."""

from __future__ import annotations

from math import ceil
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbd.dispatch import NONE, Load
from lbd.dispatch.source_hash import SourceHash


def test_an_idle_service_sends_a_client_to_the_same_backend() -> None:
    policy = SourceHash(Load.of([0.0] * 8))
    first = [policy.choose(0, key) for key in range(500)]
    assert [policy.choose(1, key) for key in range(500)] == first
    assert set(first) == set(range(8))


@settings(deadline=None, max_examples=30)  # each builds a table
@given(
    st.integers(1, 12),
    st.sampled_from((1.05, 1.25, 2.0)),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
def test_no_backend_has_more_than_its_bound_however_few_the_clients(
    backends: int, bound: float, clients: int, seed: int
) -> None:
    draw = Random(seed)
    weight = [draw.choice((1.0, 2.0, 5.0)) for _ in range(backends)]
    load = Load.of([0.0] * backends, weight)
    policy = SourceHash(load, bound)
    keys = [draw.getrandbits(32) for _ in range(clients)]
    for total in range(1, 80):
        slot = policy.choose(0, draw.choice(keys))
        load.flows[0][slot] += 1
        assert load.flows[0][slot] <= ceil(bound * total * (weight[slot] / sum(weight)))


def test_what_one_backend_cannot_take_is_spread_over_the_others() -> None:
    load = Load.of([0.0] * 10)
    policy = SourceHash(load)
    keys = [key for key in range(20_000) if policy.choose(0, key) == 3]
    load.flows[0][:] = 10.0
    load.flows[0][3] = 1000.0
    load.flows[0][:3] = load.flows[0][4:] = 0.0
    found = [policy.choose(0, key) for key in keys]
    assert 3 not in found
    assert max(found.count(slot) for slot in set(found)) < 0.3 * len(found)
    load.flows[0][3] = 0.0
    assert {policy.choose(0, key) for key in keys} == {3}, "and they come back"


def test_a_share_bounds_the_flows_and_moves_no_client_of_another_backend() -> None:
    draw = Random(3)
    load = Load.of([0.0] * 4)
    policy = SourceHash(load)
    idle = [policy.choose(0, key) for key in range(500)]
    load.share[1] = 0.1
    policy.refresh()
    assert [policy.choose(0, key) for key in range(500)] == idle
    for total in range(1, 400):
        load.flows[0][policy.choose(0, draw.getrandbits(32))] += 1
        assert load.flows[0][1] <= ceil(1.25 * total * 0.1 / 3.1)
    assert load.flows[0].min() == load.flows[0][1] > 0


def test_a_backend_that_goes_moves_no_other_ones_clients_but_a_few() -> None:
    load = Load.of([0.0] * 10)
    policy = SourceHash(load)
    before = [policy.choose(0, key * 7919) for key in range(4000)]
    load.usable.remove(5)
    policy.refresh()
    after = [policy.choose(0, key * 7919) for key in range(4000)]
    kept = [(a, b) for a, b in zip(before, after, strict=True) if a != 5]
    assert sum(a != b for a, b in kept) / len(kept) < 0.08


@pytest.mark.parametrize("usable", [[], [2]])
def test_few_or_no_backends(usable: list[int]) -> None:
    load = Load.of([0.0, 0.0, 7.0])
    load.usable[:] = usable
    assert SourceHash(load).choose(0, 1) == (usable[0] if usable else NONE)
