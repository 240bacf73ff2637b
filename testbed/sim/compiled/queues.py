"""Stations: blocked processor sharing by virtual time, and who completes next.

Lives here: jobs at CPUs and I/O queues. Never here: balancers, links.
Source: Eq. 42 of the Markov-potential-game paper, App. C.1; FIFO is the case of one place a CPU.
`testbed.server.discipline` is the same rule for real servers.
"""

from __future__ import annotations

import numpy as np

from testbed.sim.compiled.jit import inner
from testbed.sim.records import State


@inner
def _rate(station: np.void) -> float:
    """Work that each job in service gains in a second."""
    if station.serving > station.cpus:
        return station.speed * station.cpus / station.serving
    return station.speed


@inner
def bring_up_to(station: np.void, now_s: float) -> None:
    """Let time pass in which no job ends."""
    if station.serving > 0:
        elapsed_s = now_s - station.since_s
        gained = elapsed_s * _rate(station)
        station.virtual += gained
        station.left_s -= gained * station.serving
        station.busy_s += elapsed_s * min(float(station.serving), station.cpus)
    station.since_s = now_s


@inner
def schedule(s: State, at: int) -> None:
    """Set when station `at` next completes a job, and let the tournament know."""
    station = s.stations[at]
    if station.serving > 0 and station.speed > 0.0:
        left = s.heap_virtual[at, 0] - station.virtual
        due_s = station.since_s + max(left, 0.0) / _rate(station)
    else:
        due_s = np.inf
    s.due_s[at] = due_s
    winner = s.winner
    node = (s.world[0].leaves + at) >> 1
    while node > 0:
        left_one, right_one = winner[2 * node], winner[2 * node + 1]
        # The lower number wins a tie.
        winner[node] = left_one if s.due_s[left_one] <= s.due_s[right_one] else right_one
        node >>= 1


# Arrays are indexed in full: a row taken as a view would cost two atomic reference counts.


@inner
def _push(s: State, at: int, done_at: float, flow: int) -> None:
    """Into service: a binary heap by virtual time, earlier flows first on a tie."""
    keys, flows = s.heap_virtual, s.heap_flow
    hole = s.stations[at].serving
    s.stations[at].serving += 1
    while hole > 0:
        parent = (hole - 1) >> 1
        if keys[at, parent] < done_at or (keys[at, parent] == done_at and flows[at, parent] < flow):
            break
        keys[at, hole], flows[at, hole] = keys[at, parent], flows[at, parent]
        hole = parent
    keys[at, hole], flows[at, hole] = done_at, flow


@inner
def _pop(s: State, at: int) -> int:
    keys, flows = s.heap_virtual, s.heap_flow
    first = flows[at, 0]
    s.stations[at].serving -= 1
    size = s.stations[at].serving
    key, flow = keys[at, size], flows[at, size]
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            keys[at, right] < keys[at, child]
            or (keys[at, right] == keys[at, child] and flows[at, right] < flows[at, child])
        ):
            child = right
        if key < keys[at, child] or (key == keys[at, child] and flow < flows[at, child]):
            break
        keys[at, hole], flows[at, hole] = keys[at, child], flows[at, child]
        hole = child
    keys[at, hole], flows[at, hole] = key, flow
    return first


@inner
def join(s: State, at: int, flow: int, work_s: float) -> None:
    """A job comes, with time brought up to now: into service, or into the line for a place."""
    station = s.stations[at]
    if station.serving < station.places:
        if station.serving == 0:
            # From 0 again when idle: the sum would lose precision over days.
            station.virtual = 0.0
        _push(s, at, station.virtual + work_s, flow)
        schedule(s, at)
    else:
        s.ring[at, (station.head + station.waiting) % s.ring.shape[1]] = flow
        station.waiting += 1
    if max(station.serving, station.waiting) + 1 >= s.ring.shape[1]:
        s.world[0].crowded = 1


@inner
def complete(s: State, at: int) -> int:
    """The first job in service is done, at `due_s`; the next in line takes its place."""
    station = s.stations[at]
    now_s = s.due_s[at]
    bring_up_to(station, now_s)
    station.virtual = s.heap_virtual[at, 0]
    flow = _pop(s, at)
    if station.waiting > 0:
        following = s.ring[at, station.head]
        station.head = (station.head + 1) % s.ring.shape[1]
        station.waiting -= 1
        work_s = s.work_s[following, s.flows[following].stage]
        _push(s, at, station.virtual + work_s, following)
    if station.serving == 0:
        # Rounding leaves a hair.
        station.virtual = 0.0
    schedule(s, at)
    return flow
