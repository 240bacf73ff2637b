"""Backends that take only so many flows at once, and the flows that wait for one with room.

Lives here: the claim of a place and the bounded queue. Never here: sockets' bytes, the choice of a
backend (`lbd.dispatch`), what is done with a flow that waited too long (`lbd.service`).

The bound is over all workers and never exceeded: a worker claims first, in its own row, and looks
at the sum afterwards. Two that claim the last place at once may both find it taken and try again.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from lbd.dispatch.load import Load
from lbd.edge.arrival import Arrival


class Capacity:
    """max_flows by slot, 0 for no limit."""

    def __init__(self, load: Load, own_flows: memoryview[float]) -> None:
        self._load = load
        self._own = own_flows
        self.max_flows = [0] * load.slots

    def claim(self, slot: int) -> bool:
        """Take a place. False where the backend is full; otherwise `release` it."""
        most = self.max_flows[slot]
        self._own[slot] += 1.0
        if most and self._load.q(slot) > most:
            self._own[slot] -= 1.0
            return False
        return True

    def release(self, slot: int) -> None:
        self._own[slot] -= 1.0

    def full(self, slots: Iterable[int]) -> list[int]:
        """Those of them that have no place left."""
        most, q = self.max_flows, self._load.q
        return [slot for slot in slots if most[slot] and q(slot) >= most[slot]]


@dataclass(frozen=True)
class Waiting:
    """A flow without a backend: accepted, nothing read."""

    client: socket.socket
    key: int
    since_ns: int
    arrival: Arrival | None = None


class WaitingRoom:
    """First come, first served."""

    def __init__(self) -> None:
        self._size = self._timeout_ns = 0
        self._queue: deque[Waiting] = deque()

    def bound(self, size: int, timeout_ns: int) -> None:
        """At most `size` from now on, each for at most `timeout_ns`; nobody is sent away."""
        self._size = size
        self._timeout_ns = timeout_ns

    def enter(self, one: Waiting) -> bool:
        """False where there is no room."""
        if len(self._queue) >= self._size:
            return False
        self._queue.append(one)
        return True

    def first(self) -> Waiting:
        return self._queue[0]

    def leave(self) -> Waiting:
        """The first one goes."""
        return self._queue.popleft()

    def overdue(self, now_ns: int) -> bool:
        """Whether the first one has waited too long."""
        return bool(self._queue) and now_ns - self._queue[0].since_ns > self._timeout_ns
