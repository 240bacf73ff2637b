"""Histograms: every value in its bucket, and nobody's in another's, through deaths and reuse."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from shm import layout as lo
from shm.histogram import BOUNDS_S, OCTAVE, HistogramWriter
from shm.reader import Reader
from shm.region import Region
from shm.worker import WorkerBlock, retire

CONNECT, DURATION, FCT = range(3)
Create = Callable[..., Region]


def test_bounds_are_powers_of_two_cut_in_four() -> None:
    assert len(BOUNDS_S) + 1 == lo.HISTOGRAM_BUCKETS
    ratios = np.diff(np.log2(BOUNDS_S))
    assert ratios == pytest.approx(1 / OCTAVE)
    assert 1.0 in BOUNDS_S


@pytest.fixture
def region(create: Create) -> Region:
    return create(2, 3, 4)


def test_a_value_is_in_the_first_bucket_whose_bound_holds_it(region: Region) -> None:
    entry = region.add_backend("a", "127.0.0.1:1", 1.0)
    WorkerBlock(region, 0).adopt(entry.slot, entry.identity)
    writer, reader = HistogramWriter(region, 0), Reader(region)
    at_bounds = [int(bound_s * 1e9) for bound_s in BOUNDS_S]
    values = sorted({0, 2**62, *at_bounds, *(bound + 1 for bound in at_bounds)})
    for value_ns in values:
        before = reader.histograms()[entry.slot, CONNECT]
        writer.observe(entry.slot, CONNECT, value_ns)
        (bucket,) = np.flatnonzero(reader.histograms()[entry.slot, CONNECT] - before)
        if bucket < len(BOUNDS_S):
            assert value_ns <= at_bounds[bucket]
        if bucket:
            assert value_ns > at_bounds[bucket - 1]


def test_workers_add_up_and_the_dead_are_kept(region: Region) -> None:
    entry = region.add_backend("a", "127.0.0.1:1", 1.0)
    other = region.add_backend("b", "127.0.0.1:2", 1.0)
    for worker in range(2):
        block = WorkerBlock(region, worker)
        block.adopt(entry.slot, entry.identity)
        block.adopt(other.slot, other.identity)
        writer = HistogramWriter(region, worker)
        for value_ns in (1_000_000, 2_000_000_000, 10**15):
            writer.observe(other.slot, DURATION, value_ns)
    reader = Reader(region)
    before = reader.histograms()
    assert before[other.slot, DURATION].sum() == 6
    assert before[other.slot, DURATION, -1] == 2
    assert before.sum() == 6
    retire(region, 0)
    assert (reader.histograms() == before).all()
    block = WorkerBlock(region, 0)
    block.adopt(other.slot, other.identity)
    HistogramWriter(region, 0).observe(other.slot, FCT, 5)
    after = reader.histograms()
    assert after[other.slot, FCT, 0] == 1
    assert after.sum() == 7


def test_a_slot_that_is_used_again_starts_empty(region: Region) -> None:
    entry = region.add_backend("a", "127.0.0.1:1", 1.0)
    blocks = [WorkerBlock(region, worker) for worker in range(2)]
    for worker, block in enumerate(blocks):
        block.adopt(entry.slot, entry.identity)
        HistogramWriter(region, worker).observe(entry.slot, CONNECT, 5)
    retire(region, 1)
    region.remove_backend(entry.slot)
    again = region.add_backend("b", "127.0.0.1:2", 1.0)
    assert again.slot == entry.slot
    # Worker 0 has not heard of it yet.
    assert Reader(region).histograms().sum() == 0
    blocks[0].adopt(again.slot, again.identity)
    HistogramWriter(region, 0).observe(again.slot, CONNECT, 5)
    assert Reader(region).histograms()[again.slot, CONNECT].sum() == 1
    retire(region, 0)
    assert Reader(region).histograms().sum() == 1
