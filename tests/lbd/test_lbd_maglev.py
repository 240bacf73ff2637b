"""The lookup table: even, steady under changes, the same in every process."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from lbd.dispatch.load import Load
from lbd.dispatch.maglev import TABLE_SIZE, Maglev, build

ROOT = Path(__file__).resolve().parents[2]


def table(slots: Iterable[int], weights: Mapping[int, float] | None = None) -> list[int]:
    """Of backends that are named by their slots; weight 1 where none is given."""
    of, given = list(slots), weights or {}
    return build(of, [given.get(slot, 1.0) for slot in of], [str(slot) for slot in of])


def moved(before: list[int], after: list[int]) -> float:
    """The share of clients that have another backend."""
    return sum(a != b for a, b in zip(before, after, strict=True)) / TABLE_SIZE


def test_shares_are_even_within_one_turn() -> None:
    found = Counter(table(range(7)))
    assert sum(found.values()) == TABLE_SIZE
    assert max(found.values()) - min(found.values()) <= 1


def test_shares_follow_the_weights() -> None:
    found = Counter(table(range(3), {0: 4.0, 1: 2.0}))
    for slot, share in enumerate((4 / 7, 2 / 7, 1 / 7)):
        assert found[slot] / TABLE_SIZE == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("gone", [0, 5, 9])
def test_one_backend_that_goes_moves_little_more_than_its_own_share(gone: int) -> None:
    """NSDI'16 section 5.3: a few per cent of the rest move with it."""
    assert 0.1 <= moved(table(range(10)), table(set(range(10)) - {gone})) < 0.2


@pytest.mark.parametrize("count", [4, 20, 100])
def test_what_moves_without_need_is_a_few_per_cent_whatever_the_weights(count: int) -> None:
    """Of the entries whose backend is still there; those of the one that went must move."""
    weights = {slot: 1.0 + slot % 4 for slot in range(count)}
    before = table(range(count), weights)
    after = table(set(range(count)) - {1}, weights)
    kept = [(a, b) for a, b in zip(before, after, strict=True) if a != 1]
    assert sum(a != b for a, b in kept) / len(kept) < 0.08
    share = 2.0 / sum(weights.values())
    assert moved(before, after) < share + 0.08


def test_a_weight_that_changes_moves_little_more_than_the_difference() -> None:
    before = table(range(10))
    after = table(range(10), {3: 2.0})
    assert 2 / 11 - 1 / 10 <= moved(before, after) < 2 / 11 - 1 / 10 + 0.08


def test_a_backend_is_known_by_its_name_wherever_its_slot_is() -> None:
    """Another balancer, or this one after a restart, sends the same client to the same server."""
    names = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]
    found = []
    for order in ((0, 1, 2), (2, 0, 1)):
        load = Load.of([0.0] * 3)
        load.names = {slot: names[index] for slot, index in enumerate(order)}
        policy = Maglev(load)
        found.append([load.names[policy.choose(0, key)] for key in range(1000)])
    assert found[0] == found[1]


def test_every_process_builds_the_same_table() -> None:
    here = hashlib.sha256(str(build([3, 1, 2], [1.0, 2.0, 0.5], ["a", "b", "c"])).encode())
    code = (
        "import hashlib; from lbd.dispatch.maglev import build;"
        "print(hashlib.sha256(str(build([3, 1, 2], [1.0, 2.0, 0.5], ['a', 'b', 'c'])).encode())"
        ".hexdigest())"
    )
    environ = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == here.hexdigest()


def test_the_table_of_many_backends_needs_little_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = Counter(table(range(512)))
    assert len(found) == 512
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
