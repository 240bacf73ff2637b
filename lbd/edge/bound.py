"""How many flows fit into a worker, and what becomes of one more.

Lives here: the arithmetic of flows and descriptors, pure. Never here: accepting (`lbd.listener`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from config.schema import Service

SPARE_FDS: Final = 8
"""Descriptors kept for what is no flow: a log, a name lookup, an interpreter's import."""
_FDS_A_FLOW: Final = 2


@dataclass(frozen=True)
class Bound:
    """Of one listen address in one worker.

    max_flows: at once, of those `wanted`. fd_ceiling: a connection whose descriptor is not below is
    turned away; the kernel gives the lowest that is free, so as many are in use. sheds: one more is
    reset instead of left waiting, and `shed_counter` counts it.
    """

    max_flows: int
    wanted: int
    fd_ceiling: int
    sheds: bool
    shed_counter: str


@dataclass(frozen=True)
class Room:
    """flows: as many as a service may have for its part. fd_limit: of the process."""

    flows: int
    fd_limit: int

    @classmethod
    def of(cls, fd_limit: int, fds_open: int, services: int) -> Room:
        """What fits beside `fds_open`, with two descriptors a flow; at least one flow a service.

        Accepting a connection for which there is no second descriptor would mean to drop it.
        """
        possible = (fd_limit - fds_open - SPARE_FDS) // _FDS_A_FLOW
        return cls(max(1, possible // services), fd_limit)


def shares(services: Sequence[Service], workers: int) -> list[int]:
    """One worker's share of each service's `max_connections`."""
    return [-(-service.max_connections // workers) for service in services]


def bound(services: Sequence[Service], workers: int, room: Room) -> Bound:
    wanted = sum(shares(services, workers))
    possible = room.flows * len(services)
    short = possible < wanted
    return Bound(
        max_flows=min(wanted, possible),
        wanted=wanted,
        fd_ceiling=room.fd_limit - SPARE_FDS // 2,
        sheds=services[0].limits.overload == "shed",
        shed_counter="shed_descriptors_total" if short else "shed_full_total",
    )
