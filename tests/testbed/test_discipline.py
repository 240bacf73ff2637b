"""Blocked processor sharing in virtual time: against a naive simulation, and against theory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.server.discipline import BlockedProcessorSharing


@dataclass
class Naive:
    """The law taken literally: every job's remaining work, recomputed at each event."""

    cpus: int
    in_service: int
    backlog: int
    speed: Fraction
    now_s: Fraction = Fraction(0)
    busy_cpu_s: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        self.remaining_s: dict[int, Fraction] = {}
        self.waiting: list[tuple[int, Fraction]] = []
        self.finished: list[tuple[int, Fraction]] = []

    def run(self, until_s: Fraction) -> None:
        while True:
            count = len(self.remaining_s)
            rate = self.speed * min(Fraction(1), Fraction(self.cpus, count)) if count else 0
            step_s = until_s - self.now_s
            if rate:
                step_s = min(step_s, min(self.remaining_s.values()) / rate)
            self.now_s += step_s
            self.busy_cpu_s += step_s * min(count, self.cpus)
            for job in self.remaining_s:
                self.remaining_s[job] -= rate * step_s
            done = [job for job, left in self.remaining_s.items() if left == 0 and self.speed]
            # One at a time: each may admit a job that is done at the same moment.
            if done:
                del self.remaining_s[done[0]]
                self.finished.append((done[0], self.now_s))
                self.admit()
            elif self.now_s == until_s:
                return

    def admit(self) -> None:
        while self.waiting and len(self.remaining_s) < self.in_service:
            job, work_s = self.waiting.pop(0)
            self.remaining_s[job] = work_s

    def submit(self, job: int, work_s: Fraction) -> bool:
        if len(self.remaining_s) < self.in_service:
            self.remaining_s[job] = work_s
        elif len(self.waiting) < self.backlog:
            self.waiting.append((job, work_s))
        else:
            return False
        return True

    def cancel(self, job: int) -> bool:
        before = len(self.remaining_s) + len(self.waiting)
        self.remaining_s.pop(job, None)
        self.waiting = [(other, work_s) for other, work_s in self.waiting if other != job]
        self.admit()
        return len(self.remaining_s) + len(self.waiting) < before


small = st.fractions(min_value=0, max_value=4, max_denominator=6)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), small, small),
        st.tuples(st.just("cancel"), small, st.integers(0, 30)),
        st.tuples(st.just("speed"), small, small),
        st.tuples(st.just("collect"), small, st.none()),
    ),
    max_size=40,
)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 4), operations)
def test_every_operation_agrees_with_the_naive_simulation(cpus, in_service, backlog, steps):
    fast = BlockedProcessorSharing(
        cpus=cpus, in_service=in_service, backlog=backlog, speed=Fraction(1), now_s=Fraction(0)
    )
    naive = Naive(cpus, in_service, backlog, Fraction(1))
    collected = []
    now_s = Fraction(0)
    for job, (kind, wait_s, value) in enumerate(steps):
        now_s += wait_s
        naive.run(now_s)
        if kind == "submit":
            assert fast.submit(job, value, now_s) == naive.submit(job, value)
        elif kind == "cancel":
            assert fast.cancel(value, now_s) == naive.cancel(value)
        elif kind == "speed":
            fast.set_speed(value, now_s)
            naive.speed = value
        else:
            collected += fast.advance(now_s)
        # Once more: a job without work is done in the moment in which it comes.
        naive.run(now_s)
        totals = fast.totals(now_s)
        assert totals.in_service == len(naive.remaining_s)
        assert totals.backlog == len(naive.waiting)
        assert totals.busy_cpu_s == naive.busy_cpu_s
    fast.set_speed(Fraction(1), now_s)
    naive.speed = Fraction(1)
    naive.run(now_s + 1000)
    collected += fast.advance(now_s + 1000)
    # Jobs that are done at the same moment may be told in any order.
    assert sorted(collected) == sorted(naive.finished)
    assert all(one.at_s <= other.at_s for one, other in pairwise(collected))
    assert fast.next_event_s() == math.inf


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 3)), min_size=1, max_size=60))
def test_a_job_is_done_at_the_very_time_announced(jobs):
    ps = BlockedProcessorSharing(cpus=2, in_service=4, backlog=1000)
    now_s = 0.0
    done = 0
    for job, (gap_s, work_s) in enumerate(jobs):
        now_s += gap_s
        while ps.next_event_s() <= now_s:
            due_s = ps.next_event_s()
            finished = ps.advance(due_s)
            assert [f.at_s for f in finished] == [due_s] * len(finished)
            assert finished
            done += len(finished)
        ps.submit(job, work_s, now_s)
    while (due_s := ps.next_event_s()) < math.inf:
        finished = ps.advance(due_s)
        assert finished
        done += len(finished)
    assert done == len(jobs)


def test_a_single_job_takes_its_work_over_the_speed():
    ps = BlockedProcessorSharing(cpus=4, in_service=8, backlog=0, speed=0.5)
    ps.submit("a", 1.0, 0.0)
    assert ps.next_event_s() == 2.0
    assert ps.advance(2.0) == [("a", 2.0)]


def test_jobs_beyond_the_cpus_share_and_the_places_bound_the_sharing():
    ps = BlockedProcessorSharing(cpus=1, in_service=2, backlog=1)
    assert [ps.submit(job, 1.0, 0.0) for job in "abcd"] == [True, True, True, False]
    assert ps.advance(10.0) == [("a", 2.0), ("b", 2.0), ("c", 3.0)]
    assert ps.totals(10.0).busy_cpu_s == 3.0
    assert ps.totals(10.0).utilisation == pytest.approx(0.3)
    assert ps.totals(10.0).rejected == 1


def test_a_change_of_speed_counts_from_its_moment_and_zero_stalls():
    ps = BlockedProcessorSharing(cpus=1, in_service=2, backlog=0)
    ps.submit("a", 2.0, 0.0)
    ps.set_speed(0.0, 1.0)
    assert ps.next_event_s() == math.inf
    ps.set_speed(0.25, 5.0)
    assert ps.next_event_s() == 9.0


def test_a_place_freed_before_an_arrival_is_the_arrivals():
    ps = BlockedProcessorSharing(cpus=1, in_service=1, backlog=0)
    ps.submit("a", 1.0, 0.0)
    assert ps.submit("b", 1.0, 1.5)
    assert not ps.cancel("a", 1.6)
    assert ps.next_event_s() == 1.0
    assert ps.advance(3.0) == [("a", 1.0), ("b", 2.5)]


def test_cancelled_jobs_do_not_pile_up():
    ps = BlockedProcessorSharing(cpus=1, in_service=4, backlog=0)
    ps.submit("long", 1e9, 0.0)
    for job in range(10_000):
        ps.submit(job, 1e6, 0.0)
        ps.cancel(job, 0.0)
    assert len(ps._heap) < 100
    assert ps.totals(0.0).cancelled == 10_000


def test_misuse_is_refused():
    ps = BlockedProcessorSharing(cpus=1, in_service=1, backlog=1)
    ps.submit("a", 1.0, 1.0)
    with pytest.raises(ValueError, match="inside already"):
        ps.submit("a", 1.0, 1.0)
    with pytest.raises(ValueError, match="time went back"):
        ps.advance(0.5)
    with pytest.raises(ValueError, match="finite"):
        ps.submit("b", math.nan, 1.0)
    with pytest.raises(ValueError, match="speed"):
        ps.set_speed(-1.0, 1.0)
    with pytest.raises(ValueError, match="cpus"):
        BlockedProcessorSharing(cpus=0, in_service=1, backlog=1)


def sojourns_s(cpus, arrivals_s, works_s):
    ps = BlockedProcessorSharing(cpus=cpus, in_service=10**9, backlog=0)
    for job, (at_s, work_s) in enumerate(zip(arrivals_s, works_s, strict=True)):
        ps.submit(job, work_s, at_s)
    ends_s = np.empty(len(arrivals_s))
    for job, at_s in ps.advance(1e9):
        ends_s[job] = at_s
    return ends_s - arrivals_s


def test_mm1_ps_has_the_sojourn_times_of_theory():
    rng = np.random.default_rng(5)
    load, count = 0.7, 60_000
    arrivals_s = np.cumsum(rng.exponential(1 / load, count))
    works_s = rng.exponential(1.0, count)
    taken_s = sojourns_s(1, arrivals_s, works_s)
    assert taken_s.mean() == pytest.approx(1 / (1 - load), rel=0.05)
    # Fairness of PS: a job of work x takes x / (1 - load) on average, whatever x is.
    for low, high in ((0.0, 0.5), (0.5, 1.5), (1.5, 10.0)):
        some = (works_s >= low) & (works_s < high)
        slowdown = taken_s[some].sum() / works_s[some].sum()
        assert slowdown == pytest.approx(1 / (1 - load), rel=0.07)


def test_several_cpus_follow_erlang_c_whatever_the_law_of_sizes():
    rng = np.random.default_rng(6)
    cpus, load, count = 3, 0.7, 100_000
    arrivals_s = np.cumsum(rng.exponential(1 / (load * cpus), count))
    # Hyperexponential with mean 1 and CV 2: the mean in PS depends on the mean only.
    works_s = np.where(rng.random(count) < 0.8873, 0.5635, 4.4365) * rng.exponential(1, count)
    works_s /= works_s.mean()
    offered = load * cpus
    last = offered**cpus / math.factorial(cpus) / (1 - load)
    waiting = last / (sum(offered**k / math.factorial(k) for k in range(cpus)) + last)
    expected_s = 1 + waiting / (cpus * (1 - load))
    assert sojourns_s(cpus, arrivals_s, works_s).mean() == pytest.approx(expected_s, rel=0.05)
