"""What a lab's servers can do, each at its quota, each with its site.

Lives here: the measurement and its figures. Never here: load that resembles anybody's (`closed`).

All loaded at once, since a server's CPU time a request depends on what the others take from the
caches; but one after another where pages are so cheap that the client could not keep all of them
busy. Under quota, since being stopped and started costs. A figure counts only where the host had
the CPU time that the quotas promise: `believable` says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from typing import Any

from testbed.lab import pages
from testbed.lab.closed import Tally, ask
from testbed.lab.driver import LabError
from testbed.lab.machine import NamespaceServer
from testbed.lab.namespaces import NamespaceLab
from testbed.lab.topology import Site

LOOP_ITERATIONS = 368_000
"""Of the loop page: the mean of the moderate testbed's traffic, a tenth of the papers'."""

_CLIENTS = {"static": 16}
_CLIENTS_ELSE = 4
"""At once at each server: pages of some microseconds need more of them to keep it busy."""

_IN_TURN: tuple[Site, ...] = ("static",)
_TURN_MIN_S = 1.0
"""Some hundreds of cheap pages."""

_SETTLE_S = 1.0
_QUOTA_USED_MIN = 0.95


@dataclass(frozen=True)
class Capacity:
    """One server.

    rate_per_s: whole answers. cpu_ms: CPU time of the server a request. quota_used: CPU time over
    what its quota gave in that time; a server that is loaded to the full uses all of it.
    """

    server: str
    cores: float
    rate_per_s: float
    cpu_ms: float
    quota_used: float

    @property
    def believable(self) -> bool:
        """Whether it had the CPU time of its quota."""
        return self.quota_used >= _QUOTA_USED_MIN


@dataclass(frozen=True)
class Calibration:
    """All servers of one site. database_ms: CPU time of the database a request."""

    site: Site
    duration_s: float
    servers: tuple[Capacity, ...]
    database_ms: float

    @property
    def rate_per_s(self) -> float:
        """What they can answer together."""
        return sum(server.rate_per_s for server in self.servers)

    @property
    def cpu_ms(self) -> float:
        """CPU time a request, over all servers."""
        total = sum(server.rate_per_s * server.cpu_ms for server in self.servers)
        return total / self.rate_per_s

    @property
    def believable(self) -> bool:
        """Whether every server had the CPU time of its quota."""
        return all(server.believable for server in self.servers)

    def as_data(self) -> dict[str, Any]:
        """For a file."""
        return {
            **asdict(self),
            "rate_per_s": self.rate_per_s,
            "cpu_ms": self.cpu_ms,
            "believable": self.believable,
        }


def target_of(site: Site) -> Callable[[int], str]:
    """What the n-th request asks of a server with this site."""
    match site:
        case "loop":
            return lambda n: pages.loop_target(LOOP_ITERATIONS)
        case "static":
            return lambda n: pages.static_target(n % pages.COUNT)
        case _:
            return lambda n: pages.wiki_target(n % pages.COUNT)


def calibrate(lab: NamespaceLab, duration_s: float) -> list[Calibration]:
    """Measure all Apache servers, those with one site at a time.

    Raises LabError where one fails requests.
    """
    servers = [server for server in lab.servers.values() if server.server.kind == "apache"]
    sites = dict.fromkeys(server.server.site for server in servers)
    return [
        _one(lab, site, [s for s in servers if s.server.site == site], duration_s) for site in sites
    ]


def _one(
    lab: NamespaceLab, kind: Site, servers: Sequence[NamespaceServer], duration_s: float
) -> Calibration:
    groups, each_s = [servers], duration_s
    if kind in _IN_TURN:
        groups = [[server] for server in servers]
        each_s = max(duration_s / len(servers), _TURN_MIN_S)
    clients = _CLIENTS.get(kind, _CLIENTS_ELSE)
    load = [_Load(group, target_of(kind), clients, each_s) for group in groups]
    measured = [lab.client.call(partial(asyncio.run, _measure(lab, one))) for one in load]
    capacities = [
        _capacity(server, kind, tally, cpu_ns, one.took_s)
        for group, one in zip(groups, measured, strict=True)
        for server, tally, cpu_ns in zip(group, one.tallies, one.servers_ns, strict=True)
    ]
    answered = sum(tally.answered for one in measured for tally in one.tallies)
    return Calibration(
        kind,
        sum(one.took_s for one in measured),
        tuple(capacities),
        sum(one.database_ns for one in measured) / answered / 1e6,
    )


def _capacity(
    server: NamespaceServer, kind: Site, tally: Tally, cpu_ns: int, took_s: float
) -> Capacity:
    if tally.failed or not tally.answered:
        raise LabError(f"{server.name}: {tally.failed} of {kind} failed, {tally.last_error}")
    return Capacity(
        server=server.name,
        cores=server.server.cores,
        rate_per_s=tally.answered / took_s,
        cpu_ms=cpu_ns / tally.answered / 1e6,
        quota_used=cpu_ns / 1e9 / took_s / server.server.cores,
    )


@dataclass(frozen=True)
class _Load:
    """clients at each of these servers; what is counted takes so long."""

    servers: Sequence[NamespaceServer]
    target: Callable[[int], str]
    clients: int
    duration_s: float


@dataclass(frozen=True)
class _Measured:
    took_s: float
    tallies: Sequence[Tally]
    servers_ns: Sequence[int]
    database_ns: int


async def _measure(lab: NamespaceLab, load: _Load) -> _Measured:
    servers = load.servers
    tallies = [Tally() for _ in servers]

    def cpu_ns() -> list[int]:
        database = 0 if lab.database is None else lab.database.cpu_ns()
        return [database, *(server.cpu_ns() for server in servers)]

    async with asyncio.TaskGroup() as group:
        until_s = time.monotonic() + _SETTLE_S + load.duration_s
        for number, (server, tally) in enumerate(zip(servers, tallies, strict=True)):
            # Not all at the same page: it would be in all caches for the first of them.
            begin = number * pages.COUNT // len(servers)
            targets = _until(until_s, begin, load.target)
            group.create_task(ask(server.address, server.port, targets, load.clients, tally))
        await asyncio.sleep(_SETTLE_S)
        before_ns, began_s = cpu_ns(), time.monotonic()
        counts = [tally.answered for tally in tallies]
        await asyncio.sleep(load.duration_s)
        after_ns, took_s = cpu_ns(), time.monotonic() - began_s
        seen = [
            Tally(tally.answered - already, tally.failed, tally.last_error)
            for tally, already in zip(tallies, counts, strict=True)
        ]
    database_ns, *servers_ns = (b - a for a, b in zip(before_ns, after_ns, strict=True))
    return _Measured(took_s, seen, servers_ns, database_ns)


def _until(until_s: float, begin: int, target: Callable[[int], str]) -> Iterator[str]:
    for number in count(begin):
        if time.monotonic() >= until_s:
            return
        yield target(number)
