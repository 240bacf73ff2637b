"""How many flows fit into a worker, and what becomes of one more.

Lives here: the arithmetic of flows and descriptors, pure. Never here: accepting (`lbd.listener`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from config.schema import Service

SPARE_FDS: Final = 8
"""Descriptors kept for what is no flow: a log, a name lookup, an interpreter's import."""
_FDS_A_FLOW: Final = 2


@dataclass(frozen=True)
class Bound:
    """Of one listen address in one worker.

    max_flows: at once. fd_ceiling: a connection whose descriptor is not below is turned away; the
    kernel gives the lowest that is free, so as many are in use. sheds: one more is reset instead of
    left waiting, and `shed_counter` counts it.
    """

    max_flows: int
    fd_ceiling: int
    sheds: bool
    shed_counter: str


def flows_possible(fd_limit: int, fds_open: int) -> int:
    """How many flows, of two descriptors each, fit beside what is open already; at least one.

    Accepting a connection for which there is no second descriptor would mean to drop it.
    """
    return max(1, (fd_limit - fds_open - SPARE_FDS) // _FDS_A_FLOW)


def shares(services: list[Service], workers: int) -> list[int]:
    """One worker's share of each service's `max_connections`."""
    return [-(-service.max_connections // workers) for service in services]


def bound(services: list[Service], workers: int, room: int, fd_limit: int) -> Bound:
    """room: the flows that there are descriptors for."""
    wanted = sum(shares(services, workers))
    short = room < wanted
    return Bound(
        max_flows=min(wanted, room),
        fd_ceiling=fd_limit - SPARE_FDS // 2,
        sheds=services[0].limits.overload == "shed",
        shed_counter="shed_descriptors_total" if short else "shed_full_total",
    )
