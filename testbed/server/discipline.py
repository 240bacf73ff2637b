"""Blocked processor sharing: who is served, how fast, and when each job ends.

Lives here: everything that decides about jobs, as a pure function of the times passed in.
Never here: clocks, sockets, randomness. Arithmetic is on whatever numbers come in, so the
tests drive it with exact fractions.
Downstream: `testbed.server.backend`, which gives it real time.

Source: Eq. 42 of "Learning Distributed and Fair Policies for Network Load Balancing as Markov
Potential Game" (App. C.1), with a speed factor added.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Job = TypeVar("Job", bound=Hashable)

# Cancelled jobs stay in the heap until they outnumber those in service by this many.
_DEAD_ENTRIES_MAX = 64


class Finished(NamedTuple, Generic[Job]):
    """A job that has had all its work, and the exact time at which it had."""

    job: Job
    at_s: float


@dataclass(frozen=True)
class Totals:
    """Jobs inside, and since the start: jobs by how they ended, and CPU-seconds used."""

    in_service: int
    backlog: int
    finished: int
    rejected: int
    cancelled: int
    busy_cpu_s: float
    elapsed_s: float
    utilisation: float


class BlockedProcessorSharing(Generic[Job]):
    """`cpus` CPUs of `speed`, shared equally by at most `in_service` jobs, FIFO `backlog` behind.

    With n jobs in service each runs at speed * min(1, cpus / n) seconds of work a second. A job
    that finds the service full waits; one that finds the backlog full as well is rejected.

    Times are seconds of any clock that does not go back; a `now_s` before an earlier one raises
    ValueError. Jobs are any hashable values, unique among those inside. Each operation costs
    O(log n): all jobs in service gain work at the same rate, so one number, the work that a job
    present from the beginning would have had (`_attained_s`), tells when each is done.
    """

    def __init__(
        self,
        *,
        cpus: int,
        in_service: int,
        backlog: int,
        speed: float = 1,
        now_s: float = 0,
    ) -> None:
        if cpus < 1 or in_service < 1 or backlog < 0:
            given = f"{cpus}, {in_service}, {backlog}"
            raise ValueError(f"need cpus >= 1, in_service >= 1, backlog >= 0; got {given}")
        _check_speed(speed)
        self._cpus = cpus
        self._in_service = in_service
        self._backlog = backlog
        self._speed = speed
        self._start_s = now_s
        self._now_s = now_s
        self._attained_s: float = 0
        self._busy_cpu_s: float = 0
        self._serial = 0
        # (attained work at which the job is done, tie-breaker, job); cancelled ones stay a while.
        self._heap: list[tuple[float, int, Job]] = []
        self._serving: dict[Job, int] = {}
        # Ordered for its O(1) removal from the front, which a dict lacks.
        self._waiting: OrderedDict[Job, float] = OrderedDict()
        self._uncollected: list[Finished[Job]] = []
        self._finished = 0
        self._rejected = 0
        self._cancelled = 0

    @property
    def speed(self) -> float:
        """Seconds of work that one CPU does in a second."""
        return self._speed

    def submit(self, job: Job, work_s: float, now_s: float) -> bool:
        """Bring `job` with `work_s` seconds of work of one CPU at speed 1; False if rejected.

        Raises ValueError for a job that is inside already, and for work that is negative or not
        finite.
        """
        if not (math.isfinite(work_s) and work_s >= 0):
            raise ValueError(f"work must be finite and not negative, not {work_s}")
        self._run(now_s)
        if job in self._serving or job in self._waiting:
            raise ValueError(f"job {job!r} is inside already")
        if len(self._serving) < self._in_service:
            self._serve(job, work_s)
        elif len(self._waiting) < self._backlog:
            self._waiting[job] = work_s
        else:
            self._rejected += 1
            return False
        return True

    def cancel(self, job: Job, now_s: float) -> bool:
        """Take `job` out (its client went away); False if it is not inside (any more).

        A job that was done before `now_s` stays done, and `advance` still returns it.
        """
        self._run(now_s)
        if job in self._waiting:
            del self._waiting[job]
        elif job in self._serving:
            del self._serving[job]
            self._fill()
        else:
            return False
        self._cancelled += 1
        return True

    def set_speed(self, speed: float, now_s: float) -> None:
        """Every CPU works at `speed` from `now_s` on; 0 stalls them all."""
        _check_speed(speed)
        self._run(now_s)
        self._speed = speed

    def next_event_s(self) -> float:
        """When `advance` next has a job to return, if nothing else happens; inf for never.

        Not in the future if jobs are waiting to be collected by `advance`.
        """
        if self._uncollected:
            return self._uncollected[0].at_s
        return self._due_s()

    def advance(self, now_s: float) -> list[Finished[Job]]:
        """Every job done up to and at `now_s` that was not returned before, in order."""
        self._run(now_s)
        finished, self._uncollected = self._uncollected, []
        return finished

    def totals(self, now_s: float) -> Totals:
        """The counts at `now_s`. A CPU is busy while it holds a job, at speed 0 as well."""
        self._run(now_s)
        elapsed_s = now_s - self._start_s
        return Totals(
            in_service=len(self._serving),
            backlog=len(self._waiting),
            finished=self._finished,
            rejected=self._rejected,
            cancelled=self._cancelled,
            busy_cpu_s=self._busy_cpu_s,
            elapsed_s=elapsed_s,
            utilisation=self._busy_cpu_s / (self._cpus * elapsed_s) if elapsed_s > 0 else 0.0,
        )

    def _run(self, now_s: float) -> None:
        """Let time pass until `now_s`, finishing and admitting jobs at their exact times."""
        if now_s < self._now_s:
            raise ValueError(f"time went back from {self._now_s} to {now_s}")
        # The same expression as in next_event_s, so that rounding cannot put a job that was
        # announced for a time after that time.
        while (due_s := self._due_s()) <= now_s:
            self._pass(due_s)
            self._attained_s, _, job = heapq.heappop(self._heap)
            del self._serving[job]
            self._finished += 1
            self._uncollected.append(Finished(job, due_s))
            self._fill()
        self._pass(now_s)

    def _pass(self, until_s: float) -> None:
        """Let time pass in which no job ends."""
        elapsed_s = until_s - self._now_s
        self._attained_s += elapsed_s * self._rate()
        self._busy_cpu_s += elapsed_s * min(len(self._serving), self._cpus)
        self._now_s = until_s

    def _due_s(self) -> float:
        while self._heap and self._serving.get(self._heap[0][2]) != self._heap[0][1]:
            heapq.heappop(self._heap)
        if not self._heap or self._speed == 0:
            return math.inf
        # Rounding may have carried the attained work a hair beyond the first job's.
        return self._now_s + max(0, self._heap[0][0] - self._attained_s) / self._rate()

    def _rate(self) -> float:
        """Work that each job in service gains in a second (Eq. 42)."""
        count = len(self._serving)
        return self._speed * self._cpus / count if count > self._cpus else self._speed

    def _serve(self, job: Job, work_s: float) -> None:
        if not self._serving:
            # Start again from 0 when idle: the sum would lose precision over days.
            self._heap.clear()
            self._attained_s = 0
        elif len(self._heap) > 2 * len(self._serving) + _DEAD_ENTRIES_MAX:
            self._heap = [e for e in self._heap if self._serving.get(e[2]) == e[1]]
            heapq.heapify(self._heap)
        self._serial += 1
        self._serving[job] = self._serial
        heapq.heappush(self._heap, (self._attained_s + work_s, self._serial, job))

    def _fill(self) -> None:
        """Move waiting jobs into the free places."""
        while self._waiting and len(self._serving) < self._in_service:
            self._serve(*self._waiting.popitem(last=False))


def _check_speed(speed: float) -> None:
    if not (math.isfinite(speed) and speed >= 0):
        raise ValueError(f"speed must be finite and not negative, not {speed}")
