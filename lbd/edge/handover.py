"""What one service does with an arrival beside balancing it: remembered backend, PROXY header.

Lives here: both, from the choice of a backend to the end of the flow. Never here: sockets beyond
asking for an address; the choice itself (`lbd.dispatch`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Container
from typing import Final

from config.edges import ProxyOut
from lbd.dispatch import NONE
from lbd.edge.arrival import Arrival
from lbd.edge.sources import Sources
from lbd.edge.stick import Stick
from lbd.wire import proxy_v1, proxy_v2, tlv
from lbd.wire.endpoint import Endpoint
from lbd.wire.tlv import Tlv

_UNIQUE_BYTES: Final = 16
_OURS: Final = frozenset((tlv.AUTHORITY, tlv.ALPN, tlv.UNIQUE_ID))
"""Vectors that are made here: where one is, a received one of the kind is not handed on."""


class Handover:
    """count: of the service's counters."""

    def __init__(
        self,
        proxy_out: ProxyOut | None,
        stick: Stick | None,
        sources: Sources | None,
        count: Callable[[str], None],
    ) -> None:
        self._proxy_out = proxy_out
        self._stick = stick
        self._sources = sources
        self._count = count

    def recall(self, arrival: Arrival, usable: Container[int], now_ns: int) -> int:
        """The slot where the client was before; NONE for the policy to choose."""
        if self._stick is None:
            return NONE
        arrival.stick_key = self._stick.key(arrival.source)
        if arrival.stick_key is None:
            return NONE
        arrival.recalled = self._stick.recall(arrival.stick_key, usable, now_ns)
        return arrival.recalled

    def given(self, arrival: Arrival, slot: int, now_ns: int) -> None:
        """A flow to `slot` begins."""
        if slot == arrival.recalled:
            self._count("stick_hits_total")
        self.moved(arrival, slot, now_ns)
        if self._proxy_out is not None:
            arrival.greeting = greeting(self._proxy_out, arrival, self._local(arrival))

    def moved(self, arrival: Arrival, slot: int, now_ns: int) -> None:
        """It goes on at `slot`."""
        if self._stick is not None and arrival.stick_key is not None:
            self._lost(self._stick.remember(arrival.stick_key, slot, now_ns))

    def ended(self, arrival: Arrival, slot: int, now_ns: int) -> None:
        """It is over, or with NONE never began."""
        if slot != NONE and self._stick is not None and arrival.stick_key is not None:
            self._lost(self._stick.prolong(arrival.stick_key, slot, now_ns))
        if self._sources is not None:
            self._sources.leave(arrival.place)

    def _lost(self, another: bool) -> None:
        if another:
            self._count("stick_forgotten_total")

    def _local(self, arrival: Arrival) -> Endpoint:
        if arrival.destination is not None:
            return arrival.destination
        client = arrival.client
        return Endpoint.of(client.family, client.getsockname())


def greeting(config: ProxyOut, arrival: Arrival, destination: Endpoint) -> bytes:
    """The PROXY header for a backend."""
    if config.version == 1:
        return proxy_v1.build(arrival.source, destination)
    made = _vectors(config.tlvs, arrival)
    checksum = "crc32c" in config.tlvs
    try:
        return proxy_v2.build(arrival.source, destination, made, checksum)
    except ValueError:
        # What came in was just within the bound; with what is added to it, it no longer is.
        made = [vector for vector in made if vector not in arrival.tlvs]
        return proxy_v2.build(arrival.source, destination, made, checksum)


def _vectors(wanted: Collection[str], arrival: Arrival) -> list[Tlv]:
    hello = arrival.hello
    made = []
    if "authority" in wanted and hello is not None and hello.server_name is not None:
        made.append(Tlv(tlv.AUTHORITY, hello.server_name.encode()))
    if "alpn" in wanted and hello is not None and hello.alpn:
        # One protocol is what the vector holds: the one the client likes best.
        made.append(Tlv(tlv.ALPN, hello.alpn[0]))
    if "unique_id" in wanted:
        made.append(Tlv(tlv.UNIQUE_ID, secrets.token_bytes(_UNIQUE_BYTES)))
    if "received" in wanted:
        kinds = {vector.type for vector in made} & _OURS
        made += [vector for vector in arrival.tlvs if vector.type not in kinds]
    return made
