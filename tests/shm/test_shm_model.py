"""The region against plain dicts: any sequence of what its writers do, read back as one Snapshot.

Two workers with reservoirs of their own, backends that come and go, workers that die published or
not. The model knows nothing of frames, slots' rows or sums: it keeps one record a worker and
backend, what each last published, and what the dead had counted.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shm import layout as lo
from shm import segment
from shm.layout import Layout
from shm.reader import Reader
from shm.region import Region
from shm.worker import WorkerBlock, retire

NOW_NS = 10**12
NUMBERS = itertools.count()
SLOTS = 5
WORKERS = 2
RESERVOIR = 3
workers = st.integers(0, WORKERS - 1)
choices = st.integers(0, 10**6)


@dataclass
class Held:
    """What one worker counts for one backend."""

    flows: int = 0
    waiting: list[int] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)

    def copy(self) -> Held:
        return Held(self.flows, list(self.waiting), Counter(self.totals))


@dataclass
class Worker:
    """Per slot, the backend it was told of; per backend, what it counts, published, sampled."""

    adopted: dict[int, int] = field(default_factory=dict)
    now: dict[int, Held] = field(default_factory=dict)
    published: dict[int, Held] = field(default_factory=dict)
    samples: dict[tuple[str, int], set[tuple[int, int]]] = field(
        default_factory=lambda: defaultdict(set)
    )


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.name = f"test-{os.getpid()}-model-{next(NUMBERS)}"
        self.region = Region.create(self.name, Layout(WORKERS, SLOTS, RESERVOIR, depth=2))
        self.blocks = [WorkerBlock(self.region, w) for w in range(WORKERS)]
        self.workers = [Worker() for _ in range(WORKERS)]
        self.active: dict[int, int] = {}
        self.dead: dict[int, Counter[str]] = defaultdict(Counter)
        self.next_identity = 1
        self.t_ns = 1
        # One that lives on, next to a fresh one at every look.
        self.reader = Reader(Region.attach(self.name))

    def teardown(self) -> None:
        self.region.close()
        segment.unlink(self.name)

    @precondition(lambda self: len(self.active) < SLOTS)
    @rule()
    def add(self) -> None:
        entry = self.region.add_backend("x", "tcp://10.0.0.1:80", 1.0)
        assert entry.slot == min(set(range(SLOTS)) - set(self.active))
        assert entry.identity == self.next_identity
        self.active[entry.slot] = self.next_identity
        self.next_identity += 1

    @precondition(lambda self: self.active)
    @rule(pick=choices)
    def remove(self, pick: int) -> None:
        slot = sorted(self.active)[pick % len(self.active)]
        self.region.remove_backend(slot)
        del self.active[slot]

    @precondition(lambda self: self.active)
    @rule(w=workers, pick=choices)
    def adopt(self, w: int, pick: int) -> None:
        slot = sorted(self.active)[pick % len(self.active)]
        identity = self.active[slot]
        if self.workers[w].adopted.get(slot) == identity:
            return
        self.blocks[w].adopt(slot, identity)
        self.workers[w].adopted[slot] = identity
        self.workers[w].now[identity] = Held()

    def _some(self, w: int, pick: int) -> tuple[int, int] | None:
        """(slot, identity) of one that this worker has adopted, active or not."""
        adopted = sorted(self.workers[w].adopted.items())
        return adopted[pick % len(adopted)] if adopted else None

    @rule(w=workers, pick=choices, start_ns=st.integers(1, NOW_NS))
    def open_flow(self, w: int, pick: int, start_ns: int) -> None:
        if (some := self._some(w, pick)) is None:
            return
        slot, identity = some
        rows, held = self.blocks[w].rows, self.workers[w].now[identity]
        self.blocks[w].flows[slot] += 1.0
        rows["flows_total"][slot] += 1
        rows["waiting"][slot] += 1
        rows["waiting_start_ns"][slot] = (rows["waiting_start_ns"][slot] + start_ns) % 2**64
        held.flows += 1
        held.totals["flows_total"] += 1
        held.waiting.append(start_ns)

    @rule(w=workers, pick=choices, total=st.sampled_from(lo.TOTALS[1:]), by=st.integers(1, 2**40))
    def end_flow(self, w: int, pick: int, total: str, by: int) -> None:
        if (some := self._some(w, pick)) is None or not self.workers[w].now[some[1]].flows:
            return
        slot, identity = some
        rows, held = self.blocks[w].rows, self.workers[w].now[identity]
        self.blocks[w].flows[slot] -= 1.0
        held.flows -= 1
        if held.waiting:
            start_ns = held.waiting.pop()
            rows["waiting"][slot] -= 1
            rows["waiting_start_ns"][slot] = (rows["waiting_start_ns"][slot] - start_ns) % 2**64
        rows[total][slot] += by
        held.totals[total] += by

    @rule(w=workers, pick=choices, kind=st.sampled_from(lo.KINDS), value=st.integers(0, 2**63))
    def sample(self, w: int, pick: int, kind: str, value: int) -> None:
        if (some := self._some(w, pick)) is None:
            return
        slot, identity = some
        self.t_ns += 1
        if kind == "duration":
            self.blocks[w].sample_duration(slot, self.t_ns, value)
        else:
            self.blocks[w].sample_fct(slot, self.t_ns, value)
        self.workers[w].samples[kind, identity].add((self.t_ns, value))

    @rule(w=workers)
    def publish(self, w: int) -> None:
        self.blocks[w].publish(NOW_NS)
        worker = self.workers[w]
        worker.published = {i: worker.now[i].copy() for i in worker.adopted.values()}

    @rule(w=workers)
    def die(self, w: int) -> None:
        retire(self.region, w)
        worker = self.workers[w]
        for identity in worker.adopted.values():
            self.dead[identity].update(worker.now[identity].totals)
            self.dead[identity]["lost_total"] += worker.now[identity].flows
        self.workers[w] = Worker()
        self.blocks[w] = WorkerBlock(self.region, w)

    @invariant()
    def the_snapshot_is_the_models(self) -> None:
        for reader in (self.reader, Reader(self.region)):
            self._compare(reader)

    def _compare(self, reader: Reader) -> None:
        seen = reader.snapshot(NOW_NS)
        assert seen.slots.tolist() == sorted(self.active)
        for row, slot in enumerate(sorted(self.active)):
            identity = self.active[slot]
            assert int(seen.identity[row]) == identity
            published = [w.published.get(identity, Held()) for w in self.workers]
            assert seen.flows[row] == sum(p.flows for p in published)
            assert seen.waiting[row] == sum(len(p.waiting) for p in published)
            ages = sum(NOW_NS - start for p in published for start in p.waiting)
            assert seen.waiting_age_ns[row] == ages
            for name in lo.TOTALS:
                expected = self.dead[identity][name] + sum(p.totals[name] for p in published)
                assert seen.totals[name][row] == expected
            for kind, samples in (("duration", seen.duration), ("fct", seen.fct)):
                there = samples.t_ns[row] > 0
                found = set(
                    zip(
                        samples.t_ns[row][there].tolist(),
                        samples.value_ns[row][there].tolist(),
                        strict=True,
                    )
                )
                # Which of them a random slot still holds is chance; that the newest is there, not.
                expected_samples: set[tuple[int, int]] = set()
                for worker in self.workers:
                    if worker.adopted.get(slot) == identity:
                        mine = worker.samples[kind, identity]
                        expected_samples |= mine
                        assert not mine or max(mine) in found
                assert found <= expected_samples
                assert len(found) == there.sum() <= WORKERS * RESERVOIR


TestModel = Machine.TestCase
TestModel.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
