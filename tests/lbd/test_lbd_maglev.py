"""The lookup table: even, steady under changes, the same in every process."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lbd.dispatch.maglev import TABLE_SIZE, build

ROOT = Path(__file__).resolve().parents[2]


def test_shares_are_even_within_one_turn() -> None:
    found = Counter(build(list(range(7)), [1.0] * 7))
    assert sum(found.values()) == TABLE_SIZE
    assert max(found.values()) - min(found.values()) <= 1


def test_shares_follow_the_weights() -> None:
    found = Counter(build([0, 1, 2], [4.0, 2.0, 1.0]))
    for slot, share in enumerate((4 / 7, 2 / 7, 1 / 7)):
        assert found[slot] / TABLE_SIZE == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("gone", [0, 5, 9])
def test_one_backend_that_goes_moves_little_more_than_its_own_share(gone: int) -> None:
    """NSDI'16 section 5.3: a few per cent of the rest move with it."""
    before = build(list(range(10)), [1.0] * 10)
    after = build([s for s in range(10) if s != gone], [1.0] * 9)
    moved = sum(a != b for a, b in zip(before, after, strict=True)) / TABLE_SIZE
    assert 0.1 <= moved < 0.2


def test_every_process_builds_the_same_table() -> None:
    here = hashlib.sha256(str(build([3, 1, 2], [1.0, 2.0, 0.5])).encode()).hexdigest()
    code = (
        "import hashlib; from lbd.dispatch.maglev import build;"
        "print(hashlib.sha256(str(build([3, 1, 2], [1.0, 2.0, 0.5])).encode()).hexdigest())"
    )
    environ = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == here


def test_the_table_of_many_backends_needs_little_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = Counter(build(list(range(512)), [1.0] * 512))
    assert len(found) == 512
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
