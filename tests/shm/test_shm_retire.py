"""Dead workers: their totals stay, their gauges leave, and no reader sees a total go back."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import Child, Create

import shm.reader
from shm import layout as lo
from shm.frames import FrameRing
from shm.reader import PATIENCE, Reader
from shm.region import Region
from shm.worker import WorkerBlock, flows_view, retire, scalars_view

NOW_NS = 10**12


def busy(region: Region, worker: int, slot: int, flows: int) -> WorkerBlock:
    block = WorkerBlock(region, worker)
    block.adopt(slot, int(region.identities()[slot]))
    block.flows[slot] = float(flows)
    block.rows["waiting"][slot] = 1
    block.rows["waiting_start_ns"][slot] = NOW_NS - 500
    block.rows["flows_total"][slot] = 10 * flows
    block.count("accepted_total", flows)
    block.sample_duration(slot, 5, 6)
    block.publish(NOW_NS)
    return block


def test_totals_of_the_dead_stay_and_gauges_leave(create: Create) -> None:
    region = create()
    slot = region.add_backend("a", "h:1", 1.0).slot
    busy(region, 0, slot, 3)
    busy(region, 1, slot, 4)
    reader = Reader(region)
    before = reader.snapshot(NOW_NS)
    assert before.flows.tolist() == [7]
    assert before.waiting_age_ns.tolist() == [1000]
    retire(region, 1)
    after = reader.snapshot(NOW_NS)
    assert after.flows.tolist() == [3]
    assert after.waiting.tolist() == [1]
    assert after.waiting_age_ns.tolist() == [500]
    assert after.totals["flows_total"].tolist() == before.totals["flows_total"].tolist() == [70]
    assert reader.scalars()["accepted_total"] == 7
    assert flows_view(region)[:, slot].tolist() == [3.0, 0.0]
    assert not scalars_view(region, 1).any()
    assert (after.duration.t_ns > 0).sum() == 1
    busy(region, 1, slot, 1)
    assert reader.snapshot(NOW_NS).totals["flows_total"].tolist() == [80]
    retire(region, 0)
    retire(region, 1)
    assert reader.snapshot(NOW_NS).totals["flows_total"].tolist() == [80]
    assert reader.snapshot(NOW_NS).flows.tolist() == [0]


def test_what_was_counted_after_the_last_frame_is_kept_too(create: Create) -> None:
    region = create()
    slot = region.add_backend("a", "h:1", 1.0).slot
    busy(region, 0, slot, 3).rows["flows_total"][slot] += 5
    assert Reader(region).snapshot(NOW_NS).totals["flows_total"].tolist() == [30]
    retire(region, 0)
    assert Reader(region).snapshot(NOW_NS).totals["flows_total"].tolist() == [35]


def test_a_slot_used_again_inherits_nothing_from_the_dead(create: Create) -> None:
    region = create()
    slot = region.add_backend("a", "h:1", 1.0).slot
    busy(region, 0, slot, 3)
    retire(region, 0)
    busy(region, 0, slot, 2)
    region.remove_backend(slot)
    assert region.add_backend("b", "h:2", 1.0).slot == slot
    reader = Reader(region)
    assert not any(total.any() for total in reader.snapshot(NOW_NS).totals.values())
    retire(region, 0)
    assert not any(total.any() for total in reader.snapshot(NOW_NS).totals.values())
    busy(region, 0, slot, 1)
    retire(region, 0)
    assert reader.snapshot(NOW_NS).totals["flows_total"].tolist() == [10]


def test_a_backend_added_during_the_sum_does_not_get_its_predecessors_counts(
    create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = create()
    slot = region.add_backend("a", "h:1", 1.0).slot
    busy(region, 0, slot, 3)
    reader = Reader(region)
    ring = reader._rings[1]

    def replace() -> None:
        if region.entry(slot).name == "a":
            region.remove_backend(slot)
            region.add_backend("b", "h:2", 1.0)

    monkeypatch.setattr(ring, "read", replace)
    table = reader.counters()
    assert region.entry(slot).name == "b"
    assert table[lo.ROW["identity"], slot] < region.entry(slot).identity
    assert table[lo.ROW["flows_total"], slot] == 30
    assert reader.counters()[lo.ROW["flows_total"], slot] == 0


@pytest.fixture
def half_retired(create: Create) -> tuple[Region, Reader]:
    """A region whose supervisor stopped after it had moved the counts: each is there twice."""
    region = create()
    slot = region.add_backend("a", "h:1", 1.0).slot
    block = busy(region, 0, slot, 3)
    reader = Reader(region)
    reader.counters()
    reader.scalars()
    region.words[lo.H_EPOCH] += 1
    kept = region.layout.retired + lo.SCALAR_WORDS
    for row in ("identity", *lo.TOTALS):
        region.words[kept + lo.ROW[row] * region.layout.slots + slot] = block.rows[row][slot]
    region.u64[region.layout.retired + lo.SCALAR["accepted_total"]] = 3
    block.publish(NOW_NS)
    return region, reader


def test_a_reader_sleeps_until_the_retirement_is_over(
    half_retired: tuple[Region, Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    region, reader = half_retired

    def finish(seconds: float) -> None:
        if region.words[lo.H_EPOCH] % 2:
            first = region.layout.worker(0)
            region.u64[first : first + region.layout.worker_words] = 0
            region.words[lo.H_EPOCH] += 1

    monkeypatch.setattr(shm.reader, "time", SimpleNamespace(sleep=finish))
    assert reader.counters()[lo.ROW["flows_total"], 0] == 30
    assert reader.counters()[lo.ROW["flows"], 0] == 0
    assert reader.scalars()["accepted_total"] == 3


def test_a_reader_does_not_wait_for_ever_and_gives_the_last_whole_sums(
    half_retired: tuple[Region, Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, reader = half_retired
    pauses: list[float] = []
    monkeypatch.setattr(shm.reader, "time", SimpleNamespace(sleep=pauses.append))
    assert reader.counters()[lo.ROW["flows_total"], 0] == 30
    assert reader.counters()[lo.ROW["flows"], 0] == 3
    assert reader.scalars()["accepted_total"] == 3
    assert len(pauses) == 3 * PATIENCE


def test_a_worker_whose_frame_cannot_be_read_does_not_vanish_from_the_sums(
    create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = create()
    slot = region.add_backend("a", "h:1", 1.0).slot
    busy(region, 0, slot, 3)
    busy(region, 1, slot, 4)
    reader = Reader(region)
    assert reader.counters()[lo.ROW["flows_total"], slot] == 70
    monkeypatch.setattr(shm.reader, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr(reader._rings[1], "read", lambda: None)
    assert reader.counters()[lo.ROW["flows_total"], slot] == 70


def test_live_rows_are_those_of_the_frames_before_and_after_a_retirement_and_none_in_it(
    create: Create,
) -> None:
    region = create()
    slot = region.add_backend("a", "h:1", 1.0).slot
    busy(region, 0, slot, 3)
    busy(region, 1, slot, 4)
    reader = Reader(region)
    rows = ("flows_total", "first_byte_total", "unanswered_total")

    def as_published() -> bool:
        table = reader.counters()
        found = reader.live(rows)
        return found is not None and np.array_equal(found, table[[lo.ROW[row] for row in rows]])

    assert as_published()
    retire(region, 0)
    assert as_published()
    region.words[lo.H_EPOCH] += 1
    assert reader.live(rows) is None
    region.words[lo.H_EPOCH] += 1
    region.remove_backend(slot)
    region.add_backend("b", "h:2", 1.0)
    found = reader.live(rows)
    assert found is not None
    assert not found.any()


SUPERVISOR = """
import os, sys
from shm.region import Region
from shm.worker import WorkerBlock, retire
region = Region.attach(sys.argv[1])
parent = os.getppid()
slots = [int(slot) for slot in region.active_slots()]
print("up", flush=True)
while os.getppid() == parent:
    block = WorkerBlock(region, 0)
    for slot in slots:
        block.adopt(slot, int(region.identities()[slot]))
    for number in range(1, 9):
        for slot in slots:
            block.rows["flows_total"][slot] += 1
            block.rows["bytes_in_total"][slot] += 1000
            block.flows[slot] = 1.0
        block.count("accepted_total")
        block.publish(number)
    retire(region, 0)
"""


def test_totals_never_go_back_while_workers_die_and_start(create: Create, child: Child) -> None:
    region = create(workers=2, slots=64, reservoir=1)
    for number in range(64):
        region.add_backend(f"b{number}", f"h:{number + 1}", 1.0)
    child(SUPERVISOR, region.service)
    reader = Reader(region)
    names = ("flows_total", "bytes_in_total")
    last = {name: np.zeros(64, np.int64) for name in names}
    accepted = 0
    epochs = set()
    for number in range(1500):
        seen = reader.snapshot(number)
        for name in names:
            assert (seen.totals[name] >= last[name]).all()
            last[name] = seen.totals[name]
        assert (seen.totals["bytes_in_total"] == 1000 * seen.totals["flows_total"]).all()
        assert set(seen.flows.tolist()) <= {0, 1}
        counted = reader.scalars()["accepted_total"]
        assert counted >= accepted
        accepted = counted
        epochs.add(region.words[lo.H_EPOCH])
    assert len(epochs) > 10, "nothing was retired meanwhile"
    assert last["flows_total"].max() > 0


def test_no_sequence_is_used_twice_in_a_regions_life(create: Create) -> None:
    """Or a copy begun before a restart and ended after it could pass for whole."""
    region = create()
    slot = region.add_backend("a", "h:1", 1.0).slot
    layout = region.layout
    ring = FrameRing(region.u64, layout.frame(0, 0), layout.frame_words, layout.depth)
    published = []
    for _ in range(4):
        busy(region, 0, slot, 1)
        published.append(ring.newest())
        retire(region, 0)
        published.append(ring.newest())
    assert published == sorted(set(published))
    assert Reader(region).snapshot(NOW_NS).flows.tolist() == [0]


def test_the_last_whole_sums_are_not_given_for_a_slots_new_user(
    create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a retirement stands half done."""
    monkeypatch.setattr(shm.reader, "PAUSE_S", 0.0)
    region = create()
    slot = region.add_backend("a", "h:1", 1.0).slot
    busy(region, 0, slot, 3)
    reader = Reader(region)
    assert reader.snapshot(NOW_NS).totals["flows_total"].tolist() == [30]
    region.words[lo.H_EPOCH] += 1
    region.remove_backend(slot)
    new = region.add_backend("b", "h:2", 1.0)
    seen = reader.snapshot(NOW_NS)
    assert seen.identity.tolist() == [new.identity]
    assert seen.totals["flows_total"].tolist() == seen.flows.tolist() == [0]


def test_samples_of_a_slot_adopted_during_the_copy_are_left_out(
    create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = create()
    slot = region.add_backend("a", "h:1", 1.0).slot
    block = busy(region, 0, slot, 3)
    whole = shm.reader.read_samples

    def meddle(live: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
        block.adopt(slot, 99)
        block.sample_duration(slot, 5, 6)
        return whole(live, rows)

    monkeypatch.setattr(shm.reader, "read_samples", meddle)
    assert not Reader(region).snapshot(NOW_NS).duration.t_ns.any()
