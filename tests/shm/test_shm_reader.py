"""The reader against a naive model of the whole region, over random sequences of events."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from conftest import Create

from shm import layout as lo
from shm.reader import Reader
from shm.region import Region
from shm.worker import WorkerBlock, retire

WORKERS, SLOTS, EVENTS = 3, 5, 400


@dataclass
class Count:
    """What one worker counted of one backend."""

    flows: int = 0
    waiting_since_ns: list[int] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)

    def frozen(self) -> Count:
        return Count(self.flows, list(self.waiting_since_ns), Counter(self.totals))


class Model:
    """The same events in dictionaries: identity to count."""

    def __init__(self) -> None:
        self.identity_of: dict[int, int] = {}
        self.counted: list[dict[int, Count]] = [{} for _ in range(WORKERS)]
        self.published: list[dict[int, Count]] = [{} for _ in range(WORKERS)]
        self.samples: list[dict[int, tuple[int, int]]] = [{} for _ in range(WORKERS)]
        self.dead: dict[int, Counter[str]] = {}
        self.scalars: Counter[str] = Counter()

    def totals(self, identity: int) -> Counter[str]:
        found = Counter(self.dead.get(identity, {}))
        for worker in self.published:
            if identity in worker:
                found.update(worker[identity].totals)
        return found


class Play:
    """Does each event to the region and to the model."""

    def __init__(self, region: Region, seed: int) -> None:
        self.region = region
        self.model = Model()
        self.rng = random.Random(seed)
        self.blocks = [WorkerBlock(region, worker) for worker in range(WORKERS)]
        self.now_ns = 10**15  # 11 days up; times a few hundred flows, this leaves 63 bits
        self.events = (
            *[self.count] * 6,
            *[self.publish] * 3,
            self.add,
            self.remove,
            self.restart,
            self.sample,
            self.scalar,
        )

    def event(self) -> None:
        self.now_ns += self.rng.randrange(10**9)
        self.rng.choice(self.events)()

    def add(self) -> None:
        if len(self.model.identity_of) < SLOTS:
            entry = self.region.add_backend("b", "h:1", 1.0)
            self.model.identity_of[entry.slot] = entry.identity

    def remove(self) -> None:
        if self.model.identity_of:
            slot = self.rng.choice(sorted(self.model.identity_of))
            self.region.remove_backend(slot)
            del self.model.identity_of[slot]

    def pick(self) -> tuple[int, int, int] | None:
        """A worker and a backend that it has adopted by now, in a slot."""
        if not self.model.identity_of:
            return None
        worker = self.rng.randrange(WORKERS)
        slot = self.rng.choice(sorted(self.model.identity_of))
        identity = self.model.identity_of[slot]
        if identity not in self.model.counted[worker]:
            self.blocks[worker].adopt(slot, identity)
            self.model.counted[worker][identity] = Count()
        return worker, slot, identity

    def count(self) -> None:
        picked = self.pick()
        if picked is None:
            return
        worker, slot, identity = picked
        block, count = self.blocks[worker], self.model.counted[worker][identity]
        name, by = self.rng.choice(lo.TOTALS), self.rng.randrange(10**12)
        block.rows[name][slot] += by
        count.totals[name] += by
        change = self.rng.choice([-1, 1])
        if count.flows + change >= 0:
            block.flows[slot] += change
            count.flows += change
        rows = block.rows
        if self.rng.random() < 0.6:
            count.waiting_since_ns.append(self.now_ns)
            rows["waiting"][slot] += 1
            start_ns = self.now_ns
        elif count.waiting_since_ns:
            at = self.rng.randrange(len(count.waiting_since_ns))
            rows["waiting"][slot] -= 1
            start_ns = -count.waiting_since_ns.pop(at)
        else:
            return
        rows["waiting_start_ns"][slot] = (rows["waiting_start_ns"][slot] + start_ns) % 2**64

    def publish(self) -> None:
        worker = self.rng.randrange(WORKERS)
        self.blocks[worker].publish(self.now_ns)
        self.model.published[worker] = {
            identity: count.frozen() for identity, count in self.model.counted[worker].items()
        }

    def sample(self) -> None:
        picked = self.pick()
        if picked is not None:
            worker, slot, identity = picked
            value_ns = self.rng.randrange(10**9)
            self.blocks[worker].sample_duration(slot, self.now_ns, value_ns)
            self.model.samples[worker][identity] = (self.now_ns, value_ns)

    def scalar(self) -> None:
        name = self.rng.choice([name for name in lo.SCALARS if name.endswith("_total")])
        self.blocks[self.rng.randrange(WORKERS)].count(name, 3)
        self.model.scalars[name] += 3

    def restart(self) -> None:
        worker = self.rng.randrange(WORKERS)
        retire(self.region, worker)
        model = self.model
        for identity, count in model.counted[worker].items():
            dead = model.dead.setdefault(identity, Counter())
            dead.update(count.totals)
            dead["lost_total"] += int(count.flows)
        model.counted[worker], model.published[worker] = {}, {}
        model.samples[worker] = {}
        self.blocks[worker] = WorkerBlock(self.region, worker)


def check(reader: Reader, play: Play) -> None:
    model, now_ns = play.model, play.now_ns
    seen = reader.snapshot(now_ns)
    slots = sorted(model.identity_of)
    assert seen.slots.tolist() == slots
    assert seen.identity.tolist() == [model.identity_of[slot] for slot in slots]
    for row, slot in enumerate(slots):
        identity = model.identity_of[slot]
        counts = [worker[identity] for worker in model.published if identity in worker]
        since_ns = [start_ns for count in counts for start_ns in count.waiting_since_ns]
        assert seen.flows[row] == sum(count.flows for count in counts)
        assert seen.waiting[row] == len(since_ns)
        assert seen.waiting_age_ns[row] == sum(now_ns - start_ns for start_ns in since_ns)
        totals = model.totals(identity)
        assert {name: int(seen.totals[name][row]) for name in lo.TOTALS} == {
            name: totals[name] for name in lo.TOTALS
        }
        # One slot a reservoir here, so that the newest sample is the one that is there.
        expected = [worker.get(identity) for worker in model.samples]
        pairs = zip(seen.duration.t_ns[row], seen.duration.value_ns[row], strict=True)
        assert [(int(t), int(v)) if t else None for t, v in pairs] == expected
        assert not seen.fct.t_ns[row].any()
    assert reader.scalars() == {
        name: model.scalars[name] for name in lo.SCALARS if name.endswith("_total")
    }


@pytest.mark.parametrize("seed", range(12))
def test_the_reader_agrees_with_a_naive_model(create: Create, seed: int) -> None:
    region = create(workers=WORKERS, slots=SLOTS, reservoir=1)
    play, reader = Play(region, seed), Reader(region)
    for _ in range(EVENTS):
        play.event()
        check(reader, play)


def test_ages_are_right_after_months_and_with_thousands_waiting(create: Create) -> None:
    region = create(workers=2, slots=1, reservoir=1)
    slot = region.add_backend("b", "h:1", 1.0).slot
    now_ns, age_ns, count = 200 * 86_400 * 10**9, 3 * 10**9, 50_000
    for worker in range(2):
        block = WorkerBlock(region, worker)
        block.adopt(slot, int(region.identities()[slot]))
        block.rows["waiting"][slot] = count
        block.rows["waiting_start_ns"][slot] = count * (now_ns - age_ns) % 2**64
        block.publish(now_ns)
    assert Reader(region).snapshot(now_ns).waiting_age_ns.tolist() == [2 * count * age_ns]


def test_a_snapshot_is_its_readers_own(create: Create) -> None:
    region = create(workers=1, slots=2, reservoir=2)
    slot = region.add_backend("b", "h:1", 1.0).slot
    block = WorkerBlock(region, 0)
    block.adopt(slot, 1)
    block.flows[slot] = 2.0
    block.publish(1)
    reader = Reader(region)
    before = reader.snapshot(2)
    block.flows[slot] = 3.0
    block.sample_duration(slot, 1, 1)
    block.publish(2)
    assert before.flows.tolist() == [2]
    assert not before.duration.t_ns.any()
    reader.counters()[:] = np.uint64(99)
    assert reader.snapshot(3).flows.tolist() == [3]
