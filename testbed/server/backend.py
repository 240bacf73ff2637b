"""A discipline in real time: jobs in, alarms, answers out, counts.

Lives here: the one place that reads the clock for the discipline, and the server's settings.
Never here: bytes or sockets. Upstream: `connection`, which is also each job's identity.
"""

from __future__ import annotations

import asyncio
import enum
import math
import time
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from typing import Protocol

from testbed.alarm import Alarm
from testbed.server.discipline import BlockedProcessorSharing

_NS_PER_S = 1_000_000_000


class Fault(enum.StrEnum):
    """What becomes of requests for work: done; reset at once; kept without any answer."""

    NONE = "none"
    RESET = "reset"
    BLACKHOLE = "blackhole"


@dataclass(frozen=True)
class Settings:
    """A backend's capacity and manners.

    `iterations_per_s` is what one CPU of speed 1 loops through in a second (default: PHP 8 on a
    2 GHz core, 6.85 ms a million). `half_close_is_gone`: a client that ends its side while it
    waits has gone away, and its job is dropped; otherwise it is answered, as Apache does.
    """

    cpus: int = 1
    speed: float = 1.0
    in_service: int = 32
    backlog: int = 64
    connections_max: int = 4096
    body_bytes: int = 100
    iterations_per_s: float = 1.46e8
    half_close_is_gone: bool = True
    fault: Fault = Fault.NONE

    def __post_init__(self) -> None:
        if self.connections_max < 1 or self.body_bytes < 0:
            raise ValueError("need connections_max >= 1 and body_bytes >= 0")
        if not (math.isfinite(self.iterations_per_s) and self.iterations_per_s > 0):
            raise ValueError("need finite iterations_per_s > 0")


class Client(Hashable, Protocol):
    """Who waits for a job. Hashed by identity: it has at most one job at a time."""

    def job_done(self) -> None:
        """The job has had its work; answer it."""

    def drop(self) -> None:
        """Close the connection without another word."""


class Backend:
    """Runs jobs of clients by the clock; tells each when its job is done.

    `lateness` in the counts is how long after a job's exact end the client was told, in seconds:
    the error of this simulation, large only where the machine is short of CPU.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: Settings) -> None:
        self.settings = settings
        self.fault = settings.fault
        self.clients: set[Client] = set()
        self.connections_refused = 0
        self.bad_requests = 0
        self._alarm = Alarm(loop, self._ring)
        self._jobs: BlockedProcessorSharing[Client] = BlockedProcessorSharing(
            cpus=settings.cpus,
            in_service=settings.in_service,
            backlog=settings.backlog,
            speed=settings.speed,
            now_s=time.monotonic(),
        )
        self._told = 0
        self._lateness_sum_s = 0.0
        self._lateness_max_s = 0.0

    def submit(self, client: Client, work_s: float) -> bool:
        """Bring a client's job; False if there is no room for it.

        `client.job_done` is never called from within, even for a job without work.
        """
        accepted = self._jobs.submit(client, work_s, time.monotonic())
        self._arm()
        return accepted

    def cancel(self, client: Client) -> None:
        """Forget the client's job, if it has one."""
        self._jobs.cancel(client, time.monotonic())
        self._arm()

    def set_speed(self, speed: float) -> None:
        """Every CPU works at `speed` from now on."""
        self._jobs.set_speed(speed, time.monotonic())
        self._arm()

    def stats(self) -> dict[str, object]:
        """The counts, ready for JSON; names end in their units."""
        return {
            **asdict(self._jobs.totals(at_s := time.monotonic())),
            "at_s": at_s,
            "cpus": self.settings.cpus,
            "speed": self._jobs.speed,
            "fault": self.fault.value,
            "connections": len(self.clients),
            "connections_refused": self.connections_refused,
            "bad_requests": self.bad_requests,
            "lateness_mean_s": self._lateness_sum_s / self._told if self._told else 0.0,
            "lateness_max_s": self._lateness_max_s,
        }

    def close(self) -> None:
        """Drop every client; no job ends any more."""
        self._alarm.close()
        for client in list(self.clients):
            client.drop()

    def _ring(self) -> None:
        for client, at_s in self._jobs.advance(time.monotonic()):
            client.job_done()
            lateness_s = time.monotonic() - at_s
            self._told += 1
            self._lateness_sum_s += lateness_s
            self._lateness_max_s = max(self._lateness_max_s, lateness_s)
        self._arm()

    def _arm(self) -> None:
        due_s = self._jobs.next_event_s()
        # A kernel timer counts in 63 bits of nanoseconds; a job of centuries never ends.
        if due_s * _NS_PER_S < 2**62:
            self._alarm.set(math.ceil(due_s * _NS_PER_S))
        else:
            self._alarm.clear()
