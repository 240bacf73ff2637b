"""One listen address in one worker: its services, the gate before them, what listens.

Lives here: what of these is done together. Never here: accepting (`lbd.listener`), datagrams
(`lbd.udp.sessions`), refusing (`lbd.edge.gate`), a flow (`lbd.service`).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from math import inf

from lbd.edge.bound import Room, bound, shares
from lbd.edge.fronts import GateMaker
from lbd.listener import Listener
from lbd.poller import Poller
from lbd.service import Service
from lbd.udp.sessions import Sessions

log = logging.getLogger(__name__)


class Front:
    """room: what there are descriptors for."""

    def __init__(
        self,
        services: Sequence[Service],
        sockets: Sequence[socket.socket],
        gates: GateMaker,
        room: Room,
        workers: int,
        poller: Poller,
    ) -> None:
        self._services = services
        self._room = room
        configs = [service.config for service in services]
        self._gate = gates.make(services, shares(configs, workers))
        limit = bound(configs, workers, room)
        self._listener: Listener | Sessions
        if configs[0].listen.kind == "udp":
            self._listener = Sessions(services[0], sockets, poller, limit)
        else:
            self._listener = Listener(services[0], sockets, poller, limit, self._gate)
        self._warn()

    def limit(self, workers: int) -> None:
        """Other bounds, from the next connection on."""
        configs = [service.config for service in self._services]
        if self._gate is not None:
            self._gate.limit(shares(configs, workers))
        self._listener.limit(bound(configs, workers, self._room))
        self._warn()

    def _warn(self) -> None:
        found = self._listener.bound
        if found.max_flows < found.wanted:
            log.warning(
                "service %s: descriptors for %d flows, not %d (see `ulimit -n`)",
                ", ".join(service.config.name for service in self._services),
                found.max_flows,
                found.wanted,
            )

    def resume(self) -> None:
        self._listener.resume()

    def check(self, now_ns: int) -> None:
        if self._gate is not None:
            self._gate.check(now_ns)

    def check_every_s(self) -> float:
        return self._gate.check_every_s() if self._gate is not None else inf

    @property
    def empty(self) -> bool:
        """Whether nobody is on the way to a service."""
        return self._gate is None or not self._gate.held

    def close(self) -> None:
        """Accept no more; who is on the way may go on."""
        self._listener.close()

    def shut(self) -> None:
        if self._gate is not None:
            self._gate.shut()
