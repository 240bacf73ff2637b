"""Sends a plan's requests at their planned times, whatever became of the earlier ones.

Lives here: the schedule, the bounds (time, requests in flight, pooled connections), the table.
Never here: bytes (`response`, `client`), figures (`result`).
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.alarm import Alarm
from testbed.load.arrivals import Plan
from testbed.load.client import Connection, Request
from testbed.load.result import LAG_MAX_S, RECORD, Outcome, Result

_NS_PER_S = 1_000_000_000
# Between the start and time 0 of the plan, so that the first request is not late already.
_LEAD_NS = 5_000_000
# After a stall the overdue requests leave in batches, so that answers are read in between.
_BATCH = 64


@dataclass(frozen=True)
class Target:
    """Where requests go. keep_alive: 0 for one connection a request, else the pool's size.

    others: further addresses (host, port) of the same service, over which connections spread as an
    edge router would spread them (`spread_over`); keep_alive has one address only. timeout_s counts
    from the planned time. in_flight_max bounds requests begun and not done (and connections not yet
    closed); one planned beyond it is not sent, and the run not believable.
    """

    host: str
    port: int
    keep_alive: int = 0
    timeout_s: float = 40.0
    in_flight_max: int = 8192
    lag_max_s: float = LAG_MAX_S
    others: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if self.keep_alive < 0 or self.in_flight_max < 1:
            raise ValueError("need keep_alive >= 0 and in_flight_max >= 1")
        if self.keep_alive and self.others:
            raise ValueError("a pool of kept connections needs a single address")
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise ValueError("need a finite timeout_s > 0")


def spread_over(count: int, index: int) -> int:
    """Which of `count` addresses request `index` goes to: the same one in every run."""
    return (zlib.crc32(index.to_bytes(8, "little")) >> 8) % count


class LoadGenerator:
    """Runs one plan once.

    on_start: called once with the plan's time 0, ns of CLOCK_MONOTONIC.

    `table` has the `RECORD` row of each request and may be read while the run goes on: rows
    whose outcome is PENDING are not over. Use from the loop's thread only.
    """

    def __init__(
        self,
        plan: Plan,
        target: Target,
        about: Mapping[str, Any] | None = None,
        on_start: Callable[[int], None] | None = None,
    ) -> None:
        self.table: NDArray[np.void] = np.full(len(plan), -1, RECORD)
        self._planned_ns: list[int] = np.rint(plan.planned_s * 1e9).astype(np.int64).tolist()
        self.table["planned_ns"] = self._planned_ns
        self.table["bytes"] = 0
        self.table["outcome"] = Outcome.PENDING
        self._plan = plan
        self._target = target
        self._about = dict(about or {})
        self._timeout_ns = round(target.timeout_s * _NS_PER_S)
        version, connection = ("1.1", "keep-alive") if target.keep_alive else ("1.0", "close")
        self._tail = (
            f" HTTP/{version}\r\nHost: {target.host}:{target.port}\r\n"
            f"Connection: {connection}\r\n\r\n"
        )
        self._loop: asyncio.AbstractEventLoop
        self._alarm: Alarm
        self._addresses: list[tuple[str, int]] = []
        self._start_ns = 0
        self._on_start = on_start
        self._next = 0
        self._over = 0
        self._connections: set[Connection] = set()
        self._free: dict[Connection, None] = {}
        self._waiting: deque[Request] = deque()
        # In planned order, which is the order of their deadlines: all have the same timeout.
        self._watched: deque[Request] = deque()
        self._expiry: asyncio.TimerHandle | None = None
        self._done = asyncio.Event()
        self._closing = False

    async def run(self) -> Result:
        """Send everything, wait until every request is over, and return what became of them.

        Takes at most the plan's duration plus the timeout, from its start. Raises OSError if a
        target's name cannot be resolved. When cancelled, closes every connection.
        """
        self._loop = asyncio.get_running_loop()
        for host, port in ((self._target.host, self._target.port), *self._target.others):
            found = await self._loop.getaddrinfo(
                host, port, family=socket.AF_INET, type=socket.SOCK_STREAM
            )
            self._addresses.append((str(found[0][4][0]), port))
        self._alarm = Alarm(self._loop, self._ring)
        cpu_ns = time.process_time_ns()
        self._start_ns = time.monotonic_ns() + _LEAD_NS
        if self._on_start is not None:
            self._on_start(self._start_ns)
        try:
            self._arm()
            await self._done.wait()
        finally:
            self._closing = True
            self._alarm.close()
            if self._expiry is not None:
                self._expiry.cancel()
            for connection in list(self._connections):
                connection.abort()
        cpu_s = (time.process_time_ns() - cpu_ns) / 1e9
        return Result(self.table, cpu_s, self._target.lag_max_s, self._about)

    def wire(self, request: Request) -> bytes:
        """The request's bytes."""
        return f"GET {self._plan.queries[request.index]}{self._tail}".encode("ascii")

    def ended(self, request: Request, outcome: Outcome) -> None:
        """Note how the request ended."""
        request.outcome = outcome
        start_ns = self._start_ns
        done_ns = request.done_ns or time.monotonic_ns()
        self.table[request.index] = (
            self._planned_ns[request.index],
            request.handled_ns - start_ns,
            request.sent_ns - start_ns if request.sent_ns else -1,
            request.first_byte_ns - start_ns if request.first_byte_ns else -1,
            done_ns - start_ns,
            request.size_bytes,
            outcome,
        )
        self._over += 1
        if self._over == len(self.table):
            self._done.set()

    def freed(self, connection: Connection) -> None:
        """Give the connection to the request that has waited longest, or keep it."""
        request = self._next_waiting()
        if request is None:
            self._free[connection] = None
        else:
            connection.send(request)

    def lost(self, connection: Connection) -> None:
        """Forget the connection; its place in the pool goes to a waiting request."""
        self._connections.discard(connection)
        self._free.pop(connection, None)
        if not self._closing and (request := self._next_waiting()) is not None:
            self._connect(request)

    def _arm(self) -> None:
        if self._next < len(self._planned_ns):
            self._alarm.set(self._start_ns + self._planned_ns[self._next])
        elif not self._planned_ns:
            self._done.set()

    def _ring(self) -> None:
        for _ in range(_BATCH):
            if self._next == len(self._planned_ns):
                break
            now_ns = time.monotonic_ns()
            planned_ns = self._start_ns + self._planned_ns[self._next]
            if planned_ns > now_ns:
                break
            request = Request(self._next, now_ns, planned_ns + self._timeout_ns)
            self._next += 1
            self._begin(request)
        self._arm()

    def _begin(self, request: Request) -> None:
        in_flight = len(self._connections) - len(self._free) + len(self._waiting)
        if in_flight >= self._target.in_flight_max:
            self.ended(request, Outcome.NOT_SENT)
            return
        self._watched.append(request)
        if self._expiry is None:
            self._expire()
        if not self._target.keep_alive:
            self._connect(request)
        elif self._free:
            connection, _ = self._free.popitem()
            connection.send(request)
        elif len(self._connections) < self._target.keep_alive:
            self._connect(request)
        else:
            self._waiting.append(request)

    def _connect(self, request: Request) -> None:
        request.sent_ns = time.monotonic_ns()
        connection = Connection(self, request)
        self._connections.add(connection)
        address = self._addresses[spread_over(len(self._addresses), request.index)]
        connection.connect(self._loop, *address)

    def _next_waiting(self) -> Request | None:
        while self._waiting:
            request = self._waiting.popleft()
            if request.outcome is Outcome.PENDING:
                return request
        return None

    def _expire(self) -> None:
        """End what is overdue, and come back for the next."""
        self._expiry = None
        now_ns = time.monotonic_ns()
        watched = self._watched
        while watched:
            request = watched[0]
            connection = request.connection
            # A target that has answered and does not close holds a connection, too.
            holds = (
                connection is not None
                and connection not in self._free
                and connection.holds(request)
            )
            if holds or request.outcome is Outcome.PENDING:
                if request.deadline_ns > now_ns:
                    # The loop's timers may ring a millisecond early; one more does no harm.
                    delay_s = (request.deadline_ns - now_ns) / _NS_PER_S + 0.001
                    self._expiry = self._loop.call_later(delay_s, self._expire)
                    return
                if request.outcome is Outcome.PENDING:
                    self.ended(request, Outcome.TIMEOUT)
                if connection is not None:
                    connection.abort()
            watched.popleft()
