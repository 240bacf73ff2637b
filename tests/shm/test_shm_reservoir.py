"""Reservoirs: what is remembered of a stream, for how long, and what is not a sample."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import Create

from shm.layout import KINDS, SAMPLE_WORDS
from shm.reader import Reader
from shm.reservoir import ReservoirWriter, read_samples
from shm.worker import WorkerBlock

SIGMAS = 5  # with the seeds below these are not chances; it says how far off is wrong


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    state = random.getstate()
    random.seed(20)
    yield
    random.setstate(state)


def memory(size: int) -> tuple[memoryview, np.ndarray]:
    words = array("Q", bytes(8 * SAMPLE_WORDS * size))
    return memoryview(words), np.frombuffer(words, np.uint64).reshape(1, size, SAMPLE_WORDS)


def test_an_empty_slot_is_not_a_sample(create: Create) -> None:
    region = create(workers=1, slots=3, reservoir=16)
    slots = [region.add_backend(f"b{i}", f"h:{i + 1}", 1.0).slot for i in range(2)]
    block = WorkerBlock(region, 0)
    for slot in slots:
        block.adopt(slot, int(region.identities()[slot]))
    block.sample_duration(0, 1000, 5)
    block.sample_fct(1, 1001, 0)
    block.sample_arrival(2000)
    block.sample_arrival(2030)
    duration, fct, interarrival = Reader(region).samples(region.active_slots())
    assert duration.t_ns.shape == fct.t_ns.shape == (2, 16)
    assert (duration.t_ns > 0).sum(axis=1).tolist() == [1, 0]
    assert (fct.t_ns > 0).sum(axis=1).tolist() == [0, 1], "a value of 0 is a sample all the same"
    assert duration.value_ns[duration.t_ns > 0].tolist() == [5]
    assert interarrival.t_ns.shape == (1, 16)
    assert interarrival.value_ns[interarrival.t_ns > 0].tolist() == [30]


def test_interarrival_is_the_services_not_a_workers(create: Create) -> None:
    region = create(workers=2, slots=1, reservoir=8)
    blocks = [WorkerBlock(region, worker) for worker in range(2)]
    for number in range(4):
        blocks[number % 2].sample_arrival(1000 + 10 * number)
    blocks[0].sample_arrival(900)
    _, _, found = Reader(region).samples(np.array([0]))
    assert set(found.value_ns[found.t_ns > 0].tolist()) == {10}


def test_kinds_and_backends_do_not_share_words(create: Create) -> None:
    region = create(workers=2, slots=5, reservoir=2)
    for number in range(5):
        region.add_backend(f"b{number}", f"h:{number + 1}", 1.0)
    blocks = [WorkerBlock(region, worker) for worker in range(2)]
    for worker, block in enumerate(blocks):
        for slot in range(5):
            block.adopt(slot, int(region.identities()[slot]))
            for _ in range(40):
                block.sample_duration(slot, 7, 100 * worker + 10 * slot + 1)
                block.sample_fct(slot, 7, 100 * worker + 10 * slot + 2)
    for slots in (np.arange(5), np.array([4, 1])):
        found = Reader(region).samples(slots)
        for kind in range(len(KINDS)):
            for row, slot in enumerate(slots):
                expected = [100 * worker + 10 * slot + kind + 1 for worker in (0, 0, 1, 1)]
                assert found[kind].value_ns[row].tolist() == expected


@pytest.mark.parametrize("p", [0.05, 0.5, 1.0])
def test_probability_p_keeps_about_p(p: float) -> None:
    class Counting(ReservoirWriter):
        kept = 0

        def _always(self, base: int, now_ns: int, value_ns: int) -> None:
            self.kept += 1

    words, _ = memory(8)
    writer = Counting(words, 8, p)
    n = 20_000
    for number in range(n):
        writer.sample(0, number + 1, 1)
    assert abs(writer.kept - n * p) <= SIGMAS * math.sqrt(n * p * (1 - p))


def test_without_rejection_a_sample_of_that_age_survives_as_often_as_it_should() -> None:
    """A sample overwritten by each later one with 1/k survives `age` of them with ((k-1)/k)^age.

    Their sum over the n ages is the expected number of slots in use. The number in use is that of
    boxes that n balls occupy out of k; its variance is the textbook one, and the mean of `rounds`
    independent rounds may be off by SIGMAS of its standard deviations. An age band counts
    negatively correlated survivals, so its variance is at most the sum of the single ones.
    """
    k, n, rounds = 32, 96, 400
    keep = (k - 1) / k
    survived = np.zeros(n)
    for _ in range(rounds):
        words, live = memory(k)
        writer = ReservoirWriter(words, k)
        for number in range(n):
            writer.sample(0, number + 1, number + 1)
        t_ns = read_samples(live, slice(None))[0, :, 0]
        survived[n - t_ns[t_ns > 0].astype(int)] += 1

    expected = keep ** np.arange(n)
    variance = k * (k - 1) * (1 - 2 / k) ** n + k * keep**n - (k * keep**n) ** 2
    off = abs(survived.sum() / rounds - expected.sum())
    assert off <= SIGMAS * math.sqrt(variance / rounds)
    for first in range(0, n, 16):
        band = slice(first, first + 16)
        most = (expected[band] * (1 - expected[band])).sum()
        off = abs(survived[band].sum() / rounds - expected[band].sum())
        assert off <= SIGMAS * math.sqrt(most / rounds)


@pytest.mark.parametrize("stage", ["opened", "valued"])
def test_a_sample_whose_writer_died_half_way_is_left_out(stage: str) -> None:
    words, live = memory(1)
    ReservoirWriter(words, 1).sample(0, 10, 20)
    words[0] = 0
    if stage == "valued":
        words[1] = 30
    assert read_samples(live, slice(None))[0, 0, 0] == 0
    ReservoirWriter(words, 1).sample(0, 40, 50)
    assert read_samples(live, slice(None)).tolist() == [[[40, 50]]]


def test_a_slot_used_again_starts_without_its_former_users_samples(create: Create) -> None:
    region = create(workers=1, slots=2, reservoir=4)
    first = region.add_backend("a", "h:1", 1.0)
    block, reader = WorkerBlock(region, 0), Reader(region)
    block.adopt(first.slot, first.identity)
    for _ in range(50):
        block.sample_duration(first.slot, 5, 6)
    assert reader.samples(region.active_slots())[0].t_ns.any()
    region.remove_backend(first.slot)
    second = region.add_backend("b", "h:2", 1.0)
    assert second.slot == first.slot
    assert not reader.samples(region.active_slots())[0].t_ns.any(), "not adopted yet"
    block.adopt(second.slot, second.identity)
    assert not reader.samples(region.active_slots())[0].t_ns.any()
    block.sample_duration(second.slot, 7, 8)
    assert reader.samples(region.active_slots())[0].t_ns.max() == 7
