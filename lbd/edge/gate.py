"""The way from accept to a service: PROXY header, limits of the source, the server's name.

Lives here: the order of these, and every reason to refuse. Never here: accepting (`lbd.listener`),
bytes of a protocol (`lbd.wire`), the flow (`lbd.service`).

    accepted ► trusted? ► PROXY header ► limits a source ► ClientHello ► service
                                each refusal is a reset, with a counter of its own
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic_ns
from typing import Any, Final

from lbd.edge.arrival import Arrival
from lbd.edge.handover import Handover
from lbd.edge.networks import Networks
from lbd.edge.preface import Preface
from lbd.edge.router import Router
from lbd.edge.sources import UNTRACKED, Sources, Verdict
from lbd.poller import Poller
from lbd.relay import Relay, reset
from lbd.service import Service
from lbd.wire import client_hello, proxy
from lbd.wire.client_hello import ClientHello
from lbd.wire.endpoint import Endpoint
from lbd.wire.malformed import Malformed, TooLong
from lbd.wire.proxied import Proxied

_READS_HELLO: Final = frozenset(("authority", "alpn"))


class Gate:
    """Of one listen address in one worker. The first of `services` counts what is refused before
    the service is known. max_flows, handovers: one a service. `on_room()` is called when a
    connection of any of them has ended.
    """

    def __init__(
        self,
        services: Sequence[Service],
        handovers: Sequence[Handover],
        max_flows: Sequence[int],
        sources: Sources | None,
        poller: Poller,
    ) -> None:
        self.held: set[Preface[Any]] = set()
        self._services = services
        self._places = list(zip(services, handovers, strict=True))
        self.limit(max_flows)
        self._sources = sources
        self._poller = poller
        self._count = services[0].block.count
        config = services[0].config
        proxy_in = config.proxy_in
        self._trusted = Networks(proxy_in.trust) if proxy_in is not None else None
        self._refuses_others = proxy_in is not None and proxy_in.others == "refuse"
        self._preface_ns = config.limits.preface_ms * 1_000_000
        self._router = Router((place[0].config.sni, place) for place in self._places)
        self._reads_hello = any(_reads_hello(service) for service in services)
        self.on_room: Callable[[], None] = _nobody_waits
        for service in services:
            service.on_end = partial(self._flow_ended, service)

    def limit(self, max_flows: Sequence[int]) -> None:
        """Other bounds, one a service."""
        self._most = dict(zip(self._services, max_flows, strict=True))

    def _flow_ended(self, service: Service, relay: Relay) -> None:
        service.relays.discard(relay)
        service.serve_queue()
        assert relay.arrival is not None
        relay.arrival.ended(relay.flow.slot, monotonic_ns())
        self.on_room()

    def occupied(self) -> int:
        """Connections of this address, flows or not yet."""
        return sum(service.connections() for service in self._services) + len(self.held)

    def admit(self, client: socket.socket, peer: object) -> None:
        """Take an accepted connection."""
        arrival = Arrival(client, Endpoint.of(client.family, peer))
        if self._trusted is None:
            self._enter(arrival)
        elif arrival.source in self._trusted:
            self._await(arrival, proxy.parse, proxy.MAX_HEADER_BYTES, self._introduced)
        elif self._refuses_others:
            self._refuse(arrival, "proxy_untrusted_total")
        else:
            self._enter(arrival)

    def _enter(self, arrival: Arrival) -> None:
        """Its source is known now."""
        if self._sources is not None:
            place = self._sources.admit(arrival.source, monotonic_ns())
            if isinstance(place, Verdict):
                self._refuse(arrival, place.value)
                return
            arrival.place = place
            if place == UNTRACKED:
                self._count("source_untracked_total")
        if self._reads_hello:
            self._await(arrival, client_hello.parse, client_hello.MAX_BYTES, self._greeted)
        else:
            self._give(arrival, *self._places[0])

    def _route(self, arrival: Arrival, hello: ClientHello | None) -> None:
        """Its ClientHello is known now; None if it began with something else."""
        arrival.hello = hello
        place = self._router.find(hello.server_name if hello is not None else None)
        if place is None:
            self._refuse(arrival, "sni_unknown_total" if hello else "hello_malformed_total")
        else:
            self._give(arrival, *place)

    def _give(self, arrival: Arrival, service: Service, handover: Handover) -> None:
        if service.connections() >= self._most[service]:
            # The address as a whole had room when it accepted, but not the service that it is for.
            service.block.count("shed_full_total")
            self._turn_away(arrival)
            return
        arrival.handover = handover
        service.open(arrival.client, arrival.peer, arrival)

    # -- waiting

    def _await(self, arrival: Arrival, parse: Any, limit: int, on_end: Any) -> None:
        preface = Preface(self._poller, arrival, parse, limit, on_end, monotonic_ns())
        self.held.add(preface)
        preface.start()

    def _introduced(self, preface: Preface[Proxied], found: Proxied | Malformed | None) -> None:
        self.held.discard(preface)
        arrival = preface.arrival
        if found is None:
            self._refuse(arrival, "preface_closed_total")
        elif isinstance(found, TooLong):
            self._refuse(arrival, "proxy_oversized_total")
        elif isinstance(found, Malformed):
            self._refuse(arrival, "proxy_malformed_total")
        else:
            # It was only looked at so far; what comes after it is the client's.
            arrival.client.recv(found.size)
            arrival.introduce(found)
            self._enter(arrival)

    def _greeted(
        self, preface: Preface[ClientHello], found: ClientHello | Malformed | None
    ) -> None:
        self.held.discard(preface)
        if found is None:
            self._refuse(preface.arrival, "preface_closed_total")
        else:
            self._route(preface.arrival, None if isinstance(found, Malformed) else found)

    def check(self, now_ns: int) -> None:
        """Refuse who takes too long."""
        for preface in list(self.held):
            if now_ns - preface.since_ns > self._preface_ns:
                self._drop(preface, "preface_timeout_total")

    def check_every_s(self) -> float:
        return self._preface_ns * 1e-9 / 4

    def shut(self) -> None:
        """Refuse everybody who is still on the way."""
        for preface in list(self.held):
            self._drop(preface, "preface_closed_total")

    def _drop(self, preface: Preface[Any], counter: str) -> None:
        preface.give_up()
        self.held.discard(preface)
        self._refuse(preface.arrival, counter)

    # -- refusing

    def _refuse(self, arrival: Arrival, counter: str) -> None:
        self._count(counter)
        self._turn_away(arrival)

    def _turn_away(self, arrival: Arrival) -> None:
        if self._sources is not None:
            self._sources.leave(arrival.place)
        reset(arrival.client)
        self._poller.close_socket(arrival.client)
        self.on_room()


def _nobody_waits() -> None:
    pass


def _reads_hello(service: Service) -> bool:
    config = service.config
    out = config.proxy_out
    return bool(config.sni) or (out is not None and not _READS_HELLO.isdisjoint(out.tlvs))
