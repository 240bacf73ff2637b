"""A queueing toy: processor-sharing servers behind SED dispatch, seen through Snapshots.

Lives here: a discrete-event simulation with a clock of its own, exact for processor sharing.
Never here: sockets, threads, wall time, the true speeds in anything that a snapshot shows.
Upstream: tests. Downstream: `agent.agent`, by `Toy.snapshot`.
"""

from __future__ import annotations

import heapq

import numpy as np

from shm.snapshot import Samples, Snapshot

START_NS = 7 * 86_400 * 10**9  # a week of uptime: float32 nanoseconds would be useless here


class Server:
    """Processor sharing by virtual time: V grows at speed / jobs, a job leaves at V0 + work."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self.virtual = 0.0
        self.at_s = 0.0
        self.jobs: list[tuple[float, int, float]] = []  # (leaves at V, tie-breaker, arrived at)

    def advance(self, now_s: float) -> None:
        if self.jobs:
            self.virtual += (now_s - self.at_s) * self.speed / len(self.jobs)
        self.at_s = now_s

    def next_s(self) -> float:
        if not self.jobs:
            return float("inf")
        return self.at_s + max(self.jobs[0][0] - self.virtual, 0.0) * len(self.jobs) / self.speed


class Reservoir:
    """The data plane's reservoir: a random slot is overwritten at each sample."""

    def __init__(self, rows: int, slots: int) -> None:
        self.t_ns = np.zeros((rows, slots), np.uint64)
        self.value_ns = np.zeros((rows, slots), np.uint64)

    def put(self, row: int, slot: int, t_ns: int, value_ns: int) -> None:
        self.t_ns[row, slot] = t_ns
        self.value_ns[row, slot] = value_ns

    def samples(self) -> Samples:
        return Samples(self.t_ns.copy(), self.value_ns.copy())


class Toy:
    """N servers of hidden speeds; speeds are scaled so that a mean job takes `mean_job_s` alone
    on a server of average speed, and arrivals so that the total load is `load`."""

    def __init__(
        self, speeds: list[float], *, load: float, mean_job_s: float, seed: int, slots: int = 64
    ) -> None:
        relative = np.array(speeds) / np.mean(speeds)
        self.rng = np.random.default_rng(seed)
        self.count = len(speeds)
        self.servers = [Server(float(speed)) for speed in relative]
        self.mean_job_s = mean_job_s
        self.rate_per_s = load * self.count / mean_job_s
        self.weights = np.ones(self.count)
        self.now_s = 0.0
        self.slots = slots
        self.duration = Reservoir(self.count, slots)
        self.interarrival = Reservoir(1, slots)
        self.accepted = np.zeros(self.count, np.int64)
        self.flow_s: list[float] = []  # sojourn times since the caller last cleared them
        self._number = 0
        self._next_arrival_s = self.rng.exponential(1.0 / self.rate_per_s)
        self._last_arrival_s = 0.0

    def run(self, span_s: float) -> None:
        """Simulate up to now + span_s."""
        end_s = self.now_s + span_s
        while True:
            ends = [server.next_s() for server in self.servers]
            first = int(np.argmin(ends))
            at_s = min(ends[first], self._next_arrival_s)
            if at_s > end_s:
                break
            if ends[first] <= self._next_arrival_s:
                self._depart(first, at_s)
            else:
                self._arrive(at_s)
        self.now_s = end_s

    def _arrive(self, at_s: float) -> None:
        flows = np.array([len(server.jobs) for server in self.servers])
        cost = (flows + 1) / self.weights
        best = np.flatnonzero(cost <= cost.min() * (1 + 1e-9))
        row = int(best[self.rng.integers(best.size)])
        server = self.servers[row]
        server.advance(at_s)
        self._number += 1
        work = self.rng.exponential(self.mean_job_s)
        heapq.heappush(server.jobs, (server.virtual + work, self._number, at_s))
        self.accepted[row] += 1
        self._sample(self.interarrival, 0, at_s, at_s - self._last_arrival_s)
        self._last_arrival_s = at_s
        self._next_arrival_s = at_s + self.rng.exponential(1.0 / self.rate_per_s)

    def _depart(self, row: int, at_s: float) -> None:
        server = self.servers[row]
        server.advance(at_s)
        _, _, since_s = heapq.heappop(server.jobs)
        self._sample(self.duration, row, at_s, at_s - since_s)
        self.flow_s.append(at_s - since_s)

    def _sample(self, into: Reservoir, row: int, at_s: float, value_s: float) -> None:
        slot = int(self.rng.integers(self.slots))
        into.put(row, slot, START_NS + int(at_s * 1e9), int(value_s * 1e9))

    def snapshot(self) -> Snapshot:
        """What a reader of the region would see now; every flow waits until its job is done."""
        flows = np.array([len(server.jobs) for server in self.servers], np.int64)
        ages_s = [sum(self.now_s - job[2] for job in server.jobs) for server in self.servers]
        return Snapshot(
            now_ns=START_NS + int(self.now_s * 1e9),
            generation=1,
            slots=np.arange(self.count, dtype=np.int64),
            identity=np.arange(1, self.count + 1, dtype=np.uint64),
            flows=flows,
            waiting=flows.copy(),
            waiting_age_ns=(np.array(ages_s) * 1e9).astype(np.int64),
            totals={"flows_total": self.accepted.copy()},
            duration=self.duration.samples(),
            fct=self.duration.samples(),
            interarrival=self.interarrival.samples(),
        )


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation; ties in `b` (equal speeds) get their mean rank."""

    def ranks(values: np.ndarray) -> np.ndarray:
        below = (values[:, None] > values[None, :]).sum(axis=1)
        same = (values[:, None] == values[None, :]).sum(axis=1)
        return below + (same - 1) / 2.0

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])
